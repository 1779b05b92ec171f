"""What one call hands back: of a function that was minimised, and of images that were attacked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.inputs import Array
from zoracle.objectives.attack import ImageAttack
from zoracle.types import StopReason, Trajectory


class Solution(NamedTuple):
    """What :func:`minimize` found. With one starting point (d,) the leading B is dropped everywhere."""

    x: Array
    """(B, d) the best point evaluated, of the type that x0 had."""
    value: Array | float
    """(B,) its value."""
    queries: Array | int
    """(B,) points evaluated."""
    reason: list[StopReason] | StopReason
    """Why each problem stopped."""
    last: Array
    """(B, d) the last iterate."""
    trajectory: Trajectory
    """Step by step; always with its B, on the CPU."""


class AttackResult(NamedTuple):
    """What :func:`attack` found for P images."""

    adversarial: Tensor
    """(P, *shape) the successful image with the lowest loss, and the image with the lowest loss where none was."""
    success: Tensor
    """(P,) bool, whether any evaluated point succeeded."""
    misclassified: Tensor
    """(P,) bool, whether the image itself is known to succeed, so that there was nothing to attack: always known
    with ``check_start``, and otherwise where the optimizer evaluates its first iterate."""
    queries: Tensor
    """(P,) points evaluated."""
    queries_to_success: Tensor
    """(P,) points evaluated up to and including the first that succeeded; -1 where none did."""
    loss: Tensor
    """(P,) loss of ``adversarial``."""
    distances: dict[str, Tensor]
    """l1, l2 and linf of ``adversarial`` to the image, (P,) each."""
    reason: list[StopReason]
    """Why each image's attack stopped."""
    trajectory: Trajectory
    """Step by step."""


def result_of(objective: ImageAttack, trajectory: Trajectory, *, has_budget: bool) -> AttackResult:
    """The adversarial images of a trajectory and what they cost."""
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
    )


def reasons(trajectory: Trajectory, *, has_budget: bool) -> list[StopReason]:
    """Why each problem stopped; a caller who gave a budget and no steps is not told of steps."""
    reasons = [StopReason(int(reason)) for reason in trajectory.reason]
    return [StopReason.BUDGET if has_budget and reason is StopReason.STEPS else reason for reason in reasons]
