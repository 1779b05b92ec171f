"""What an evaluation returns: one optimizer on P problems under S seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Result(NamedTuple):
    """One optimizer on P problems under S seeds, T steps at most; tensors on the CPU with leading (S, P)."""

    seed: Tensor
    """(S, P) int64."""
    ids: Tensor
    """(S, P) int64, the task's ids of the problems."""
    losses: Tensor
    """(S, P, T + 1) float64, loss of the iterate after t steps: first the starting point, last the last iterate.
    A problem that stopped early repeats its last one. NaN where the loss was not finite, or where the optimizer does
    not evaluate its iterates (both ends are then monitored)."""
    best: Tensor
    """(S, P, T + 1) float64, the lowest loss evaluated by the time that iterate t was reached; its first is the
    starting point's, and its last counts the last iterate."""
    queries: Tensor
    """(S, P, T + 1) int64, points spent to reach iterate t: 0 for the first, or 1 where the start was checked."""
    steps: Tensor
    """(S, P) int64, steps taken."""
    reason: Tensor
    """(S, P) int64, a StopReason."""
    allowance: Tensor
    """(S, P) int64, the whole budget: the one given, or steps times points per step and the check of the start."""
    monitored: Tensor
    """(S, P) int64, points evaluated only to report, counted apart from those the optimizer spent."""
    lost: Tensor
    """(S, P) int64, points that were requested again because an interruption lost their answers: the model may have
    seen them, and they are in no other count."""
    success_known: Tensor
    """(S, P) bool, whether the objective says what a success is."""
    first_known: Tensor
    """(S, P) bool, whether it did so at every step (a gradient oracle does not)."""
    misclassified: Tensor
    """(S, P) bool, the start was checked and is a success: there was nothing to attack."""
    final_success: Tensor
    """(S, P) bool, the last iterate succeeds."""
    success_ever: Tensor
    """(S, P) bool, some evaluated point succeeded, the last iterate included."""
    first_success: Tensor
    """(S, P) int64, points evaluated for optimisation up to and including the first that succeeds; -1 for none."""
    non_finite: Tensor
    """(S, P) int64, values that were NaN or infinite."""
    final_point: Tensor
    """(S, P, d) the last iterate; where runs stop at their first success that point, or the best failed one."""
    best_point: Tensor
    """(S, P, d) the point with the lowest loss, the last iterate included."""
    success_point: Tensor
    """(S, P, d) the success with the lowest loss; the starting point where none succeeded."""
    l1: Tensor
    """(S, P) float64, distance of the last iterate from the original; within a ball, that of the success with the
    lowest loss, or of the best failed point. NaN where the task is not an attack."""
    l2: Tensor
    """(S, P) float64, likewise."""
    linf: Tensor
    """(S, P) float64, likewise."""
    seconds: Tensor
    """(S, P) float64, wall-clock time of the run; problems of one batch share it equally."""

    @property
    def spent(self) -> Tensor:
        """(S, P) int64, points that the optimizer spent."""
        return self.queries[..., -1]

    @property
    def attacked(self) -> Tensor:
        """(S, P) bool: not misclassified already, and not left out because an earlier attack had broken it.

        Every problem that is run costs a query at least, so one without any was left out.
        """
        return (self.spent > 0) & ~self.misclassified


def join(parts: Sequence[Result], dim: int) -> Result:
    """One result from several, along seeds (0) or problems (1)."""
    return Result(*(torch.cat(leaves, dim) for leaves in zip(*parts, strict=True)))
