"""The tensors that flow through the house.

Shapes are law: problems B lead, directions are (B, q, d), points of one step (B, m, d), values (B, m),
a trajectory is (T, B). One problem alone gives what the same problem gives in a batch.
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
    """What a query was spent on. The oracle counts each purpose by itself."""

    OPTIMISE = "optimise"
    """Points that an optimizer asked for: what a budget pays for."""
    META_GRADIENT = "meta-gradient"
    """Points (or gradients, counted one each) that meta-training needs for the optimizee's gradient."""
    MONITOR = "monitor"
    """Points evaluated only to report: the loss of the last iterate, a curve."""


class StopReason(IntEnum):
    """Why a problem stopped."""

    RUNNING = 0
    """It has not stopped."""
    STEPS = 1
    """All steps that were asked for are done."""
    BUDGET = 2
    """The next step would have cost more queries than the budget has left."""
    SUCCESS = 3
    """A point succeeded, and the caller asked to stop at the first success."""
    TARGET = 4
    """A point reached the loss that the caller asked for."""
    NON_FINITE = 5
    """Every value of a step was NaN or infinite: nothing is left to follow."""
    CALLBACK = 6
    """The caller's callback asked to stop."""
    TIME = 7
    """The time limit was reached."""
    INTERRUPTED = 8
    """Ctrl-C."""
    LEFT_OUT = 9
    """It was not begun: there was nothing left to do, since an earlier attack had broken the image, say."""


class Choice(IntEnum):
    """What a run is left with."""

    LOWEST = 0
    """The point with the lowest value that was evaluated."""
    LAST = 1
    """The last iterate: of a noisy function the lowest value is the luckiest one."""
    START = 2
    """The start: nothing better was found."""
    REPEATED = 3
    """The point with the lowest value, which was also the lowest when evaluated again."""


class Evaluation(NamedTuple):
    """What an objective says of N points."""

    loss: Tensor
    """(N,) always minimised."""
    success: Tensor | None = None
    """(N,) bool: the point is a success (an adversarial example, say); None where the objective knows none."""


class Space(NamedTuple):
    """Where points of B problems may lie, for optimizers that make use of it. Tensors, so that a state can keep it."""

    low: Tensor
    """(B, d) lowest value of each coordinate; minus infinity where there is none."""
    high: Tensor
    """(B, d) highest value."""
    radius: Tensor
    """(B,) radius of the Euclidean ball around zero that points lie in as well; infinite where there is none."""
    shape: Tensor
    """(B, 3) int64: channels, height and width of a point as an image; (1, 1, d) where it is none."""


class Queries(NamedTuple):
    """What an optimizer asks for at one step."""

    points: Tensor
    """(B, m, d) points to evaluate. m is the optimizer's ``queries_per_step``."""
    directions: Tensor
    """(B, q, d) directions that the points were made from, without the smoothing radius."""
    aux: Any = ()
    """What the optimizer's own ``tell`` needs again: a NamedTuple of tensors with leading B."""


class Key(NamedTuple):
    """What the randomness of a step is keyed by; no generator is kept anywhere."""

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
    """What happened to B problems over at most T steps. Everything is a tensor on the CPU, so it saves and resumes.

    Rows of steps that a problem did not take hold NaN (``loss``), or, once it has stopped, repeat the last value
    (``best``, ``queries``).
    """

    loss: Tensor
    """(T, B) loss of the iterate at which step t began; NaN where the optimizer does not evaluate its iterate."""
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
    """(B, d) where the run began."""
    noise: Tensor
    """(B,) standard deviation of f at the start, 0 where there is none but rounding; NaN if not measured."""
    mu: Tensor
    """(B,) distance, a coordinate, from which on differences were ten times the noise; NaN where not measured."""
    signal: Tensor
    """(B,) differences at that distance over the noise; NaN where not measured."""
    chosen: Tensor
    """(B,) int64, a :class:`Choice`: what ``best_point`` is."""

    @property
    def total_queries(self) -> Tensor:
        """(B,) int64, points evaluated for optimisation."""
        room = self.queries.shape[0]
        if room == 0:
            return torch.zeros_like(self.steps)
        return self.queries[self.steps.clamp(max=room - 1), torch.arange(self.steps.shape[0])]
