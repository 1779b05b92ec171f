"""Several optimizers on the same problems under the same seeds, as a table, curves and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console

from zoracle import __version__
from zoracle.comparison.entries import UNTUNED, OnProgress, Tuning, folder, make_entry, tune_fresh
from zoracle.comparison.progress import shown
from zoracle.comparison.tune import Criterion, check_criterion
from zoracle.errors import InputError
from zoracle.evaluation.evaluate import check_list, evaluate
from zoracle.evaluation.workers import check_workers, started
from zoracle.optimizers.base import Optimizer
from zoracle.reporting.output import write_run
from zoracle.reporting.table import Row, rich_table, rows_of
from zoracle.results.result import Result
from zoracle.results.tuned import Tuned
from zoracle.storage.fingerprint import ids_hash, optimizer_config
from zoracle.storage.runfolder import locked, open_run
from zoracle.tasks.base import Task
from zoracle.tasks.config import task_config

__all__ = ["Comparison", "OnProgress", "Tuning", "compare"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Comparison(NamedTuple):
    """What a comparison found."""

    rows: list[Row]
    """The best first: the lowest ratio, or where runs stop at a success the fewest queries to it."""
    results: dict[str, Result]
    """By label, in the order given."""
    tuned: list[Tuned]
    """Settings that were tuned in this run."""
    paths: dict[str, Path]
    """The files written, by name; empty where no folder was asked for."""
    notes: list[str]
    """What a reader should know: where settings came from, what could not be written."""


def compare(
    task: Task,
    optimizers: Sequence[tuple[str, Optimizer[Any, Any]]],
    *,
    split: str = "test",
    ids: Sequence[int] | None = None,
    seeds: int | Sequence[int] = 3,
    steps: int | None = None,
    num_directions: int | None = None,
    budget: int | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    device: str = "cpu",
    batch: int | None = None,
    stop_on_success: bool | None = None,
    check_start: bool = False,
    attack: bool = False,
    workers: int = 1,
    tuning: Tuning = "stored",
    criterion: Criterion = "ratio",
    out: str | Path | None = None,
    command: Mapping[str, Any] | None = None,
    title: str | None = None,
    console: Console | None = None,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Run optimizers on the same problems and seeds, and write down what came of it.

    Args:
        task: what the problems are of.
        optimizers: labels and optimizers. Labels head rows and name curves; they should say nothing of a machine.
        split: which problems, where ``ids`` names none; "test" or "valid".
        ids: problems by id; None takes the first ones of the split, as many as the task's defaults say.
        seeds: how many repeats (0, 1, ...), or which seeds.
        steps: None takes what the budget pays for.
        num_directions: q of every optimizer that samples directions; None keeps each one's own.
        budget: points that each problem may cost at most, for each optimizer. Where neither it nor ``steps`` is
            given, what the task's own steps of q + 1 points cost: the same for all, whatever one's steps cost.
        dtype: "float32" or "float64".
        device: where the points live.
        batch: problems at once, another begins as soon as one has finished; changes memory and speed only.
        stop_on_success: whether a problem stops at its first success; None does for attacks within a ball.
        check_start: evaluate each problem's start by itself first, for one query: what is a success already is
            reported as such and gets no more. Not by default: the images of the tasks that ship are known to be
            classified correctly, and a step then costs what it costs.
        attack: the run is an attack: write each optimizer's adversarial examples, and the report of an attack.
        workers: processes that share the work; changes speed, and the batch where that is left open. A script has to
            ask for more than one from under ``if __name__ == "__main__":``.
        tuning: what is done about default step sizes, see :data:`Tuning`.
        criterion: what they are tuned by.
        out: the run folder; None writes nothing. A folder of the same run is gone on with.
        command: how the run was asked for, JSON values; kept in the folder, and read by nobody here.
        title: heading of the report.
        console: where the table, notes and progress are printed; None prints nothing.
        on_progress: told after each step.

    Raises:
        InputError: something given is unusable, the folder cannot be written to, or it holds another run; nothing
            was queried then.
    """
    _check(optimizers, dtype, tuning)
    check_workers(workers)
    check_criterion(criterion)
    chosen = check_list("ids", _problems(task, split, ids))
    seed_list = list(check_list("seeds", _seeds(seeds)))
    notes: list[str] = []
    objective = task.objective(chosen, dtype=_DTYPES[dtype], device=device)  # refuses unknown ids; queries nothing
    stop = objective.ends_at_success if stop_on_success is None else stop_on_success
    if budget is None and steps is None:
        q = task.defaults.num_directions if num_directions is None else num_directions
        budget = task.defaults.steps * (q + 1) + int(check_start)
    entries = [
        make_entry(task, label, made, num_directions, steps, budget, check_start, tuning, notes)
        for label, made in optimizers
    ]
    untuned = [e.label for e in entries if e.source == UNTUNED]
    if untuned:
        notes.append(
            f"{', '.join(untuned)} ran with default settings: none tuned are stored for {task.name} with these steps "
            "and query directions; --tune tunes them on validation problems"
        )
    config = {
        "command": "attack" if attack else "compare",
        "zoracle": __version__,
        "task": task_config(task),
        "split": split if ids is None else None,
        "ids": list(chosen),
        "ids_sha256": ids_hash(chosen),
        "seeds": seed_list,
        "budget": budget,
        "num_directions": num_directions,
        "stop_on_success": stop,
        "check_start": check_start,
        "dtype": dtype,
        "tuning": tuning,
        "criterion": criterion,
        "optimizers": [
            {"label": e.label, "steps": e.steps, "settings_from": e.source, **optimizer_config(e.optimizer)}
            for e in entries
        ],
    }
    shared: dict[str, Any] = {"dtype": _DTYPES[dtype], "device": device}
    with (
        nullcontext() if out is None else locked(out),
        started(workers) as pool,
        shown(console, on_progress) as display,
    ):
        run = None if out is None else open_run(out, config, command)
        running = {**shared, "workers": pool}
        entries, records = tune_fresh(task, entries, run, seed_list, criterion, running, display.progress, notes)
        results = {
            e.label: evaluate(
                e.optimizer,
                task,
                chosen,
                seeds=seed_list,
                steps=e.steps,
                budget=budget,
                batch=batch,
                stop_on_success=stop,
                check_start=check_start,
                on_progress=display.steps_of(e.label),
                on_status=display.status_of(e.label),
                resume_dir=None if run is None else run.pieces / folder(i, e.label),
                **running,
            )
            for i, e in enumerate(entries)
        }
        rows = rows_of(
            results,
            {e.label: optimizer_config(e.optimizer)["settings"] for e in entries},
            {e.label: e.source for e in entries},
            stopping=stop,
        )
        heading = title or f"{task.name}: {len(entries)} optimizers compared"
        paths = {}
        if run is not None:
            paths = write_run(run, task, objective, rows, results, records, notes, heading, attack=attack)
    if console is not None:
        console.print(rich_table(rows, heading))
        for note in notes:
            console.print(note, style="dim", markup=False, highlight=False)
        if "report" in paths:
            console.print(f"report: {paths['report']}", markup=False, highlight=False, soft_wrap=True)
    return Comparison(rows, results, records, paths, notes)


def _check(optimizers: Sequence[tuple[str, Any]], dtype: str, tuning: str) -> None:
    labels = [label for label, _ in optimizers]
    if not labels:
        raise InputError("no optimizers are given; expected at least one")
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(f"two optimizers are called {twice!r}; give each its own label")
    if dtype not in _DTYPES:
        raise InputError(f"dtype is {dtype!r}; expected float32 or float64")
    if tuning not in ("stored", "fresh", "never"):
        raise InputError(f"tuning is {tuning!r}; expected stored, fresh or never")


def _problems(task: Task, split: str, ids: Sequence[int] | None) -> tuple[int, ...]:
    if ids is not None:
        return tuple(ids)
    return tuple(task.ids(split)[: task.defaults.problems])


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        if seeds < 1:
            raise InputError(f"seeds is {seeds}; expected at least 1")
        return tuple(range(seeds))
    return tuple(seeds)
