"""The tensors that optimizers, objectives and the rollout exchange.

The batch dimension B comes first: directions are (B, q, d), points of one step (B, m, d), values (B, m); a trajectory
is (T, B). A problem gives the same result alone and in a batch.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Choice",
    "Evaluation",
    "Key",
    "Purpose",
    "Queries",
    "Space",
    "StopReason",
    "Trajectory",
]


class Purpose(StrEnum):
    """The purpose of a query. The oracle counts each purpose separately."""

    OPTIMISE = "optimise"
    """Points requested by an optimizer; these are charged to the budget."""
    META_GRADIENT = "meta-gradient"
    """Points (or gradients, counted one each) that meta-training needs for the optimizee's gradient."""
    MONITOR = "monitor"
    """Points evaluated only for reporting: the loss of the last iterate, a curve."""


class StopReason(IntEnum):
    """Why a problem stopped."""

    RUNNING = 0
    """It has not stopped."""
    STEPS = 1
    """All requested steps are done."""
    BUDGET = 2
    """The next step would have exceeded the budget."""
    SUCCESS = 3
    """A point succeeded, and the run stops at the first success."""
    TARGET = 4
    """A point reached the target loss."""
    NON_FINITE = 5
    """Every value of a step was NaN or infinite."""
    CALLBACK = 6
    """The callback stopped the run."""
    TIME = 7
    """The time limit was reached."""
    INTERRUPTED = 8
    """Ctrl-C."""
    LEFT_OUT = 9
    """It was not started, for example because an earlier attack had broken the image."""


class Choice(IntEnum):
    """Which point a run returns."""

    LOWEST = 0
    """The evaluated point with the lowest value."""
    LAST = 1
    """The last iterate, because the lowest value of a noisy function is biased."""
    START = 2
    """The starting point: nothing better was found."""
    REPEATED = 3
    """The point with the lowest value, which was also the lowest when evaluated again."""


class Evaluation(NamedTuple):
    """An objective's evaluation of N points."""

    loss: Tensor
    """(N,) to be minimised."""
    success: Tensor | None = None
    """(N,) bool: whether the point is a success, such as an adversarial example; None if the objective has none."""


class Space(NamedTuple):
    """The feasible region of B problems, as tensors so that a state can hold it."""

    low: Tensor
    """(B, d) lower bound of each coordinate; minus infinity if there is none."""
    high: Tensor
    """(B, d) upper bound of each coordinate."""
    radius: Tensor
    """(B,) radius of the Euclidean ball around zero that also contains the points; infinite if there is none."""
    shape: Tensor
    """(B, 3) int64: channels, height and width of a point as an image; (1, 1, d) where it is none."""


class Queries(NamedTuple):
    """The queries of one step of an optimizer."""

    points: Tensor
    """(B, m, d) points to evaluate. m is the optimizer's ``queries_per_step``."""
    directions: Tensor
    """(B, q, d) directions of the points, without the smoothing radius."""
    aux: Any = ()
    """Data for the optimizer's own ``tell``: a NamedTuple of tensors with leading B."""


class Key(NamedTuple):
    """The key that determines the random numbers of a step; there is no generator with state."""

    seed: Tensor
    """(B,) int64."""
    problem: Tensor
    """(B,) int64, the problem's stable id."""
    step: Tensor
    """(B,) int64, counts up by one at each ``tell``."""

    @classmethod
    def start(cls, seed: int | Tensor, problem: Tensor) -> Key:
        """The key of step 0 for problems (B,) under a seed (a number, or (B,))."""
        problem = problem.to(torch.int64).cpu()
        seed = torch.as_tensor(seed, dtype=torch.int64).cpu().expand(problem.shape).clone()
        return cls(seed, problem.clone(), torch.zeros_like(problem))

    def next(self) -> Key:
        """The key of the following step."""
        return self._replace(step=self.step + 1)


class Trajectory(NamedTuple):
    """The record of B problems over at most T steps. Everything is a tensor on the CPU, so that it can be saved.

    For steps that a problem did not take, ``loss`` is NaN, and ``best`` and ``queries`` repeat the last value once the
    problem has stopped.
    """

    loss: Tensor
    """(T, B) loss of the iterate at the start of step t; NaN if the optimizer does not evaluate its iterate."""
    best: Tensor
    """(T, B) the lowest loss of any point evaluated up to and including step t."""
    queries: Tensor
    """(T, B) int64, points evaluated for optimisation up to and including step t."""
    steps: Tensor
    """(B,) int64, steps taken."""
    reason: Tensor
    """(B,) int64, a StopReason."""
    final_point: Tensor
    """(B, d) the last iterate of a problem that stopped; the starting point before."""
    final_known: Tensor
    """(B,) bool, whether the last iterate was evaluated."""
    final_loss: Tensor
    """(B,) loss of the last iterate; NaN where it was not evaluated."""
    final_success: Tensor
    """(B,) bool, whether the last iterate is a success; False where not evaluated."""
    best_loss: Tensor
    """(B,) lowest loss of any evaluated point; infinite where none was finite."""
    best_point: Tensor
    """(B, d) the point with that loss."""
    success_loss: Tensor
    """(B,) lowest loss of any evaluated point that succeeded; infinite where none did."""
    success_point: Tensor
    """(B, d) the point with that loss; the starting point where none succeeded."""
    checked: Tensor
    """(B,) bool, whether the start was evaluated by itself, for one query, before the first step."""
    start_loss: Tensor
    """(B,) loss of the start where it was checked; NaN elsewhere."""
    start_success: Tensor
    """(B,) bool, whether the start is known to be a success: it was checked, or is the first point of an optimizer
    that evaluates its iterate."""
    first_success: Tensor
    """(B,) int64, points evaluated up to and including the first that succeeds; -1 where none did."""
    non_finite: Tensor
    """(B,) int64, how many values were NaN or infinite."""
    start_point: Tensor
    """(B, d) the starting point."""
    noise: Tensor
    """(B,) standard deviation of f at the start, 0 where there is none but rounding; NaN if not measured."""
    mu: Tensor
    """(B,) distance per coordinate at which differences reach ten times the noise; NaN if not measured."""
    signal: Tensor
    """(B,) differences at that distance divided by the noise; NaN if not measured."""
    chosen: Tensor
    """(B,) int64, a :class:`Choice`: what ``best_point`` is."""

    @property
    def total_queries(self) -> Tensor:
        """(B,) int64, points evaluated for optimisation."""
        room = self.queries.shape[0]
        if room == 0:
            return torch.zeros_like(self.steps)
        return self.queries[self.steps.clamp(max=room - 1), torch.arange(self.steps.shape[0])]
