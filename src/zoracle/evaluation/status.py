"""How far an evaluation is, and what came of it so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.evaluation.result import Result
from zoracle.rollout import Step
from zoracle.types import StopReason

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


class Teller:
    """Adds up what pieces tell of themselves."""

    def __init__(
        self, on_progress: OnProgress | None, on_status: OnStatus | None, seeds: int, problems: int, steps: int
    ) -> None:
        self.on_progress, self.on_status = on_progress, on_status
        self.steps, self.total, self.problems = steps, seeds * problems * steps, seeds * problems
        self.before = 0
        self.status = Status(0, self.problems, 0, 0, 0)

    def step(self, step: Step) -> None:
        """A piece at work has made a step."""
        found = step.trajectory
        if self.on_progress is not None:
            self.on_progress(self.before + steps_done(step, self.steps), self.total)
        if self.on_status is not None:
            stopped = found.reason != StopReason.RUNNING
            queries = int(found.total_queries.sum())
            self.on_status(self._plus(stopped, found.first_success > 0, found.checked & found.start_success, queries))

    def shared(self, done: int, missing: int, pieces: int) -> None:
        """Workers have done so many steps, each counted once a piece, of the pieces that were missing."""
        if self.on_progress is not None:
            share = (done + self.steps * (pieces - missing)) / (self.steps * pieces)
            self.on_progress(int(self.total * share), self.total)

    def done(self, row: Result) -> None:
        """A piece is done."""
        self.before += row.ids.shape[1] * self.steps
        everyone = torch.ones_like(row.success_ever)
        self.status = self._plus(everyone, row.success_ever, row.misclassified, int(row.spent.sum()))
        if self.on_progress is not None:
            self.on_progress(self.before, self.total)
        if self.on_status is not None:
            self.on_status(self.status)

    def _plus(self, finished: Tensor, success: Tensor, misclassified: Tensor, queries: int) -> Status:
        known = self.status
        return Status(
            known.finished + int(finished.sum()),
            self.problems,
            known.successes + int(success.sum()),
            known.misclassified + int(misclassified.sum()),
            known.queries + queries,
        )


def steps_done(step: Step, steps: int) -> int:
    """Steps of all problems of a piece; who stopped has done all of them."""
    found = step.trajectory
    return int(torch.where(found.reason != StopReason.RUNNING, steps, found.steps).sum())
