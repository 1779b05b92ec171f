"""The common parts of processes that share evaluations, however they were started."""

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

#: Interval at which a working process reports its progress.
TELL_SECONDS = 0.1


class Message(msgspec.Struct, frozen=True):
    """A message of a worker: "ready", "counts", "done", "stopped", "warning", "error" or "crash".

    Attributes:
        kind: one of these.
        counts: progress, :class:`zoracle.evaluation.status.Counts`.
        name: class of a warning or an error.
        text: text of a warning or an error.
    """

    kind: str
    counts: tuple[int, ...] = ()
    name: str = ""
    text: str = ""


class Pool(Protocol):
    """Processes that share the shards of evaluations.

    Attributes:
        number: number of processes.
        parts: minimum number of shards of a run, if it has that many problems.
    """

    number: int
    parts: int

    def scratch(self) -> Path:
        """An empty folder for the shards of a run that does not keep them."""

    def run(self, jobs: Sequence[Job], on_counts: Callable[[Sequence[int]], object] = ...) -> None:
        """Run all jobs; each writes its result to its file."""


class StoppedError(Exception):
    """The process that distributes the work asked to stop, or has ended."""


def named(name: str, default: type[Any]) -> Any:
    """An error or a warning of this package by name."""
    found = getattr(errors, name, default)
    return found if isinstance(found, type) and issubclass(found, Exception) else default


def perform(asked: Job, task: Task, tell: Callable[[tuple[int, ...]], None]) -> None:
    """Run a shard.

    Args:
        asked: the job of the shard.
        task: made of the job.
        tell: called with the progress after each step; may raise to stop.
    """
    shard = asked.shard
    objective = shard.spec.objective(task)
    result = run_shard(
        asked.make_optimizer(), task, objective, shard, lambda step: tell(counts(step.trajectory, shard.steps))
    )
    tell(counts_of(result, shard.steps))
