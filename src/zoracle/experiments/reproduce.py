"""Runs an experiment and writes its results: config, raw curves, tables, figures and a page."""

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
    """The output of an experiment."""

    outcome: Outcome
    notes: list[str]
    paths: dict[str, Path]
    """The files written, by name."""
    queries: dict[str, int]
    """Points evaluated, by purpose."""
    full_seconds: float | None
    """Estimated seconds of the full form in one process, at the pace of this run; None if nothing was timed."""


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
        experiment: the experiment.
        out: its folder.
        quick: run the form that tests in a minute whether it runs; its numbers are meaningless.
        settings: settings that replace those of its form.
        optimizers: names or folders of learned optimizers, comma-separated, if the experiment takes any.
        workers: processes that share evaluations, or a pool of them; results are the same bits for any number.
        command: the command line as JSON values; stored in the folder.
        console: for progress; None shows none.
        on_progress: called after each step.

    Raises:
        InputError: data are missing, an optimizer is unknown, or the folder cannot be used.
        MissingExtraError: the experiment needs a package that is not installed.
    """
    check_workers(workers)
    for module, extra in experiment.needs:
        require(module, extra)
    if optimizers is not None:
        load_named_optimizers(optimizers, Use())  # report a wrong name before creating a folder
    settings = settings or (experiment.quick if quick else experiment.full)
    experiment.work(settings)  # and a wrong setting that is a name
    config = {
        "command": "reproduce",
        "zoracle": release_series(),
        "experiment": experiment.name,
        "quick": quick,
        "settings": msgspec.to_builtins(settings),
        # Without the folders' paths; the pieces identify the weights by their hash.
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
            paths["tuned.json"].unlink(missing_ok=True)  # left by an interrupted run
            write_tuned(paths["tuned.json"], context.tuned)
        try:
            _draw(run.path, experiment, outcome, context, config, paths)
        except MissingExtraError as error:
            context.note(f"no figures and no page were written: {error}")
    return Reproduced(outcome, context.notes, paths, context.meter.queries, seconds)


def changed(experiments: Sequence[Experiment], quick: bool, changes: Sequence[str]) -> dict[str, Any]:
    """The settings of each experiment's form with some of them changed, where it has them.

    Args:
        experiments: the experiments.
        quick: whether it is the quick form.
        changes: ``name=value`` each, the value as in JSON; what is not JSON is text.

    Raises:
        InputError: a change is not of this form, no experiment has its name, or its value has another type.
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
    """The differences between settings and their form, in words."""
    names = [name for name in form.__struct_fields__ if getattr(settings, name) != getattr(form, name)]
    return [f"{name} {getattr(settings, name)} instead of {getattr(form, name)}" for name in names]


def duration(seconds: float | None) -> str:
    """The approximate time of the full form, as a sentence."""
    if seconds is None:
        return "No estimate of the full form's time: nothing was timed here."
    return (
        f"An estimate of the full form's time, from its queries and the pace of this run: {spoken(seconds)} of one "
        "process; two workers on two cores share its evaluations, and training stays with one. Small batches, as "
        "in the quick form, are slower a query than large ones."
    )


def spoken(seconds: float) -> str:
    """An approximate time."""
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
