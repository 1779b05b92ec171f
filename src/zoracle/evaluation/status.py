"""Progress and results so far of an evaluation, added up over its shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from zoracle.evaluation.spec import RunSpec
from zoracle.results.result import Result
from zoracle.rollout import Step
from zoracle.types import StopReason, Trajectory

#: Told after each step: steps done so far and in all, over all seeds and problems; who stopped has done all of them.
OnProgress = Callable[[int, int], None]


class Status(NamedTuple):
    """Progress of a run, over all its seeds and problems."""

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
    """Progress of a shard: numbers that add up over shards."""

    steps: int
    """Done; a problem that stopped has done all."""
    finished: int
    successes: int
    misclassified: int
    queries: int


def counts(trajectory: Trajectory, steps: int) -> Counts:
    """Counts of a running shard with this many steps."""
    stopped = trajectory.reason != StopReason.RUNNING
    return Counts(
        int(torch.where(stopped, steps, trajectory.steps).sum()),
        int(stopped.sum()),
        int((trajectory.first_success > 0).sum()),
        int((trajectory.checked & trajectory.start_success).sum()),
        int(trajectory.total_queries.sum()),
    )


def counts_of(row: Result, steps: int) -> Counts:
    """Counts of a finished shard."""
    problems = row.ids.numel()
    return Counts(
        problems * steps, problems, int(row.success_ever.sum()), int(row.misclassified.sum()), int(row.spent.sum())
    )


class Progress:
    """Adds up the progress of the shards of a settled run, and passes it on."""

    def __init__(self, on_progress: OnProgress | None, on_status: OnStatus | None, spec: RunSpec) -> None:
        assert spec.ids is not None
        assert spec.steps is not None
        self.on_progress, self.on_status = on_progress, on_status
        self.steps, self.problems = spec.steps, len(spec.seed_list) * len(spec.ids)
        self.before = Counts(0, 0, 0, 0, 0)

    def step(self, step: Step) -> None:
        """Called after a step of a running shard."""
        if self.on_progress is None and self.on_status is None:
            return
        self.more(counts(step.trajectory, self.steps))

    def done(self, row: Result) -> None:
        """Called after a shard."""
        self.before = self.more(counts_of(row, self.steps))

    def more(self, more: Sequence[int]) -> Counts:
        """Report the progress before, plus these counts."""
        now = Counts(*(a + b for a, b in zip(self.before, more, strict=True)))
        if self.on_progress is not None:
            self.on_progress(now.steps, self.problems * self.steps)
        if self.on_status is not None:
            self.on_status(Status(now.finished, self.problems, now.successes, now.misclassified, now.queries))
        return now
