"""Several attacks on the same images as one: run one after the other, each image's worst case counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoracle.results.result import Result
from zoracle.types import StopReason


def union(stages: Sequence[Result], distances: Sequence[Tensor]) -> Result:
    """The attacks as one that makes all their steps, in this order.

    Of each image it keeps the success nearest to the original, or else the best failed point, with all that belongs to
    it; queries add up. Images that an attack left out wait meanwhile.

    Args:
        stages: the results, (S, P) each.
        distances: (S, P) of each, how far its success lies from the original.
    """
    success = torch.stack([stage.success_ever & ~stage.misclassified for stage in stages])
    loss = torch.stack([torch.where(stage.attacked, stage.best[..., -1], torch.inf) for stage in stages])
    far = torch.stack([one.double() for one in distances]).masked_fill(~success, torch.inf)
    chosen = torch.where(success.any(0), far.argmin(0), loss.nan_to_num(nan=torch.inf).argmin(0))

    def kept(name: str) -> Tensor:
        leaves = torch.stack([getattr(stage, name) for stage in stages])
        index = chosen.view(1, *chosen.shape, *(1,) * (leaves.ndim - 3)).expand(1, *leaves.shape[1:])
        return leaves.gather(0, index).squeeze(0)

    def added(name: str) -> Tensor:
        return torch.stack([getattr(stage, name) for stage in stages]).sum(0)

    losses, best, queries, first = _in_turn(stages)
    ends = torch.stack([stage.losses[..., -1] for stage in stages])
    losses[..., -1] = ends.gather(0, chosen.unsqueeze(0)).squeeze(0)
    wrong = torch.stack([stage.misclassified for stage in stages]).any(0)
    summed = ("steps", "allowance", "monitored", "lost", "non_finite", "seconds")
    return stages[0]._replace(
        losses=losses,
        best=best,
        queries=queries,
        reason=torch.where(success.any(0), kept("reason"), _last_reason(stages)),
        misclassified=wrong,
        success_known=torch.stack([stage.success_known for stage in stages]).all(0),
        first_known=torch.stack([stage.first_known for stage in stages]).all(0),
        final_success=kept("final_success"),
        success_ever=success.any(0) | wrong,
        first_success=first,
        **{name: kept(name) for name in ("final_point", "best_point", "success_point", "l1", "l2", "linf")},
        **{name: added(name) for name in summed},
    )


def _in_turn(stages: Sequence[Result]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, best losses and queries, one stage's columns behind the other's, and the queries to the first success."""
    spent = torch.zeros_like(stages[0].spent)
    first = torch.full_like(spent, -1)
    losses: list[Tensor] = []
    best: list[Tensor] = []
    queries: list[Tensor] = []
    for stage in stages:
        waits = (stage.spent == 0).unsqueeze(2)
        losses.append(torch.where(waits & bool(losses), losses[-1][..., -1:] if losses else stage.losses, stage.losses))
        best.append(stage.best)
        queries.append(spent.unsqueeze(2) + stage.queries)
        new = (first < 0) & (stage.first_success > 0)
        first = torch.where(new, spent + stage.first_success, first)
        spent = spent + stage.spent
    return torch.cat(losses, 2), torch.cat(best, 2).cummin(2).values, torch.cat(queries, 2), first


def _last_reason(stages: Sequence[Result]) -> Tensor:
    """(S, P) why the last attack of each image stopped."""
    reason = stages[0].reason
    for stage in stages[1:]:
        reason = torch.where(stage.reason == StopReason.LEFT_OUT, reason, stage.reason)
    return reason


def left_out(ids: Sequence[int], seed: int, like: Tensor, steps: int, allowance: int, misclassified: Tensor) -> Result:
    """The result (S = 1) of an attack that no image was left for.

    Args:
        ids: of the images.
        seed: of the repeat.
        like: (P, d) points that stand where there are none: no query was made for them.
        steps: T.
        allowance: what it might have spent on an image.
        misclassified: (P,) bool, images that were wrong already.
    """
    p = len(ids)

    def whole(value: int) -> Tensor:
        return torch.full((1, p), value, dtype=torch.int64)

    missing = torch.full((1, p), torch.nan, dtype=torch.float64)
    known = torch.ones(1, p, dtype=torch.bool)
    wrong = misclassified.unsqueeze(0)
    nothing = missing.unsqueeze(2).expand(1, p, steps + 1)
    return Result(
        seed=whole(seed),
        ids=torch.tensor([list(ids)]),
        losses=nothing.clone(),
        best=torch.full_like(nothing, torch.inf),
        queries=torch.zeros(1, p, steps + 1, dtype=torch.int64),
        steps=whole(0),
        reason=whole(StopReason.LEFT_OUT),
        allowance=whole(allowance),
        monitored=whole(0),
        lost=whole(0),
        success_known=known,
        first_known=known.clone(),
        misclassified=wrong,
        final_success=wrong.clone(),
        success_ever=wrong.clone(),
        first_success=whole(-1),
        non_finite=whole(0),
        final_point=like.unsqueeze(0).clone(),
        best_point=like.unsqueeze(0).clone(),
        success_point=like.unsqueeze(0).clone(),
        l1=missing,
        l2=missing.clone(),
        linf=missing.clone(),
        seconds=torch.zeros(1, p, dtype=torch.float64),
    )


def filled(into: Result, found: Result, rows: Tensor) -> Result:
    """A result with some of its images (K,) replaced by those of another (S, K)."""
    leaves = []
    for whole, part in zip(into, found, strict=True):
        leaf = whole.clone()
        leaf[:, rows] = part.to(leaf)
        leaves.append(leaf)
    return Result(*leaves)
