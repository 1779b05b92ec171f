"""Several optimizers on the same problems under the same seeds, as a table, curves and a report."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console

from zoracle.comparison.ensemble import WORST, Ensemble, check_shares, run_ensemble, shares, worst_case
from zoracle.comparison.entries import UNTUNED, Entry, FreshTuning, OnProgress, Tuning, folder, make_entry
from zoracle.comparison.progress import Display, shown
from zoracle.comparison.rivals import Minimiser, run_rivals
from zoracle.comparison.tune import Criterion
from zoracle.errors import InputError, NonFiniteWarning, printable
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.pool import Pool
from zoracle.evaluation.spec import RunSpec
from zoracle.evaluation.verification import Verified, verify
from zoracle.evaluation.workers import check_workers, started
from zoracle.objectives.attack import ImageAttack
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer
from zoracle.reporting.output import RunResults, write_run
from zoracle.reporting.rows import Row, rows_of
from zoracle.reporting.tables import WORST_CASE
from zoracle.reporting.terminal import rich_table
from zoracle.results.result import Result
from zoracle.results.tuned import Tuned
from zoracle.storage.fingerprint import config_hash, optimizer_config, release_series
from zoracle.storage.runfolder import RunFolder, locked, open_run
from zoracle.tasks.base import Task
from zoracle.tasks.config import task_config

__all__ = ["Comparison", "Ensemble", "OnProgress", "Output", "RunSpec", "Tuning", "compare"]

_DEFAULT = RunSpec(seeds=3)
_FEW_LOST = 0.01  # a share of values that are not finite which needs no warning


class Comparison(NamedTuple):
    """Results of a comparison."""

    rows: list[Row]
    """The best first: by the lowest ratio, or by the fewest queries if runs stop at a success. For an ensemble, in the
    order that its attacks were made in; the worst case of several attacks is the last."""
    results: dict[str, Result]
    """By label, in the order given; last the worst case of several attacks, where the run is an attack."""
    tuned: list[Tuned]
    """Settings that were tuned in this run."""
    paths: dict[str, Path]
    """The files written, by name; empty where no folder was asked for."""
    notes: list[str]
    """Notes for the reader: the source of settings, and what could not be written."""


class Output(NamedTuple):
    """Where and how the results of a comparison are written."""

    folder: str | Path | None = None
    """The run folder; an interrupted run in it is resumed. None writes nothing."""
    title: str | None = None
    """Heading of the report."""
    attack: bool = False
    """Whether the run is an attack, which writes adversarial examples and the report of an attack, with the worst case
    of several attacks."""
    weights: Mapping[str, str] = {}
    """The names of the weights behind labels, if they differ."""
    verify: bool = True
    """Whether an attack queries its adversarial images once more at the end, see
    :mod:`zoracle.evaluation.verification`."""
    command: Mapping[str, Any] | None = None
    """The command line as JSON values, which is only stored in the folder."""


def compare(
    task: Task,
    optimizers: Sequence[tuple[str, Optimizer[Any, Any]]],
    spec: RunSpec = _DEFAULT,
    *,
    tuning: Tuning = "stored",
    settings: Sequence[Tuned] = (),
    ensemble: Ensemble | None = None,
    rivals: Mapping[str, Minimiser] | None = None,
    workers: int | Pool = 1,
    out: str | Path | Output | None = None,
    console: Console | None = None,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Run optimizers on the same problems and seeds, and write the results.

    Args:
        task: the task of the problems.
        optimizers: labels and optimizers. Labels name rows and curves; they should not depend on the machine.
        spec: problems, seeds, length of runs, and when to stop. With neither steps nor budget, all optimizers get the
            budget of the task's default steps of q + 1 points.
        tuning: how default step sizes are chosen, see :data:`Tuning`: by the loss, or by the queries to a success if a
            success cannot be improved.
        settings: the user's tuned settings, which take precedence over the shipped ones.
        ensemble: the optimizers are attacks that share each image's budget, see :class:`Ensemble`; None gives each the
            whole budget on all problems.
        rivals: minimisers of other libraries, by label, with the same starting points and budget.
        workers: number of processes that share the work, or a pool; results are bit-for-bit the same for any number. A
            script must request more than one under ``if __name__ == "__main__":``.
        out: the run folder, or an :class:`Output`; None writes nothing.
        console: where the table, notes and progress are printed; None prints nothing.
        on_progress: called after each step.

    Raises:
        InputError: an argument is unusable, the folder cannot be written, or it contains another run; nothing was
            queried.
    """
    _check(optimizers, tuning)
    check_workers(workers)
    output = out if isinstance(out, Output) else Output(out)
    notes = [f"{label}: shipped weights {name}" for label, name in output.weights.items()]
    objective = spec.objective(task)  # refuses unknown ids; queries nothing
    spec = _completed(spec, task, objective)
    if rivals and spec.budget is None:
        raise InputError("steps were given, but other libraries are compared at equal queries; pass a budget instead")
    criterion: Criterion = "queries" if objective.ends_at_success else "ratio"
    specs = [spec] * len(optimizers) if ensemble is None else shares(spec, len(optimizers))
    if ensemble is not None:
        check_shares(specs, optimizers)
    entries = [make_entry(task, *one, its, tuning, notes, settings) for one, its in zip(optimizers, specs, strict=True)]
    untuned = [e.label for e in entries if e.source == UNTUNED]
    if untuned:
        notes.append(
            f"{', '.join(untuned)} ran with default settings: none tuned are stored for {task.name} with these steps "
            f"and query directions; {_how_to_tune(task)}"
        )
    config = _config(task, entries, spec, tuning, criterion, ensemble, rivals, output)
    with (
        nullcontext() if output.folder is None else locked(output.folder),
        started(workers) as pool,
        shown(console, on_progress) as display,
    ):
        run = None if output.folder is None else open_run(output.folder, config, output.command)
        fresh = FreshTuning(task, spec, criterion, None if run is None else run.pieces, pool, display.progress)
        entries, records = fresh.tune(entries, notes)
        if ensemble is None:
            results = _each(task, entries, spec, run, pool, display)
        else:
            results = run_ensemble(task, entries, specs, ensemble, run, pool, display)
        if rivals:
            about = {"config_sha256": config_hash(config)}
            results |= run_rivals(rivals, task, spec, None if run is None else run.pieces, about)
        found = RunResults(results, _worst(results, objective) if output.attack else {})
        verified = _verified(found, objective, run) if output.attack and output.verify else {}
        notes += [_unsteady(label, one) for label, one in verified.items() if one.failed]
        rows = _rows(found, entries, spec, output, ensemble)
        heading = output.title or f"{task.name}: {len(results)} optimizers compared"
        paths = {}
        if run is not None:
            found = found._replace(verified=verified)
            paths = write_run(run, task, objective, rows, found, records, notes, heading, attack=output.attack)
    asked = [row for row in rows if row.optimizer != WORST]
    if unreadable := [lost for row in asked if (lost := row.lost(more_than=_FEW_LOST))]:
        warnings.warn("; ".join(unreadable), NonFiniteWarning, stacklevel=2)
    if console is not None:
        console.print(rich_table(rows, heading, console.width))
        for note in [*notes, *(lost for row in asked if not unreadable and (lost := row.lost()))]:
            console.print(printable(note), style="dim", markup=False, highlight=False)
        if "report" in paths:
            console.print(f"report: {paths['report']}", markup=False, highlight=False, soft_wrap=True)
    return Comparison(rows, found.all, records, paths, notes)


