"""One optimizer on the problems of a task under several seeds, every point counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from zoracle.errors import BudgetError, InputError
from zoracle.evaluation.parallel import batch_size, kept_size, share
from zoracle.evaluation.piece import Piece, fingerprint_of, kept, run_piece
from zoracle.evaluation.status import Counts, OnProgress, OnStatus, Status, Teller
from zoracle.evaluation.workers import Workers
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer
from zoracle.results.result import Result, join
from zoracle.rollout.oracle import Oracle
from zoracle.tasks.base import Task

__all__ = ["OnProgress", "OnStatus", "Status", "check_list", "evaluate", "resolve_steps"]


def evaluate(
    optimizer: Optimizer[Any, Any],
    task: Task,
    ids: Sequence[int],
    *,
    seeds: Sequence[int] = (0,),
    steps: int | None = None,
    budget: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch: int | None = None,
    stop_on_success: bool | None = None,
    check_start: bool = False,
    on_progress: OnProgress | None = None,
    on_status: OnStatus | None = None,
    resume_dir: Path | None = None,
    workers: Workers | None = None,
) -> Result:
    """Run an optimizer on problems of a task and say what it cost and reached.

    What the optimizer asks for is spent; the last iterate is evaluated once more to report and counted as
    monitoring, and so is the starting point where the optimizer does not evaluate it itself, or sees it through
    noise. Of a stochastic objective the best point is monitored as well, without noise. A run that stops at the first
    success ends there, or at its best failed point, and no last iterate is monitored.

    Args:
        optimizer: any optimizer.
        task: what the problems are of.
        ids: P problems of the task.
        seeds: S seeds, each a repeat of all problems: starting points and directions follow it.
        steps: T; None takes what the budget pays for, or the task's own number where there is no budget.
        budget: points that each problem may cost at most.
        dtype: floating-point type of the points.
        device: where the points live.
        batch: problems at once; another begins as soon as one has finished. None takes all. It changes nothing but
            memory and speed.
        stop_on_success: whether a problem stops at its first success; None does where nothing is left to win then
            (``Objective.ends_at_success``: attacks within a ball).
        check_start: evaluate each problem's start first, for one query that counts as optimisation; one that is a
            success already takes no step. By default nobody looks: the problems of the tasks that ship are known to
            be none.
        on_progress: told after each step how many are done; a few times a second where there are workers.
        on_status: told as often what came of them.
        resume_dir: where each finished piece (a seed on all problems, or on as many as give every worker as much to
            do) is kept as soon as it is done, and every answer of the pieces at work. A second call goes on there.
        workers: processes that run the pieces; None runs them here, one after another.

    Raises:
        InputError: no problems or seeds, or one twice; numbers out of range.
        BudgetError: the budget is smaller than one step; nothing was evaluated.
        CheckpointError: a kept piece is truncated or belongs to another run.
        WorkerError: a worker died.
    """
    ids, seeds = check_list("ids", ids), check_list("seeds", seeds)
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}; expected at least 1 problem")
    steps = resolve_steps(optimizer, task, steps, budget, check_start)
    if workers is not None and resume_dir is None:
        resume_dir = workers.scratch()  # what they find comes back as files
    objective = task.objective(ids, dtype=dtype, device=device)
    stop = objective.ends_at_success if stop_on_success is None else stop_on_success
    size = kept_size(resume_dir, ids, seeds)
    size = size or batch_size(len(ids), len(seeds), None, 1 if workers is None else workers.number)
    groups = list(_groups(ids, size))

    def piece(seed: int, j: int) -> Piece:
        stem = None if resume_dir is None else resume_dir / f"seed-{seed}-batch-{j}"
        fingerprint = fingerprint_of(optimizer, task, groups[j], seed, steps, budget, dtype, stop, check_start)
        return Piece(groups[j], seed, steps, batch, stop, check_start, stem, fingerprint)

    teller = Teller(on_progress, on_status, len(seeds), len(ids), steps)
    pieces = [piece(seed, j) for seed in seeds for j in range(len(groups))]
    objectives: dict[tuple[int, ...], Objective] = {ids: objective}
    rows: list[Result | None] = []
    for one in pieces:
        row = kept(one)
        if row is None and workers is None:
            if one.ids not in objectives:
                objectives[one.ids] = task.objective(one.ids, dtype=dtype, device=device)
            x0 = task.start(one.ids, seed=one.seed, dtype=dtype, device=device)
            row = run_piece(optimizer, Oracle(objectives[one.ids], budget=budget), x0, one, teller.step)
        if row is not None:
            teller.done(row)
        rows.append(row)
    if workers is not None:
        missing = [i for i, row in enumerate(rows) if row is None]
        teller.more(Counts(0, 0, 0, 0, 0))
        share(
            workers,
            optimizer,
            task,
            [pieces[i] for i in missing],
            budget=budget,
            dtype=dtype,
            device=device,
            on_counts=teller.more,
        )
        for i in missing:
            rows[i] = kept(pieces[i])
    found = [row for row in rows if row is not None]
    return join([join(found[i : i + len(groups)], 1) for i in range(0, len(found), len(groups))], 0)


def resolve_steps(
    optimizer: Optimizer[Any, Any], task: Task, steps: int | None, budget: int | None, check_start: bool = False
) -> int:
    """The number of steps of a run: as given, else what the budget pays for, else the task's own.

    Raises:
        InputError: fewer than one.
        BudgetError: the budget is smaller than one step.
    """
    cost, before = optimizer.queries_per_step, int(check_start)
    if budget is not None and budget < cost + before:
        raise BudgetError(
            f"budget is {budget} queries a problem, and one step of {type(optimizer).__name__} costs {cost}"
            f"{' and the look at its start 1' if before else ''}; give at least {cost + before}, or fewer directions"
        )
    if steps is None:
        steps = task.defaults.steps if budget is None else (budget - before) // cost
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")
    return steps


def _groups(ids: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def check_list(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Ids or seeds as a tuple.

    Raises:
        InputError: there are none, or one comes twice.
    """
    if not values:
        raise InputError(f"{name} is empty; expected at least one")
    if len(set(values)) != len(values):
        twice = next(value for value in values if list(values).count(value) > 1)
        raise InputError(f"{name} names {twice} more than once; expected each once")
    return tuple(values)
