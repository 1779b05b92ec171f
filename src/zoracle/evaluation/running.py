"""Run one shard: roll out, report and store it; an interrupted shard continues."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from zoracle.evaluation.outcome import outcome
from zoracle.evaluation.shards import Shard, keep
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer
from zoracle.results.result import Result
from zoracle.rollout import Step
from zoracle.rollout.checkpoint import journal_path
from zoracle.rollout.journal import Journal
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.resume import resumable_rollout
from zoracle.storage.files import write_text
from zoracle.tasks.base import Task
from zoracle.types import Purpose

CHECKPOINT_SECONDS = 2.0


def run_shard(
    optimizer: Optimizer[Any, Any],
    task: Task,
    objective: Objective,
    shard: Shard,
    on_step: Callable[[Step], None],
) -> Result:
    """Run or resume a shard, and store its result, which has S = 1.

    Args:
        optimizer: any optimizer.
        task: task of the problems.
        objective: the shard's problems.
        shard: the shard.
        on_step: called after every step.
    """
    spec, fingerprint = shard.spec, shard.fingerprint(optimizer, task)
    oracle = Oracle(objective, budget=spec.budget, cell=shard.cell)
    x0 = task.start(shard.ids, seed=shard.seed, dtype=spec.torch_dtype, device=spec.device)
    clock = _Clock(shard.file(".seconds"))
    at_work = shard.file(".part")

    def step(done: Step) -> None:
        clock.tick()
        on_step(done)

    # Open until the result is on disk: evaluations for the report are recorded as well.
    with nullcontext() if at_work is None else Journal(journal_path(at_work)) as journal:
        oracle.journal = journal
        trajectory = resumable_rollout(
            optimizer,
            oracle,
            x0,
            shard.steps,
            path=at_work,
            fingerprint=fingerprint,
            seed=shard.seed,
            problem=torch.tensor(shard.ids),
            batch=spec.batch,
            every=CHECKPOINT_SECONDS,
            recheck=task.recheck,
            measure_noise=task.measures_noise and optimizer.follows_noise,
            on_step=step,
            stop_on_success=bool(spec.stop_on_success),
            check_start=spec.check_start,
            watch_flat=True,
            final=None if spec.stop_on_success else Purpose.MONITOR,
        )
        result = outcome(optimizer, oracle, x0, trajectory, shard, clock.seconds)
        if journal is not None:
            keep(shard, fingerprint, result)
            journal.forget(journal.epoch)
    shard.forget()
    return result


class _Clock:
    """Wall-clock seconds of a shard, including those of interrupted calls."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.before = 0.0
        if path is not None and path.is_file():
            self.before = _seconds(path)
        self.start = self.written = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def tick(self) -> None:
        now = time.perf_counter()
        if self.path is not None and now - self.written >= CHECKPOINT_SECONDS:
            write_text(self.path, f"{self.seconds:.3f}")
            self.written = now


def _seconds(path: Path) -> float:
    """The seconds in a file; a damaged file is ignored, since no result depends on it."""
    try:
        found = float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0
    return found if 0 <= found < math.inf else 0.0