def _config(
    task: Task,
    entries: Sequence[Entry],
    spec: RunSpec,
    tuning: Tuning,
    criterion: Criterion,
    ensemble: Ensemble | None,
    rivals: Mapping[str, Minimiser] | None,
    output: Output,
) -> dict[str, Any]:
    """Everything that the numbers depend on, as JSON values."""
    return {
        "command": "attack" if output.attack else "compare",
        "zoracle": release_series(),
        "task": task_config(task),
        **spec.identity(),
        "tuning": tuning,
        "criterion": criterion,
        **({"rivals": list(rivals)} if rivals else {}),
        **({} if ensemble is None else {"ensemble": ensemble._asdict()}),
        "optimizers": [
            {"label": e.label, "steps": e.steps, "settings_from": e.source, **optimizer_config(e.optimizer)}
            for e in entries
        ],
    }


def _how_to_tune(task: Task) -> str:
    """What tunes settings for a task, in words of the command line."""
    try:
        task.ids("valid")
    except InputError:
        return "tune them on other images with `zoracle tune`, and pass its file with --settings"
    return "tune them on validation problems with --tune"


def _each(
    task: Task,
    entries: Sequence[Entry],
    spec: RunSpec,
    run: RunFolder | None,
    workers: Pool | None,
    display: Display,
) -> dict[str, Result]:
    """Each optimizer on all problems."""
    return {
        e.label: evaluate(
            e.optimizer,
            task,
            msgspec.structs.replace(spec, steps=e.steps),
            on_progress=display.steps_of(e.label),
            on_status=display.status_of(e.label),
            resume_dir=None if run is None else run.pieces / folder(i, e.label),
            workers=workers,
        )
        for i, e in enumerate(entries)
    }


