"""The results of :func:`minimize` and :func:`attack`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.api.inputs import Array
from zoracle.objectives.attack import ImageAttack
from zoracle.types import Choice, StopReason, Trajectory


class Progress(NamedTuple):
    """The argument of a ``callback`` of :func:`minimize`, after each step. With one starting point there is no B."""

    x: Array
    """(B, *shape) the best point evaluated so far."""
    value: Array | float
    """(B,) its value."""
    queries: Array | int
    """(B,) points evaluated so far."""
    steps: Array | int
    """(B,) steps taken."""
    seconds: float
    """Seconds since the call of :func:`minimize`."""


class Solution(NamedTuple):
    """The result of :func:`minimize`; it prints as a short table. With one starting point there is no B."""

    x: Array
    """(B, *shape) the best point, of the same type as x0; ``chosen`` says which point it is."""
    value: Array | float
    """(B,) its value; under noise a mean of several."""
    queries: Array | int
    """(B,) points evaluated."""
    reason: list[StopReason] | StopReason
    """Why each problem stopped."""
    last: Array
    """(B, *shape) the last iterate, or x if that lies above the start by more than the noise."""
    trajectory: Trajectory
    """The record of the run by step; always with B, on the CPU."""
    interrupted: Array | int = 0
    """(B,) points that were requested again after interruptions; they are not among ``queries``."""
    noise: Array | float = math.nan
    """(B,) standard deviation of the noise of f, measured at the start; 0 if there is none, NaN if not measured."""
    mu: Array | float = math.nan
    """(B,) distance per coordinate, in units of ``scale``, at which differences exceed the noise."""
    signal_to_noise: Array | float = math.nan
    """(B,) differences at that distance divided by the noise."""
    chosen: list[Choice] | Choice = Choice.LOWEST
    """Which point x is. For a noisy function, the last iterate, the lowest point and the start are evaluated again."""
    non_finite: Array | float = 0.0
    """(B,) share of the values that were NaN or infinite."""
    account: dict[str, Array | int] = {}  # noqa: RUF012  # never written to
    """(B,) each: the queries of each member of a portfolio, and its restarts. Empty for other optimizers, and for a
    finished run that was read from a checkpoint."""

    def __repr__(self) -> str:
        """A summary, with a line for each run; never the tensors."""
        return "\n".join(_told(self))


class AttackResult(NamedTuple):
    """The result of :func:`attack` for P images."""

    adversarial: Tensor
    """(P, *shape) the successful image with the lowest loss, or the image with the lowest loss if none succeeded."""
    success: Tensor
    """(P,) bool, whether any evaluated point succeeded."""
    misclassified: Tensor
    """(P,) bool, whether the original image is known to be a success already: always known with ``check_start``, and
    otherwise if the optimizer evaluates its first iterate."""
    queries: Tensor
    """(P,) points evaluated."""
    queries_to_success: Tensor
    """(P,) points evaluated up to and including the first that succeeded; -1 where none did."""
    loss: Tensor
    """(P,) loss of ``adversarial``."""
    distances: dict[str, Tensor]
    """l1, l2 and linf distances of ``adversarial`` from the image, (P,) each."""
    reason: list[StopReason]
    """Why each image's attack stopped."""
    trajectory: Trajectory
    """Step by step."""
    interrupted: Tensor
    """(P,) points that were requested again after interruptions; they are not among ``queries``."""

    def __repr__(self) -> str:
        """A summary in a few lines; never the tensors."""
        wrong = int(self.misclassified.sum())
        attacked = len(self.success) - wrong
        broken = int((self.success & ~self.misclassified).sum())
        spent = f"{int(self.queries.sum()):,}, at most {int(self.queries.max()):,} an image"
        lines = [
            f"AttackResult: {broken} of {attacked} images broken",
            f"  queries     {spent}{_again(self.interrupted)}",
        ]
        if wrong:
            lines.insert(1, f"  misclassified already: {wrong}")
        if broken:
            new = self.success & ~self.misclassified
            lines.append(f"  to success  {float(self.queries_to_success[new].double().median()):,.0f} queries (median)")
            told = ", ".join(f"{name} {float(values[new].median()):.4g}" for name, values in self.distances.items())
            lines.append(f"  distances   {told} (median)")
        if lost := int(self.trajectory.non_finite.sum()):
            share = lost / max(1, int(self.queries.sum()))
            lines.append(f"  not finite  {lost:,} values, {share:.1%} of all")
        return "\n".join(lines)


