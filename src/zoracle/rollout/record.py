"""Writing of a rollout's trajectory: the record of each step, its cost, and the reasons for stopping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoracle.types import Evaluation, Queries, StopReason, Trajectory

#: A step of so many points without a finite value ends a problem. Where a step has fewer, it takes so many values, at
#: least half of all that were asked for.
_MANY, _HOPELESS = 4, 20


def blank(steps: int, x: Tensor) -> Trajectory:
    """The trajectory of B problems at x (B, d) that have not begun, with room for this many steps."""
    b = x.shape[0]
    x = x.detach().cpu()
    infinite = x.new_full((b,), torch.inf)
    zero = torch.zeros(b, dtype=torch.int64)
    return Trajectory(
        loss=x.new_full((steps, b), torch.nan),
        best=x.new_full((steps, b), torch.inf),
        queries=torch.zeros((steps, b), dtype=torch.int64),
        steps=zero.clone(),
        reason=zero.clone(),
        final_point=x.clone(),
        final_known=torch.zeros(b, dtype=torch.bool),
        final_loss=x.new_full((b,), torch.nan),
        final_success=torch.zeros(b, dtype=torch.bool),
        best_loss=infinite.clone(),
        best_point=x.clone(),
        success_loss=infinite.clone(),
        success_point=x.clone(),
        checked=torch.zeros(b, dtype=torch.bool),
        start_loss=x.new_full((b,), torch.nan),
        start_success=torch.zeros(b, dtype=torch.bool),
        first_success=zero - 1,
        non_finite=zero.clone(),
        start_point=x.clone(),
        noise=x.new_full((b,), torch.nan),
        mu=x.new_full((b,), torch.nan),
        signal=x.new_full((b,), torch.nan),
        chosen=zero.clone(),
    )


def longer(trajectory: Trajectory, steps: int) -> Trajectory:
    """The trajectory with room for this many steps; the same tensors if the room suffices."""
    have = trajectory.loss.shape[0]
    if have >= steps:
        return trajectory
    more = steps - have
    b = trajectory.steps.shape[0]
    last = trajectory.total_queries.expand(more, b)
    best = trajectory.best_loss.expand(more, b)
    return trajectory._replace(
        loss=torch.cat((trajectory.loss, trajectory.loss.new_full((more, b), torch.nan))),
        best=torch.cat((trajectory.best, best)),
        queries=torch.cat((trajectory.queries, last)),
    )


def note_step(record: Trajectory, live: Tensor, queries: Queries, evaluation: Evaluation, has_base: bool) -> None:
    """Record a step of live problems (L,): queries, answers, and the best point.

    Args:
        record: trajectory of all problems.
        live: (L,) problems that took the step.
        queries: their queries.
        evaluation: the answers.
        has_base: whether the first point of a step is the iterate.
    """
    loss = evaluation.loss.detach().cpu()
    points = queries.points.detach()
    m = loss.shape[1]
    row = record.steps[live]
    # Rows of steps not taken yet hold what was paid so far, a lost call or an earlier last iterate included.
    before = record.queries[row, live]
    if has_base:
        record.loss[row, live] = loss[:, 0].to(record.loss.dtype)
    record.non_finite[live] += (~loss.isfinite()).sum(1)

    _keep_best(record.best_loss, record.best_point, live, loss, points)
    if evaluation.success is not None:
        success = evaluation.success.cpu()
        if has_base:
            first_step = (row == 0) & ~record.checked[live]
            record.start_success[live[first_step]] = success[first_step, 0]
        first = before + success.int().argmax(1) + 1
        new = success.any(1) & (record.first_success[live] < 0)
        record.first_success[live[new]] = first[new]
        _keep_best(record.success_loss, record.success_point, live, loss.masked_fill(~success, torch.nan), points)
    record.steps[live] = row + 1
    # The next row begins with what there is; those after it wait until the problem stops, so that a step costs the
    # same however many there are.
    for at in (row, (row + 1).clamp(max=record.queries.shape[0] - 1)):
        record.queries[at, live] = before + m
        record.best[at, live] = record.best_loss[live]


def note_reasons(
    record: Trajectory, live: Tensor, evaluation: Evaluation, on_success: bool, target: float | None
) -> None:
    """Record which live problems (L,) stop now: without finite values, at the target, or at a success."""
    dead = evaluation.loss.isnan().all(1).cpu()
    if evaluation.loss.shape[1] < _MANY:
        # A single failed point says nothing about the next; a series of them does.
        lost, asked = record.non_finite[live], record.total_queries[live]
        dead &= (lost >= _HOPELESS) & (2 * lost >= asked)
    record.reason[live[dead]] = StopReason.NON_FINITE
    if target is not None:
        record.reason[live[record.best_loss[live] <= target]] = StopReason.TARGET
    if on_success:
        record.reason[live[record.first_success[live] > 0]] = StopReason.SUCCESS


def settle(record: Trajectory, rows: Tensor) -> None:
    """Rows of steps that problems (K,) will not take repeat the last value."""
    later = torch.arange(record.queries.shape[0]).unsqueeze(1) >= record.steps[rows]
    record.queries[:, rows] = torch.where(later, record.total_queries[rows], record.queries[:, rows])
    record.best[:, rows] = torch.where(later, record.best_loss[rows], record.best[:, rows])


def paid_for(record: Trajectory, rows: Tensor, evaluation: Evaluation, x: Tensor) -> None:
    """Record points outside steps that were charged to the budget, a start or a last iterate, like any other."""
    loss = evaluation.loss.cpu()
    _keep_best(record.best_loss, record.best_point, rows, loss, x)
    record.non_finite[rows] += (~loss.isfinite()).sum(1)
    total = record.total_queries[rows] + loss.shape[1]
    if evaluation.success is not None:
        success = evaluation.success.cpu()
        new = success[:, 0] & (record.first_success[rows] < 0)
        record.first_success[rows[new]] = total[new]
        _keep_best(record.success_loss, record.success_point, rows, loss.masked_fill(~success, torch.nan), x)
    room = record.queries.shape[0]
    if room:
        later = torch.arange(room).unsqueeze(1) >= record.steps[rows].clamp(max=room - 1)
        record.queries[:, rows] = torch.where(later, total, record.queries[:, rows])
        record.best[:, rows] = torch.where(later, record.best_loss[rows], record.best[:, rows])


def more_paid(record: Trajectory, rows: Tensor, points: int) -> None:
    """Add to the number of points paid for outside steps."""
    room = record.queries.shape[0]
    if room:
        later = torch.arange(room).unsqueeze(1) >= record.steps[rows].clamp(max=room - 1)
        record.queries[:, rows] += torch.where(later, points, 0)


def iterates(state: Any, which: Tensor) -> Tensor:
    """The iterates of some problems, on the CPU."""
    x: Tensor = state.x.detach()
    return x[which.to(x.device)].cpu()


def _keep_best(best: Tensor, point: Tensor, live: Tensor, loss: Tensor, points: Tensor) -> None:
    lowest, where = loss.nan_to_num(nan=torch.inf).min(1)
    better = lowest < best[live]
    if bool(better.any()):
        rows = better.nonzero().squeeze(1)
        best[live[rows]] = lowest[rows].to(best.dtype)
        chosen = points[rows.to(points.device), where[rows].to(points.device)]
        point[live[rows]] = chosen.cpu().to(point.dtype)
