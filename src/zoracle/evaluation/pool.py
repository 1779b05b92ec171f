"""What processes that share evaluations have in common, whoever started them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from zoracle import errors
from zoracle.evaluation.jobs import Job
from zoracle.evaluation.running import run_shard
from zoracle.evaluation.status import counts, counts_of
from zoracle.tasks.base import Task

#: How often one at work tells how far it is.
TELL_SECONDS = 0.1


class Message(msgspec.Struct, frozen=True):
    """What a worker tells: "ready", "counts", "done", "stopped", "warning", "error" or "crash".

    Attributes:
        kind: which of these.
        counts: how far it is, :class:`zoracle.evaluation.status.Counts`.
        name: class of a warning or an error.
        text: what it says.
    """

    kind: str
    counts: tuple[int, ...] = ()
    name: str = ""
    text: str = ""


class Pool(Protocol):
    """Processes that share the shards of evaluations.

    Attributes:
        number: of the processes.
        parts: into how many shards the problems of a run are cut, at least, where there are as many.
    """

    number: int
    parts: int

    def scratch(self) -> Path:
        """An empty folder for the shards of a run that keeps none."""

    def run(self, jobs: Sequence[Job], on_counts: Callable[[Sequence[int]], object] = ...) -> None:
        """Run all jobs; each leaves its result in its file."""


class StoppedError(Exception):
    """Whoever shares out the work asked to stop, or is gone."""


def named(name: str, default: type[Any]) -> Any:
    """An error or a warning of this package by name."""
    found = getattr(errors, name, default)
    return found if isinstance(found, type) and issubclass(found, Exception) else default


def perform(asked: Job, task: Task, tell: Callable[[tuple[int, ...]], None]) -> None:
    """Run a shard.

    Args:
        asked: the job that it is in.
        task: made of the job.
        tell: is told after each step how far it is; may raise to stop.
    """
    shard = asked.shard
    objective = shard.spec.objective(task)
    result = run_shard(
        asked.make_optimizer(), task, objective, shard, lambda step: tell(counts(step.trajectory, shard.steps))
    )
    tell(counts_of(result, shard.steps))
