"""Several optimizers on the same problems under the same seeds, as a table, curves and a report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from zoracle import __version__
from zoracle.errors import InputError, MissingExtraError
from zoracle.evaluation.describe import config_hash, ids_hash, optimizer_config, task_config
from zoracle.evaluation.evaluate import check_list, evaluate, resolve_steps
from zoracle.evaluation.gallery import SHOWN, Gallery, make_gallery
from zoracle.evaluation.report import check_extra, write_report
from zoracle.evaluation.result import Result
from zoracle.evaluation.runfolder import VERSIONS, Run, open_run, write_npz
from zoracle.evaluation.table import Row, markdown, rich_table, rows_of
from zoracle.evaluation.tune import Criterion, Tuned, check_criterion, tunable, tune, tuned, untouched, write_tuned
from zoracle.evaluation.workers import check_workers, started
from zoracle.files import read_json, write_json, write_text
from zoracle.objectives.attack import ImageAttack
from zoracle.optimizers.base import Optimizer, directions_of, with_directions, with_settings
from zoracle.tasks.base import Task

#: What is done about the step sizes of hand-designed optimizers whose settings are left at their defaults:
#: "stored" takes those tuned on the task's validation problems where some are shipped, "fresh" tunes them in this
#: run, "never" keeps the defaults.
Tuning = Literal["stored", "fresh", "never"]

#: Told the optimizer's label, steps done and steps in all.
OnProgress = Callable[[str, int, int], None]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Comparison(NamedTuple):
    """What a comparison found."""

    rows: list[Row]
    """The lowest ratio first."""
    results: dict[str, Result]
    """By label, in the order given."""
    tuned: list[Tuned]
    """Settings that were tuned in this run."""
    paths: dict[str, Path]
    """The files written, by name; empty where no folder was asked for."""
    notes: list[str]
    """What a reader should know: where settings came from, what could not be written."""


_UNTUNED = "defaults, none tuned"


class _Entry(NamedTuple):
    """One optimizer as it will run."""

    label: str
    optimizer: Optimizer[Any, Any]
    steps: int
    source: str


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
    workers: int = 1,
    tuning: Tuning = "stored",
    criterion: Criterion = "ratio",
    out: str | Path | None = None,
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
        steps: None takes what the budget pays for, or the task's own number where there is no budget.
        num_directions: q of every optimizer that samples directions; None keeps each one's own.
        budget: points that each problem may cost at most, for each optimizer.
        dtype: "float32" or "float64".
        device: where the points live.
        batch: problems at once; changes memory and speed only.
        workers: processes that share the work; changes speed, and the batch where that is left open. A script has to
            ask for more than one from under ``if __name__ == "__main__":``.
        tuning: what is done about default step sizes, see :data:`Tuning`.
        criterion: what they are tuned by.
        out: the run folder; None writes nothing. A folder of the same run is gone on with.
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
    entries = [_entry(task, label, made, num_directions, steps, budget, tuning, notes) for label, made in optimizers]
    untuned = [e.label for e in entries if e.source == _UNTUNED]
    if untuned:
        notes.append(
            f"{', '.join(untuned)} ran with default settings: none tuned are stored for {task.name} with these steps "
            "and query directions; --tune tunes them on validation problems"
        )
    config = {
        "command": "compare",
        "zoracle": __version__,
        "task": task_config(task),
        "split": split if ids is None else None,
        "ids": list(chosen),
        "ids_sha256": ids_hash(chosen),
        "seeds": seed_list,
        "budget": budget,
        "num_directions": num_directions,
        "dtype": dtype,
        "tuning": tuning,
        "criterion": criterion,
        "optimizers": [
            {"label": e.label, "steps": e.steps, "settings_from": e.source, **optimizer_config(e.optimizer)}
            for e in entries
        ],
    }
    shared: dict[str, Any] = {"dtype": _DTYPES[dtype], "device": device}
    task.objective(chosen, **shared)  # refuses unknown ids before there is a folder; queries nothing
    run = None if out is None else open_run(out, config)
    with started(workers) as pool, _progress(console, on_progress) as told:
        running = {**shared, "workers": pool}
        entries, records = _tune_fresh(task, entries, run, seed_list, criterion, running, told, notes)
        results = {
            e.label: evaluate(
                e.optimizer,
                task,
                chosen,
                seeds=seed_list,
                steps=e.steps,
                budget=budget,
                batch=batch,
                on_progress=_labelled(told, e.label),
                resume_dir=None if run is None else run.pieces / _folder(i, e.label),
                **running,
            )
            for i, e in enumerate(entries)
        }
    rows = rows_of(
        results,
        {e.label: optimizer_config(e.optimizer)["settings"] for e in entries},
        {e.label: e.source for e in entries},
    )
    heading = title or f"{task.name}: {len(entries)} optimizers compared"
    paths = {} if run is None else write_run(run, task, rows, results, records, notes, heading, **shared)
    if console is not None:
        console.print(rich_table(rows, heading))
        for note in notes:
            console.print(note, style="dim", markup=False, highlight=False)
        if "report" in paths:
            console.print(f"report: {paths['report']}", markup=False, highlight=False, soft_wrap=True)
    return Comparison(rows, results, records, paths, notes)


def write_run(
    run: Run,
    task: Task,
    rows: Sequence[Row],
    results: dict[str, Result],
    tuned_here: Sequence[Tuned],
    notes: list[str],
    title: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Path]:
    """Write table, curves, the count of all queries and the report into an open run folder; an attack uses it too.

    Without the extra for reports everything else is written, and a note says what is missing.

    Returns:
        The files by name: table, markdown, curves, queries, and where there are some tuned and report.
    """
    paths = {
        name: run.path / file
        for name, file in (
            ("table", "table.json"),
            ("markdown", "table.md"),
            ("curves", "curves.npz"),
            ("queries", "queries.json"),
        )
    }
    write_json(paths["table"], [row._asdict() for row in rows])
    write_text(paths["markdown"], markdown(rows))
    write_npz(paths["curves"], curve_arrays(results))
    if tuned_here:
        paths["tuned"] = run.path / "tuned.json"
        write_tuned(paths["tuned"], tuned_here)
    gallery: Gallery | None = None
    try:
        check_extra()
    except MissingExtraError as error:
        notes.append(f"no report was written: {error}")
    else:
        gallery = _gallery(run, task, results, dtype, device)
        paths["report"] = run.path / "report.html"
        write_report(
            paths["report"],
            title=title,
            rows=rows,
            results=results,
            config=run.config,
            versions=read_json(run.path / VERSIONS),
            gallery=gallery,
            notes=notes,
        )
    write_json(paths["queries"], _ledger(results, tuned_here, gallery))
    return paths


def curve_arrays(results: dict[str, Result]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of ``curves.npz``: LABEL.losses and LABEL.queries (seed, problem, step), and LABEL.best.

    Step t is the iterate after t steps, from the starting point (t = 0) to the last iterate; queries are the points
    spent to reach it.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for label, result in results.items():
        arrays[f"{label}.losses"] = np.ascontiguousarray(result.losses.numpy())
        arrays[f"{label}.queries"] = np.ascontiguousarray(result.queries.numpy())
        arrays[f"{label}.best"] = np.ascontiguousarray(result.best.numpy())
    return arrays


def _ledger(results: dict[str, Result], records: Sequence[Tuned], gallery: Gallery | None) -> dict[str, Any]:
    """Every point that the numbers of this run needed, by what it was evaluated for."""
    return {
        "optimise": {label: int(result.spent.sum()) for label, result in results.items()},
        "monitor": {label: int(result.monitored.sum()) for label, result in results.items()},
        "tuning": {record.optimizer: record.queries for record in records},
        "pictures": 0 if gallery is None else gallery.queries,
    }


def _gallery(
    run: Run, task: Task, results: dict[str, Result], dtype: torch.dtype, device: torch.device | str
) -> Gallery | None:
    first = next(iter(results.values()))
    shown = tuple(first.ids[0, :SHOWN].tolist())
    pictures = task.pictures(shown)
    if pictures is None:
        return None
    objective = task.objective(shown, dtype=dtype, device=device)
    if not isinstance(objective, ImageAttack):
        return None
    fingerprint = {"config_sha256": config_hash(run.config)}
    keep = run.pieces / "pictures.safetensors"
    return make_gallery(objective, pictures, results, keep=keep, fingerprint=fingerprint)


def _entry(
    task: Task,
    label: str,
    optimizer: Optimizer[Any, Any],
    num_directions: int | None,
    steps: int | None,
    budget: int | None,
    tuning: Tuning,
    notes: list[str],
) -> _Entry:
    """An optimizer with the q asked for and, where its own are defaults, the settings tuned for it."""
    optimizer = with_directions(optimizer, num_directions)
    steps = resolve_steps(optimizer, task, steps, budget)
    name = tunable(optimizer)
    if name is None or not untouched(optimizer):
        return _Entry(label, optimizer, steps, "given")
    if tuning != "stored":
        return _Entry(label, optimizer, steps, "tuned in this run" if tuning == "fresh" else "defaults")
    q = directions_of(optimizer)
    others_default = optimizer.config == with_directions(type(optimizer)(), q).config
    record = tuned(task.name, name, steps, q) if others_default else None
    if record is None or not _same_task(record.task_config, task_config(task)):
        return _Entry(label, optimizer, steps, _UNTUNED)
    notes.append(_told(label, record, "stored"))
    return _Entry(label, with_settings(optimizer, **record.chosen), steps, "tuned")


def _tune_fresh(
    task: Task,
    entries: Sequence[_Entry],
    run: Run | None,
    seeds: Sequence[int],
    criterion: Criterion,
    running: dict[str, Any],
    told: OnProgress,
    notes: list[str],
) -> tuple[list[_Entry], list[Tuned]]:
    """Tune the optimizers that are to be tuned in this run."""
    ready: list[_Entry] = []
    records: list[Tuned] = []
    for i, entry in enumerate(entries):
        if entry.source != "tuned in this run":
            ready.append(entry)
            continue
        record = tune(
            task,
            entry.optimizer,
            steps=entry.steps,
            seeds=seeds[:1],
            criterion=criterion,
            resume_dir=None if run is None else run.pieces / "tuning" / _folder(i, entry.label),
            on_progress=_labelled(told, f"tuning {entry.label}"),
            **running,
        )
        records.append(record)
        notes.append(_told(entry.label, record, "found in this run"))
        ready.append(entry._replace(optimizer=with_settings(entry.optimizer, **record.chosen)))
    return ready, records


def _told(label: str, record: Tuned, how: str) -> str:
    settings = ", ".join(f"{name} = {value:.4g}" for name, value in record.chosen.items())
    edge = f"; {', '.join(record.on_edge)} on the edge of the grid" if record.on_edge else ""
    return (
        f"{label}: {settings}, tuned on {record.problems} problems of {record.task}'s {record.split} split "
        f"by {record.criterion} ({how}{edge})"
    )


def _same_task(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two tasks have the same settings; their files, a target trained again say, may differ."""

    def plain(config: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in config.items() if not k.endswith("_sha256") and v is not None}

    return plain(one) == plain(other)


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


def _folder(index: int, label: str) -> str:
    return f"{index:02d}-" + re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip(".-")[:60]


def _labelled(told: OnProgress, label: str) -> Callable[[int, int], None]:
    return lambda done, total: told(label, done, total)


@contextmanager
def _progress(console: Console | None, on_progress: OnProgress | None) -> Iterator[OnProgress]:
    """Passes progress on, and draws a bar for each optimizer where the console is a terminal."""
    if console is None or not console.is_terminal:
        yield on_progress or (lambda label, done, total: None)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def told(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)
            if on_progress is not None:
                on_progress(label, done, total)

        yield told
