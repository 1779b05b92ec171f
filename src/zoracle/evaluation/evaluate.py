"""Evaluation of one optimizer on the problems of a task under several seeds, with every point counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoracle.evaluation.jobs import check_job, job
from zoracle.evaluation.pool import Pool
from zoracle.evaluation.running import run_shard
from zoracle.evaluation.shards import Shard, cell_size, cut, kept
from zoracle.evaluation.spec import RunSpec
from zoracle.evaluation.status import OnProgress, OnStatus, Progress, Status
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer, with_directions
from zoracle.results.result import Result, join
from zoracle.tasks.base import Task

__all__ = ["OnProgress", "OnStatus", "RunSpec", "Status", "evaluate"]

_DEFAULT = RunSpec()


def evaluate(
    optimizer: Optimizer[Any, Any],
    task: Task,
    spec: RunSpec = _DEFAULT,
    *,
    on_progress: OnProgress | None = None,
    on_status: OnStatus | None = None,
    resume_dir: Path | None = None,
    workers: Pool | None = None,
) -> Result:
    """Run an optimizer on problems of a task and say what it cost and reached.

    What the optimizer asks for is spent; the last iterate is evaluated once more to report and counted as
    monitoring, and so is the starting point where the optimizer does not evaluate it itself, or sees it through
    noise. Of a stochastic objective the best point is monitored as well, without noise. A run that stops at the first
    success ends there, or at its best failed point, and no last iterate is monitored.

    Args:
        optimizer: any optimizer.
        task: what the problems are of.
        spec: which problems and seeds, how long, and when to stop.
        on_progress: told after each step how many are done; a few times per second where there are workers.
        on_status: told as often what came of them.
        resume_dir: where each finished shard (a seed on all problems, or on as many as give every worker as much to
            do) is kept as soon as it is done, and every answer of the shards at work. A second call continues there.
        workers: processes that run the shards; None runs them here, one after another.

    Raises:
        InputError: the task does not have these problems.
        BudgetError: the budget is smaller than one step; nothing was evaluated.
        CheckpointError: a kept shard is truncated or belongs to another run.
        WorkerError: a worker died.
    """
    optimizer = with_directions(optimizer, spec.num_directions)
    objective = spec.objective(task)
    spec = spec.settled(task, optimizer, objective)
    if workers is not None and resume_dir is None:
        resume_dir = workers.scratch()  # what they find comes back as files
    cell = cell_size(spec, remote=objective.remote)
    repeats = cut(spec, resume_dir, 1 if workers is None else workers.parts, cell)
    shards = [shard for repeat in repeats for shard in repeat]
    fingerprints = [shard.fingerprint(optimizer, task) for shard in shards]
    progress = Progress(on_progress, on_status, spec)
    rows: list[Result | None] = []
    objectives: dict[tuple[int, ...], Objective] = {spec.problem_ids(task): objective}
    for shard, fingerprint in zip(shards, fingerprints, strict=True):
        row = kept(shard, fingerprint)
        if row is None and workers is None:
            if shard.ids not in objectives:
                objectives[shard.ids] = shard.spec.objective(task)
            row = run_shard(optimizer, task, objectives[shard.ids], shard, progress.step)
        if row is not None:
            progress.done(row)
        rows.append(row)
    if workers is not None:
        missing = [i for i, row in enumerate(rows) if row is None]
        progress.more((0, 0, 0, 0, 0))
        _distribute(workers, optimizer, task, [shards[i] for i in missing], progress)
        for i in missing:
            rows[i] = kept(shards[i], fingerprints[i])
    found = [row for row in rows if row is not None]
    width = len(repeats[0])
    return join([join(found[i : i + width], 1) for i in range(0, len(found), width)], 0)


def _distribute(
    workers: Pool, optimizer: Optimizer[Any, Any], task: Task, shards: Sequence[Shard], progress: Progress
) -> None:
    """Run shards in workers; each writes its result to its file."""
    jobs = [job(optimizer, task, shard) for shard in shards]
    if not jobs:
        return
    check_job(jobs[0], optimizer, task)
    workers.run(jobs, progress.more)
