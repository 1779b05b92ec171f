"""Runs an experiment and writes down what came of it: config, raw curves, tables, figures and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console

from zoracle.comparison import OnProgress, load_named_optimizers, shown
from zoracle.errors import InputError, MissingExtraError, require
from zoracle.evaluation import Pool, check_workers, started
from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.context import Context
from zoracle.optimizers import Use
from zoracle.reporting import check_extra, markdown, write_figure, write_page
from zoracle.results import write_tuned
from zoracle.storage import VERSIONS, locked, open_run, read_json, release_series, write_json, write_npz, write_text

#: Parts of an experiment that can be left out by setting them to 0.
_OPTIONAL = ("panels", "external")


class Reproduced(NamedTuple):
    """What an experiment left behind."""

    outcome: Outcome
    notes: list[str]
    paths: dict[str, Path]
    """The files written, by name."""
    queries: dict[str, int]
    """Points evaluated, by purpose."""
    full_seconds: float | None
    """An estimate of the full form's seconds in one process, at the pace of this run; None where nothing was timed."""


def reproduce(
    experiment: Experiment,
    out: str | Path,
    *,
    quick: bool = False,
    settings: Any = None,
    optimizers: str | None = None,
    workers: int | Pool = 1,
    command: Mapping[str, Any] | None = None,
    console: Console | None = None,
    on_progress: OnProgress | None = None,
) -> Reproduced:
    """Run an experiment, or resume it where it was interrupted.

    Args:
        experiment: which.
        out: its folder.
        quick: the form that shows in a minute that it runs; its numbers say nothing.
        settings: other settings than those of its form.
        optimizers: names or folders of learned optimizers, separated by commas, where it takes any.
        workers: processes that share evaluations, or a pool of them; results are the same bits for any number.
        command: how it was asked for, JSON values; kept in the folder.
        console: where progress is shown; None shows none.
        on_progress: told after each step.

    Raises:
        InputError: data are missing, an optimizer is unknown, or the folder cannot be used.
        MissingExtraError: the experiment needs a package that is not installed.
    """
    check_workers(workers)
    for module, extra in experiment.needs:
        require(module, extra)
    if optimizers is not None:
        load_named_optimizers(optimizers, Use())  # a wrong name is told before there is a folder
    settings = settings or (experiment.quick if quick else experiment.full)
    experiment.work(settings)  # as is a wrong setting that names something
    config = {
        "command": "reproduce",
        "zoracle": release_series(),
        "experiment": experiment.name,
        "quick": quick,
        "settings": msgspec.to_builtins(settings),
        # Without the folders' paths; which weights they hold, the pieces know by their hash.
        "optimizers": None if optimizers is None else [Path(part.strip()).name for part in optimizers.split(",")],
    }
    with locked(out), started(workers) as pool, shown(console, on_progress) as display:
        run = open_run(out, config, command)
        context = Context(run, settings, quick, optimizers, pool, display)
        if other := differing(settings, experiment.quick if quick else experiment.full):
            context.note(f"changed settings, which override the text: {'; '.join(other)}")
        outcome = experiment.run(context)
        seconds = context.meter.estimate(experiment.work(experiment.full))
        paths = {name: run.path / name for name in ("table.json", "table.md", "curves.npz", "queries.json")}
        write_json(paths["table.json"], {table.name: list(table.records) for table in outcome.tables})
        write_text(paths["table.md"], markdown(outcome.tables))
        write_npz(paths["curves.npz"], outcome.curves)
        write_json(
            paths["queries.json"],
            {
                "queries": context.meter.queries,
                "seconds": context.meter.seconds + context.meter.training_seconds,
                "full_form": {**experiment.work(experiment.full)._asdict(), "estimated_seconds": seconds},
            },
        )
        if context.tuned:
            paths["tuned.json"] = run.path / "tuned.json"
            paths["tuned.json"].unlink(missing_ok=True)  # of an interrupted run
            write_tuned(paths["tuned.json"], context.tuned)
        try:
            _draw(run.path, experiment, outcome, context, config, paths)
        except MissingExtraError as error:
            context.note(f"no figures and no page were written: {error}")
    return Reproduced(outcome, context.notes, paths, context.meter.queries, seconds)


