"""Evaluations of a rollout outside steps: starts, noise, and ends of problems."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from zoracle.optimizers.base import Optimizer
from zoracle.rollout import measuring
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.record import more_paid, paid_for
from zoracle.types import Choice, Evaluation, Purpose, StopReason, Trajectory

S = TypeVar("S")


def check_start(record: Trajectory, oracle: Oracle, rows: Tensor, x: Tensor, problem: Tensor) -> None:
    """Evaluate the starts x (K, d) of problems (K,); those that are already a success stop there."""
    x = x.detach()
    origin = oracle.objective.origin(problem[rows], x)
    points = (x if origin is None else origin).unsqueeze(1)
    evaluation = oracle.evaluate(points, problem[rows])
    record.checked[rows] = True
    record.start_loss[rows] = evaluation.loss[:, 0].cpu().to(record.start_loss.dtype)
    paid_for(record, rows, evaluation, points)
    if evaluation.success is not None:
        success = evaluation.success[:, 0].cpu()
        record.start_success[rows] = success
        record.reason[rows[success]] = StopReason.SUCCESS


def evaluate_final(
    record: Trajectory, oracle: Oracle, rows: Tensor, problem: Tensor, purpose: Purpose | None, device: torch.device
) -> bool:
    """Evaluate the last iterates of the problems (K,) that have one; returns whether there were any."""
    if purpose is None:
        return False
    # A run asked to stop at a success or a value has reached it: nothing more is evaluated.
    ended = (record.reason[rows] == StopReason.STEPS) | (record.reason[rows] == StopReason.BUDGET)
    wanted = ended & ~record.final_known[rows]
    if purpose is Purpose.OPTIMISE:
        wanted &= oracle.affords(problem[rows], 1)
    rows = rows[wanted]
    if rows.numel() == 0:
        return False
    points = record.final_point[rows].unsqueeze(1).to(device)
    evaluation = oracle.evaluate(points, problem[rows], purpose=purpose)
    record.final_known[rows] = True
    record.final_loss[rows] = evaluation.loss[:, 0].cpu().to(record.final_loss.dtype)
    if evaluation.success is not None:
        record.final_success[rows] = evaluation.success[:, 0].cpu()
    if purpose is Purpose.OPTIMISE:
        paid_for(record, rows, evaluation, points)
    return True


class Noise(NamedTuple):
    """The measurement at the starts of problems (K,), and its evaluated parts."""

    found: measuring.Measured
    paid: list[tuple[Tensor, Tensor, Tensor]]
    """Rows of the K, values, and points of each."""


def measure_noise(oracle: Oracle, state: Any, problem: Tensor) -> Noise:
    """Measure the noise of problems (K,) that have not begun. Records nothing, since a later call may fail."""
    paid: list[tuple[Tensor, Tensor, Tensor]] = []
    x, key = state.x.detach(), state.key
    found = measuring.measure(oracle, x, key, problem, oracle.objective.scale, lambda *part: paid.append(part))
    return Noise(found, paid)


def note_noise(record: Trajectory, optimizer: Optimizer[S, Any], rows: Tensor, state: S, noise: Noise) -> S:
    """Record the measurements of problems (K,); returns their informed state."""
    for some, values, points in noise.paid:
        paid_for(record, rows[some], Evaluation(values), points)
    found = noise.found
    for field, value in (
        ("noise", found.noise),
        ("mu", found.mu),
        ("signal", found.signal),
        ("start_loss", found.start),
    ):
        getattr(record, field)[rows] = value.cpu().to(record.noise.dtype)
    return optimizer.informed(state, found.noise, found.mu, found.start)


def kept_back(record: Trajectory, oracle: Oracle, rows: Tensor) -> Tensor | int:
    """Number of points (K,) reserved, which problems must not spend on steps."""
    if oracle.budget is None:
        return 0
    # One is for the last iterate, which is evaluated before the three are compared.
    return torch.where(record.noise[rows] > 0, 1 + 3 * measuring.repeats(oracle.budget), 0)


def settle_noise(record: Trajectory, oracle: Oracle, rows: Tensor, problem: Tensor, device: torch.device) -> bool:
    """What problems (K,) whose noise was measured are left with; whether anything was evaluated for it.

    Those that it was settled for already stay as they are.
    """
    known = record.best_loss[rows].isfinite()
    times = measuring.repeats(oracle.budget or 3000)
    noisy = known & (record.noise[rows] > 0) & (record.reason[rows] != StopReason.SUCCESS)
    noisy &= (record.chosen[rows] == Choice.LOWEST) & oracle.affords(problem[rows], 3 * times)
    some = rows[noisy]
    if some.numel():
        # In this order, so that ties prefer the last iterate to the start, and both to a point that was low by luck.
        choices = (Choice.LAST, Choice.START, Choice.REPEATED)
        points = torch.stack((record.final_point[some], record.start_point[some], record.best_point[some]), 1)
        means = measuring.compared(oracle, points.to(device), problem[some], times).cpu()
        error = record.noise[some].to(means) / math.sqrt(times)
        # The others must be lower by more than the error of their means.
        at = torch.stack((means[:, 0] - 2 * error, means[:, 1] - error, means[:, 2]), 1).argmin(1)
        each = torch.arange(some.numel())
        record.chosen[some] = torch.tensor([int(choice) for choice in choices])[at]
        record.best_loss[some] = means[each, at].to(record.best_loss.dtype)
        record.best_point[some] = points[each, at]
        record.final_loss[some] = means[:, 0].to(record.final_loss.dtype)
        record.start_loss[some] = means[:, 1].to(record.start_loss.dtype)
        more_paid(record, some, 3 * times)
    # A run should not continue from an iterate above the start.
    start, last = record.start_loss[rows], record.final_loss[rows]
    if record.loss.shape[0]:
        # What the steps saw stands in for what nobody paid for: the first iterate, and the one before the last.
        start = torch.where(start.isnan(), record.loss[0, rows].to(start), start)
        before = record.loss[(record.steps[rows] - 1).clamp(min=0), rows].to(last)
        last = torch.where(record.final_known[rows], last, before)
    limit = start + 3 * record.noise[rows].nan_to_num(nan=0.0) / math.sqrt(times)
    worse = rows[known & ~limit.isnan() & ~last.isnan() & ~(last <= limit)]
    record.final_point[worse], record.final_loss[worse] = record.best_point[worse], record.best_loss[worse]
    record.final_known[worse] = True
    return bool(some.numel())
