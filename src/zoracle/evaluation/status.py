"""How far an evaluation is, and what came of it so far, added up over its pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from zoracle.results.result import Result
from zoracle.rollout import Step
from zoracle.types import StopReason, Trajectory

#: Told after each step: steps done so far and in all, over all seeds and problems; who stopped has done all of them.
OnProgress = Callable[[int, int], None]


class Status(NamedTuple):
    """How far a run is, over all its seeds and problems."""

    finished: int
    """Problems that are done."""
    problems: int
    """All of them, once a seed."""
    successes: int
    """Problems of which some point has succeeded."""
    misclassified: int
    """Those among them that were a success before the first step."""
    queries: int
    """Points evaluated for optimisation."""


#: Told after each step.
OnStatus = Callable[[Status], None]


class Counts(NamedTuple):
    """How far a piece is: numbers that add up over pieces."""

    steps: int
    """Done; a problem that stopped has done all."""
    finished: int
    successes: int
    misclassified: int
    queries: int


def counts(found: Trajectory, steps: int) -> Counts:
    """Of a piece at work that takes this many steps."""
    stopped = found.reason != StopReason.RUNNING
    return Counts(
        int(torch.where(stopped, steps, found.steps).sum()),
        int(stopped.sum()),
        int((found.first_success > 0).sum()),
        int((found.checked & found.start_success).sum()),
        int(found.total_queries.sum()),
    )


def counts_of(row: Result, steps: int) -> Counts:
    """Of a finished piece."""
    problems = row.ids.numel()
    return Counts(
        problems * steps, problems, int(row.success_ever.sum()), int(row.misclassified.sum()), int(row.spent.sum())
    )


class Teller:
    """Adds up what pieces tell of themselves."""

    def __init__(
        self, on_progress: OnProgress | None, on_status: OnStatus | None, seeds: int, problems: int, steps: int
    ) -> None:
        self.on_progress, self.on_status = on_progress, on_status
        self.steps, self.problems = steps, seeds * problems
        self.before = Counts(0, 0, 0, 0, 0)

    def step(self, step: Step) -> None:
        """After a step of a piece at work."""
        if self.on_progress is None and self.on_status is None:
            return
        self.more(counts(step.trajectory, self.steps))

    def done(self, row: Result) -> None:
        """After a piece."""
        self.before = self.more(counts_of(row, self.steps))

    def more(self, more: Sequence[int]) -> Counts:
        """Tell of what was done before, and of so much more."""
        now = Counts(*(a + b for a, b in zip(self.before, more, strict=True)))
        if self.on_progress is not None:
            self.on_progress(now.steps, self.problems * self.steps)
        if self.on_status is not None:
            self.on_status(Status(now.finished, self.problems, now.successes, now.misclassified, now.queries))
        return now
