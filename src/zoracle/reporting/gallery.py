"""Pictures of an attack: the images, the model's predictions, and the cost of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle.objectives.attack import ImageAttack
from zoracle.results.result import Result
from zoracle.rollout.once import once
from zoracle.rollout.oracle import Oracle
from zoracle.tasks.base import Pictures

#: How many problems a report draws.
SHOWN = 8

_FORMAT = "zoracle-pictures-4"

#: How many of them are failures, where an attack has so many.
FAILED = 3


class Outcome(NamedTuple):
    """Where one optimizer ended, or its best point, on the K problems that are drawn, under the first seed."""

    adversarial: Tensor
    """(K, C, H, W) the clipped images."""
    predicted: Tensor
    """(K,) int64."""
    success: Tensor
    """(K,) bool, that point succeeds."""
    first_success: Tensor
    """(K,) int64, points evaluated up to and including the first that succeeded; -1 for none."""
    l1: Tensor
    """(K,), likewise l2 and linf: distances from the original."""
    l2: Tensor
    linf: Tensor


class Gallery(NamedTuple):
    """K problems of an attack."""

    ids: list[int]
    seed: int
    originals: Tensor
    """(K, C, H, W) in [0, 1]."""
    labels: Tensor
    """(K,) int64."""
    class_names: tuple[str, ...]
    predicted: Tensor
    """(K,) int64, what the model says of the originals."""
    outcomes: dict[str, Outcome]
    queries: int
    """Points evaluated to know the predictions, apart from everything else that is counted."""
    best: bool
    """Whether the adversarial examples and the best failed ones are drawn, instead of the last iterates."""
    lost: int
    """Points requested again because an interruption lost their answers; in no other count."""

    def class_name(self, index: int) -> str:
        """The name of a class, or its number where it has none."""
        return self.class_names[index] if 0 <= index < len(self.class_names) else str(index)


def make_gallery(
    objective: ImageAttack,
    pictures: Pictures,
    results: Mapping[str, Result],
    rows: Tensor,
    *,
    best: bool = False,
    keep: Path | None = None,
    fingerprint: dict[str, Any] | None = None,
) -> Gallery:
    """Ask the model what it sees in some problems before and after each attack.

    Args:
        objective: the attack on all problems of the results.
        pictures: the images of those to draw.
        results: of each optimizer, by label; the first seed is drawn.
        rows: (K,) which problems to draw.
        best: draw the adversarial examples, and the best failed ones, instead of the last iterates.
        keep: a file for the classes, so that drawing again costs no query; each is noted beside it as it comes.
        fingerprint: what that file belongs to.

    Raises:
        CheckpointError: the kept file belongs to another run.
    """
    k = rows.shape[0]
    points = {label: (best_points(r) if best else r.final_point)[0, rows] for label, r in results.items()}
    like = next(iter(points.values()))
    asked = [torch.zeros_like(like), *points.values()]
    classes, lost = _predictions(
        objective, asked, rows, keep, {"labels": list(points), "best": best, **(fingerprint or {})}
    )
    first = next(iter(results.values()))
    outcomes = {}
    for (label, result), predicted in zip(results.items(), classes[1:], strict=True):
        distances = objective.distances(points[label], rows)
        outcomes[label] = Outcome(
            adversarial=objective.adversarial(points[label], rows).cpu().float().nan_to_num(),
            predicted=predicted,
            success=(result.success_ever if best else result.final_success)[0, rows],
            first_success=result.first_success[0, rows],
            l1=distances["l1"].cpu(),
            l2=distances["l2"].cpu(),
            linf=distances["linf"].cpu(),
        )
    return Gallery(
        ids=first.ids[0, rows].tolist(),
        seed=int(first.seed[0, 0]),
        originals=pictures.images.float(),
        labels=pictures.labels,
        class_names=pictures.class_names,
        predicted=classes[0],
        outcomes=outcomes,
        queries=k * len(asked),
        best=best,
        lost=lost,
    )


def best_points(result: Result) -> Tensor:
    """(S, P, d) the success with the lowest loss of each problem, the best failed point where there is none."""
    return torch.where(result.success_ever.unsqueeze(2), result.success_point, result.best_point)


def drawn(result: Result, attack: bool) -> Tensor:
    """Which problems are drawn: the first ones; of an attack some that were broken and some that were not."""
    rows = torch.arange(result.ids.shape[1])
    if not attack or not bool(result.attacked[0].any()):
        return rows[:SHOWN]
    attacked, broken = result.attacked[0], result.success_ever[0]
    failed = rows[attacked & ~broken]
    won = rows[attacked & broken]
    failed = failed[: max(FAILED, SHOWN - won.numel())]
    return torch.cat((won[: SHOWN - failed.numel()], failed)).sort().values


def _predictions(
    objective: ImageAttack, points: Sequence[Tensor], rows: Tensor, keep: Path | None, fingerprint: dict[str, Any]
) -> tuple[list[Tensor], int]:
    """The predicted classes of each of some lists of points, and how many points were lost on the way."""
    oracle = Oracle(objective)

    def ask() -> dict[str, Tensor]:
        return {f"classes.{i}": oracle.predict(some, rows) for i, some in enumerate(points)}

    tensors, lost = once(oracle, ask, keep, _FORMAT, fingerprint)
    return [tensors[f"classes.{i}"] for i in range(len(points))], lost