_BECAUSE = {
    StopReason.RUNNING: "still running",
    StopReason.STEPS: "all steps done",
    StopReason.BUDGET: "budget spent",
    StopReason.SUCCESS: "success",
    StopReason.TARGET: "target reached",
    StopReason.NON_FINITE: "every value of a step was NaN or infinite",
    StopReason.CALLBACK: "stopped by the callback",
    StopReason.TIME: "time limit reached",
    StopReason.INTERRUPTED: "interrupted",
}
_PICKED = {
    Choice.LOWEST: "the lowest point evaluated",
    Choice.LAST: "the last iterate",
    Choice.START: "the start: nothing better was found",
    Choice.REPEATED: "the lowest point, evaluated again",
}
_ROWS, _NUMBERS = 10, 6


def because(reason: StopReason) -> str:
    """Why a run stopped, in words."""
    return _BECAUSE[reason]


def _told(solution: Solution) -> list[str]:
    """A solution as lines of at most about 80 columns."""
    record = solution.trajectory
    values = record.best_loss.tolist()
    reason = solution.reason if isinstance(solution.reason, list) else [solution.reason]
    if not isinstance(solution.reason, list):
        more = _again(solution.interrupted)
        lines = [
            f"Solution: {because(reason[0])}",
            f"  value       {values[0]:.6g}",
            f"  x           {_array(solution.x)}",
            f"  queries     {int(record.total_queries[0]):,} in {int(record.steps[0]):,} steps{more}",
        ]
    else:
        shape = "x".join(map(str, tuple(solution.x.shape)[1:])) or "1"
        lines = [f"Solution of {len(values)} runs, x of shape {shape}"]
        lines.append(f"  {'run':>4}  {'value':>12}  {'queries':>10}  {'steps':>8}  why it stopped")
        rows = zip(values, record.total_queries.tolist(), record.steps.tolist(), reason, strict=True)
        for run, (value, queries, steps, why) in enumerate(rows):
            if run == _ROWS < len(values):
                lines.append(f"   ... {len(values) - _ROWS} more")
                break
            lines.append(f"  {run:>4}  {value:>12.6g}  {queries:>10,}  {steps:>8,}  {because(why)}")
    if members := {name: int(sum(_numbers(value))) for name, value in solution.account.items()}:
        again = members.pop("restarts", 0)
        shares = ", ".join(f"{name} {spent:,}" for name, spent in members.items())
        lines.append(f"  given to    {shares}" + (f"; restarts {again}" if again else ""))
    if bool((record.noise > 0).any()):
        at = int(record.noise.nan_to_num(nan=0.0).argmax())
        most = "" if len(values) == 1 else ", at most"
        told = f"{float(record.noise[at]):.2g}{most}; mu {float(record.mu[at]):.2g} scale"
        lines.append(f"  noise       {told}, signal to noise {float(record.signal[at]):.2g}")
        if len(values) == 1:
            lines.append(f"  x is        {_PICKED[Choice(int(record.chosen[0]))]}")
    if lost := int(record.non_finite.sum()):
        share = lost / max(1, int(record.total_queries.sum()))
        lines.append(f"  not finite  {lost:,} values, {share:.1%} of all")
    return lines


def _again(interrupted: Array | int) -> str:
    """What interruptions cost beside the queries, where they cost anything."""
    lost = sum(_numbers(interrupted))
    return f", {lost:,} more repeated after interruptions" if lost else ""


def _numbers(value: Array | int) -> list[int]:
    return [value] if isinstance(value, int) else [int(one) for one in value]


def _array(x: Array) -> str:
    """A few numbers of an array, and its shape where there are more."""
    flat = x.reshape(-1)
    numbers = ", ".join(f"{float(one):.4g}" for one in flat[:_NUMBERS])
    if flat.shape[0] <= _NUMBERS and len(x.shape) < 2:
        return f"[{numbers}]"
    more = ", ..." if flat.shape[0] > _NUMBERS else ""
    return f"[{numbers}{more}], shape {tuple(x.shape)}"


def result_of(objective: ImageAttack, trajectory: Trajectory, interrupted: Tensor, *, has_budget: bool) -> AttackResult:
    """The adversarial images of a trajectory and their queries."""
    rows = torch.arange(objective.num_problems)
    success = trajectory.first_success > 0
    points = torch.where(success.unsqueeze(1), trajectory.success_point, trajectory.best_point)
    return AttackResult(
        adversarial=objective.adversarial(points, rows),
        success=success,
        misclassified=trajectory.start_success,
        queries=trajectory.total_queries,
        queries_to_success=trajectory.first_success,
        loss=torch.where(success, trajectory.success_loss, trajectory.best_loss),
        distances=objective.distances(points, rows),
        reason=reasons(trajectory, has_budget=has_budget),
        trajectory=trajectory,
        interrupted=interrupted,
    )


def reasons(trajectory: Trajectory, *, has_budget: bool) -> list[StopReason]:
    """Why each problem stopped; a caller who gave a budget and no steps is not told of steps."""
    reasons = [StopReason(int(reason)) for reason in trajectory.reason]
    return [StopReason.BUDGET if has_budget and reason is StopReason.STEPS else reason for reason in reasons]
