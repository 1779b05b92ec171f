"""The result of a shard in numbers: the end, the best point and the cost of each problem."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle.evaluation.shards import Shard
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer
from zoracle.results.result import Result
from zoracle.rollout.oracle import Oracle
from zoracle.types import Purpose, StopReason, Trajectory


class _Points(NamedTuple):
    """Losses (P,) float64 and points (P, d) of a result."""

    initial: Tensor
    """Loss of the start."""
    final: Tensor
    """Loss of the last iterate."""
    x: Tensor
    """The last iterate."""
    final_success: Tensor
    """(P,) bool, whether it succeeds."""
    best_loss: Tensor
    best_point: Tensor
    success_point: Tensor


def outcome(
    optimizer: Optimizer[Any, Any], oracle: Oracle, x0: Tensor, trajectory: Trajectory, shard: Shard, seconds: float
) -> Result:
    """The result of a shard (S = 1); evaluations for the report are counted as monitoring.

    Args:
        optimizer: the optimizer of the run.
        oracle: the oracle of the run.
        x0: (P, d) the starting points.
        trajectory: the trajectory of the run.
        shard: its problems and seed.
        seconds: wall-clock time of the run.
    """
    spec, objective, steps = shard.spec, oracle.objective, shard.steps
    points = _points(optimizer, oracle, x0, trajectory, bool(spec.stop_on_success))
    succeeded = trajectory.first_success > 0
    success_ever = points.final_success | succeeded
    first = points.initial.nan_to_num(nan=torch.inf).unsqueeze(0)
    best = torch.cat((first, trajectory.best.double())).cummin(0).values
    best[-1] = points.best_loss
    spent = torch.cat((trajectory.checked.long().unsqueeze(0), trajectory.queries))
    known = any(oracle.knows.values())
    whole = steps * optimizer.queries_per_step + int(spec.check_start) if oracle.budget is None else oracle.budget
    found = torch.where(success_ever.unsqueeze(1), points.success_point, points.best_point)
    measured = found if objective.ends_at_success else points.x
    distances = _distances(objective, measured.to(x0), torch.arange(len(shard.ids)))

    def same(value: int | bool | float) -> Tensor:
        return torch.full((len(shard.ids),), value, dtype=torch.float64 if isinstance(value, float) else None)

    one = Result(
        seed=same(shard.seed),
        ids=torch.tensor(shard.ids),
        losses=_losses(trajectory, points.initial, points.final, steps).T,
        best=best.T,
        queries=spent.T,
        steps=trajectory.steps,
        reason=trajectory.reason,
        allowance=same(whole),
        monitored=oracle.counts[Purpose.MONITOR].clone(),
        lost=torch.zeros_like(trajectory.steps) if oracle.journal is None else oracle.journal.lost.clone(),
        success_known=same(known),
        first_known=same(known and optimizer.order == 0),
        misclassified=trajectory.checked & trajectory.start_success,
        final_success=points.final_success,
        success_ever=success_ever,
        first_success=trajectory.first_success,
        non_finite=trajectory.non_finite,
        final_point=points.x,
        best_point=points.best_point,
        success_point=points.success_point,
        l1=distances["l1"],
        l2=distances["l2"],
        linf=distances["linf"],
        seconds=same(float(seconds / len(shard.ids))),
    )
    return Result(*(leaf.unsqueeze(0) for leaf in one))


def _points(
    optimizer: Optimizer[Any, Any], oracle: Oracle, x0: Tensor, trajectory: Trajectory, stop_on_success: bool
) -> _Points:
    """Start, end and best point of each problem."""
    objective = oracle.objective
    rows = torch.arange(x0.shape[0])

    def monitor(points: Tensor) -> Tensor:
        loss = oracle.evaluate(points.to(x0).unsqueeze(1), rows, purpose=Purpose.MONITOR).loss
        return loss[:, 0].double().cpu()

    # Who stopped at a success ends there, and not at an iterate that nobody evaluated. Where that is what runs are
    # for, the others end at their best failed point, and nothing is evaluated that no budget paid for.
    stopped = trajectory.reason == StopReason.SUCCESS
    final, x = trajectory.final_loss, trajectory.final_point
    if stop_on_success:
        final, x = trajectory.best_loss.where(trajectory.best_loss.isfinite(), torch.nan), trajectory.best_point
        stopped = trajectory.first_success > 0
    final = torch.where(stopped, trajectory.success_loss, final).double()
    x = torch.where(stopped.unsqueeze(1), trajectory.success_point, x)
    final_success = trajectory.final_success | stopped
    initial = _initial(optimizer, objective, trajectory)
    if initial is None:
        initial = monitor(x0)
    best = trajectory.best_loss.double()
    if objective.stochastic:
        best = monitor(trajectory.best_point).nan_to_num(nan=torch.inf)
    best_loss, best_point = _lower(best, trajectory.best_point, initial, x0)
    best_loss, best_point = _lower(best_loss, best_point, final, x)
    on_success = torch.where(final_success, final, torch.nan)
    _, success_point = _lower(trajectory.success_loss.double(), trajectory.success_point, on_success, x)
    return _Points(initial, final, x, final_success, best_loss, best_point, success_point)


def _initial(optimizer: Optimizer[Any, Any], objective: Objective, trajectory: Trajectory) -> Tensor | None:
    """(P,) loss at the start as the run observed it: at the first iterate or in the check; None if not observed.

    For a stochastic objective it includes noise.
    """
    if objective.stochastic or not (optimizer.evaluates_iterate or bool(trajectory.checked.all())):
        return None
    seen = (trajectory.steps > 0) & optimizer.evaluates_iterate
    return torch.where(seen, trajectory.loss[0], trajectory.start_loss).double()


def _losses(trajectory: Trajectory, initial: Tensor, final: Tensor, steps: int) -> Tensor:
    """(T + 1, P) loss of every iterate; a stopped problem repeats its last one."""
    losses = torch.cat((trajectory.loss.double(), final.unsqueeze(0)))
    after = torch.arange(steps + 1).unsqueeze(1) >= trajectory.steps
    losses = torch.where(after, final, losses)
    losses[0] = initial
    return losses


def _lower(loss: Tensor, point: Tensor, other: Tensor, other_point: Tensor) -> tuple[Tensor, Tensor]:
    """The lower of two losses (P,), and its point; one that is not finite is never the lower."""
    better = other.nan_to_num(nan=torch.inf) < loss
    return torch.where(better, other, loss), torch.where(better.unsqueeze(1), other_point.detach().cpu(), point)


def _distances(objective: Objective, x: Tensor, rows: Tensor) -> dict[str, Tensor]:
    measure = getattr(objective, "distances", None)  # attacks define it; it makes no query
    if measure is None:
        return {name: torch.full((x.shape[0],), torch.nan, dtype=torch.float64) for name in ("l1", "l2", "linf")}
    return {name: value.double().cpu() for name, value in measure(x, rows).items()}