def changed(experiments: Sequence[Experiment], quick: bool, changes: Sequence[str]) -> dict[str, Any]:
    """The settings of each experiment's form with some of them changed, where it has them.

    Args:
        experiments: which.
        quick: whether it is the quick form.
        changes: ``name=value`` each, the value as in JSON; what is not JSON is text.

    Raises:
        InputError: not of this form, a name that no experiment has, or a value of another type.
    """
    forms = {one.name: one.quick if quick else one.full for one in experiments}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"{change!r} is not a setting; expected NAME=VALUE, such as problems=30")
        able = {key: form for key, form in forms.items() if name in form.__struct_fields__}
        if not able:
            known = sorted({field for form in forms.values() for field in form.__struct_fields__})
            raise InputError(f"setting {name!r} is unknown; expected one of {', '.join(known)}")
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = text
        for key, form in able.items():
            whole = {**msgspec.to_builtins(form), name: value}
            try:
                made = msgspec.convert(whole, type(form))
            except msgspec.ValidationError as error:
                raise InputError(f"setting {change!r} of {key}: {error}") from error
            least = 0 if name in _OPTIONAL else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise InputError(f"setting {change!r} of {key}: expected at least {least}")
            forms[key] = made
    return forms


def differing(settings: Any, form: Any) -> list[str]:
    """What settings have other than their form, in words."""
    names = [name for name in form.__struct_fields__ if getattr(settings, name) != getattr(form, name)]
    return [f"{name} {getattr(settings, name)} instead of {getattr(form, name)}" for name in names]


def duration(seconds: float | None) -> str:
    """About how long the full form takes, as a sentence."""
    if seconds is None:
        return "No estimate of the full form's time: nothing was timed here."
    return (
        f"An estimate of the full form's time, from its queries and the pace of this run: {spoken(seconds)} of one "
        "process; two workers on two cores share its evaluations, and training stays with one. Small batches, as "
        "in the quick form, are slower a query than large ones."
    )


def spoken(seconds: float) -> str:
    """A time, about."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else _minutes(max(1, round(seconds / 60)))


def _draw(
    folder: Path,
    experiment: Experiment,
    outcome: Outcome,
    context: Context,
    config: Mapping[str, Any],
    paths: dict[str, Path],
) -> None:
    """Write figures and the page."""
    check_extra()
    for figure in outcome.figures:
        for path in write_figure(figure, folder / "figures"):
            paths[path.name] = path
    quick = " --quick" if context.quick else ""
    form = experiment.quick if context.quick else experiment.full
    sets = "".join(
        f" --set {name}={msgspec.json.encode(getattr(context.settings, name)).decode()}"
        for name in form.__struct_fields__
        if getattr(context.settings, name) != getattr(form, name)
    )
    paths["page"] = folder / "index.html"
    write_page(
        paths["page"],
        "experiment",
        name=experiment.name,
        summary=experiment.summary,
        about=experiment.about.split("\n\n"),
        quick=context.quick,
        command=f"zoracle reproduce {experiment.name}{quick}{sets} --out DIR",
        findings=outcome.findings,
        tables=outcome.tables,
        figures=outcome.figures,
        notes=context.notes,
        queries=", ".join(f"{purpose} {count:,}" for purpose, count in context.meter.queries.items()) or "none",
        duration=duration(context.meter.estimate(experiment.work(experiment.full))),
        config=json.dumps(config, indent=1, sort_keys=True),
        versions=read_json(folder / VERSIONS),
    )


def _minutes(number: int) -> str:
    return f"{number} minute" + ("" if number == 1 else "s")