def _worst(results: Mapping[str, Result], objective: Objective) -> dict[str, Result]:
    """The worst case of several attacks, by its label."""
    if len(results) < 2 or not isinstance(objective, ImageAttack):
        return {}
    return {WORST: worst_case(list(results.values()), objective)}


def _verified(found: RunResults, objective: Objective, run: RunFolder | None) -> dict[str, Verified]:
    """The adversarial images that are reported, queried once more."""
    told: dict[str, Verified] = {}
    if not isinstance(objective, ImageAttack):
        return told
    for label, result in found.drawn.items():
        keep = None if run is None else run.pieces / f"verified-{folder(len(told), label)}.safetensors"
        about = {} if run is None else {"config_sha256": config_hash(run.config), "label": label}
        told[label] = verify(objective, result, keep, about)
    return told


def _unsteady(label: str, verified: Verified) -> str:
    """The note for a target whose answers change when queried again."""
    return (
        f"{label}: {verified.failed:,} of {verified.queries:,} broken images are not broken when queried again: "
        "the target does not give the same answer twice, and its successes are in part luck"
    )


def _rows(
    found: RunResults, entries: Sequence[Entry], spec: RunSpec, output: Output, ensemble: Ensemble | None
) -> list[Row]:
    """A row for each optimizer, and the worst case of all last."""
    settings = {e.label: optimizer_config(e.optimizer)["settings"] for e in entries}
    sources = dict.fromkeys(found.results, "of its library") | {e.label: e.source for e in entries}
    shared: dict[str, Any] = {"stopping": bool(spec.stop_on_success), "attack": output.attack}
    rows = rows_of(found.results, settings, sources, ranked=ensemble is None, **shared)
    rows = [row._replace(weights=output.weights.get(row.optimizer)) for row in rows]
    if ensemble is not None:  # the first attack looked at the images for all
        rows = [row._replace(clean_accuracy=rows[0].clean_accuracy) for row in rows]
    return [*rows, *rows_of(found.worst, {}, dict.fromkeys(found.worst, WORST_CASE), **shared)]


def _completed(spec: RunSpec, task: Task, objective: Objective) -> RunSpec:
    """The description with its problems, seeds, budget and stop rule, which all optimizers share."""
    budget = spec.budget
    if budget is None and spec.steps is None:
        q = task.defaults.num_directions if spec.num_directions is None else spec.num_directions
        budget = task.defaults.steps * (q + 1) + int(spec.check_start)
    return msgspec.structs.replace(
        spec,
        ids=spec.problem_ids(task),
        problems=None,
        seeds=spec.seed_list,
        budget=budget,
        stop_on_success=spec.stops(objective),
    )


def _check(optimizers: Sequence[tuple[str, Any]], tuning: str) -> None:
    labels = [label for label, _ in optimizers]
    if not labels:
        raise InputError("no optimizers are given; expected at least one")
    if WORST in labels:
        raise InputError(
            f"an optimizer has the label {WORST!r}, which is reserved for the worst case of all; choose another label"
        )
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(f"two optimizers have the label {twice!r}; expected distinct labels")
    if tuning not in ("stored", "fresh", "never"):
        raise InputError(f"tuning is {tuning!r}; expected stored, fresh or never")
