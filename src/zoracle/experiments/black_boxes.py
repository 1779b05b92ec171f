"""Problems that are not test functions: policies, a trajectory, penalties, hyper-parameters, weights and an attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from zoracle.errors import InputError
from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import verdict
from zoracle.experiments.context import Context
from zoracle.experiments.untuned import DEFAULT, METHODS, available, known
from zoracle.experiments.untuned.asking import Answer, Point, Question
from zoracle.experiments.untuned.shards import Ran, Shard, ran
from zoracle.experiments.work import Work
from zoracle.keyed import mix
from zoracle.reporting import BAND, Array, Line, Table, line, panels_figure, records_table
from zoracle.results import clustered
from zoracle.tasks import Task, task


class BlackBoxProblem(NamedTuple):
    """One kind of problem."""

    task: str
    settings: Mapping[str, Any]
    sigma: float
    """Initial width for pycma: a fifth of the range if there are bounds, otherwise by the size of weights."""
    bounds: tuple[float, float] | None = None
    policy: bool = False
    """Whether augmented random search, which was designed for policies, takes part."""


PROBLEMS: dict[str, BlackBoxProblem] = {
    "pendulum": BlackBoxProblem("policy", {"environment": "Pendulum-v1", "hidden": 16}, 0.5, policy=True),
    "swimmer": BlackBoxProblem("policy", {"environment": "Swimmer-v5"}, 0.5, policy=True),
    "half-cheetah": BlackBoxProblem("policy", {"environment": "HalfCheetah-v5"}, 0.5, policy=True),
    "rover": BlackBoxProblem("rover", {}, 0.2, (0.0, 1.0)),
    "lasso-100": BlackBoxProblem("lasso", {"dim": 100}, 0.4, (-1.0, 1.0)),
    "lasso-300": BlackBoxProblem("lasso", {"dim": 300}, 0.4, (-1.0, 1.0)),
    "lasso-1000": BlackBoxProblem("lasso", {"dim": 1000}, 0.4, (-1.0, 1.0)),
    "hyperparameters": BlackBoxProblem("hyperparameters", {}, 0.4, (-1.0, 1.0)),
    "network": BlackBoxProblem("network", {"batch_size": None}, 0.5),
    "attack": BlackBoxProblem("mnist", {}, 0.1),
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        kinds: names of the kinds of problems.
        problems: test problems of each kind, each with its own seed and starting point.
        budget: evaluations per problem.
        methods: labels; `ars` runs on policies only.
    """

    kinds: tuple[str, ...] = tuple(PROBLEMS)
    problems: int = 10
    budget: int = 2000
    methods: tuple[str, ...] = tuple(METHODS)


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    methods, missing = available(s.methods)
    for sentence in missing:
        context.note(sentence)
    tables: list[Table] = []
    curves: dict[str, Array] = {}
    panels: dict[str, dict[str, Line]] = {}
    every: dict[str, list[dict[str, Any]]] = {}
    for name in s.kinds:
        try:
            made = _task(context, name)
        except InputError as error:
            context.note(f"{name} was skipped: {error}")
            continue
        found: dict[str, list[Ran]] = {}
        for label, method in methods.items():
            if label == "ars" and not PROBLEMS[name].policy:
                continue
            if method.most is not None and made.dim > method.most:
                context.note(f"{label} did not run on {name}, d = {made.dim}: its models are dense")
                continue
            found[label] = _of_method(context, name, made, label)
        values = final_values(found)
        every[name] = _records(found, values)
        tables.append(_table(name, made, s, every[name]))
        curves |= {f"{name}/{label}.value": one for label, one in values.items()}
        panels[f"{name}, d = {made.dim}"] = {label: _line(runs, s.budget) for label, runs in found.items()}
    if not every:
        raise InputError(f"none of {', '.join(s.kinds)} can run; {'; '.join(context.notes)}")
    summary = _summary(every)
    figure = panels_figure(
        "curves", "Lowest value so far", BAND, _alike(panels, list(methods)), x="evaluations", y="value", log_y=False
    )
    return Outcome([summary, *tables], [figure], curves, _findings(every))


def _task(context: Context, name: str) -> Task:
    """The task of a kind; a quick run uses the digits attack in place of one whose data are missing."""
    if name not in PROBLEMS:
        raise InputError(f"problem {name!r} is unknown; expected one of {', '.join(PROBLEMS)}")
    one = PROBLEMS[name]
    return context.task(one.task) if one.task == "mnist" else task(one.task, **one.settings)


def _of_method(context: Context, name: str, made: Task, label: str) -> list[Ran]:
    s: Settings = context.settings
    base = context.run.pieces / name / label
    shards = [
        Shard(
            base / f"r{repeat:03d}.safetensors",
            {"problem": name, "task": made.name, "repeat": repeat, "budget": s.budget, "method": label},
        )
        for repeat in range(s.problems)
    ]
    found = ran(context, f"{name} {label}", shards, black_box_run)
    return [found[shard.path] for shard in shards]


def black_box_run(shard: Shard) -> Answer:
    """Run a method on a test problem: ``about`` names problem, task, repeat, budget (points) and method."""
    about = shard.about
    one, repeat = PROBLEMS[about["problem"]], int(about["repeat"])
    made = task(about["task"], **(one.settings if about["task"] == one.task else {}))
    ids = made.ids("test")
    own = (ids[repeat % len(ids)],)

    def start(restart: int) -> Point:
        seed = mix(repeat, restart) if restart else repeat
        begun: Point = made.start(own, seed=seed, dtype=torch.float64)[0].numpy()
        return begun

    question = Question(
        objective=made.objective(own, dtype=torch.float64),
        x0=start(0),
        budget=int(about["budget"]),
        seed=repeat,
        sigma=one.sigma,
        bounds=one.bounds,
        again=start,
    )
    return METHODS[about["method"]].answer(question)


def final_values(found: Mapping[str, list[Ran]]) -> dict[str, Array]:
    """The lowest value of each run, (R,); a failed run counts as the highest final value of another method.

    Args:
        found: R runs of each method, on the same problems.
    """
    table = np.array([[np.inf if r.answer.failure else r.answer.value for r in runs] for runs in found.values()])
    known = np.isfinite(table)
    highest = np.where(known, table, -np.inf).max(0)
    filled = np.where(known, table, np.where(np.isfinite(highest), highest, np.nan))
    return dict(zip(found, filled, strict=True))


def _records(found: Mapping[str, list[Ran]], values: Mapping[str, Array]) -> list[dict[str, Any]]:
    """A record of each method on a kind of problem, the lowest mean first."""
    records: list[dict[str, Any]] = []
    for label, runs in found.items():
        mean = clustered(torch.from_numpy(values[label]).unsqueeze(0))
        record: dict[str, Any] = {
            "method": label, "value": mean.mean, "value_low": mean.low, "value_high": mean.high,
            "failures": sum(bool(one.answer.failure) for one in runs),
            "reasons": sorted({one.answer.failure for one in runs if one.answer.failure}),
            "queries": sum(one.answer.queries for one in runs) / len(runs),
            "seconds": sum(one.seconds for one in runs),
        }  # fmt: skip
        if DEFAULT in values and label != DEFAULT:
            difference = clustered(torch.from_numpy(values[label] - values[DEFAULT]).unsqueeze(0))
            record |= {
                "difference": difference.mean, "difference_low": difference.low, "difference_high": difference.high,
                "verdict": verdict(difference.low, difference.high),
            }  # fmt: skip
        records.append(record)
    return sorted(records, key=lambda record: float(record["value"]))


def _table(name: str, made: Task, s: Settings, records: list[dict[str, Any]]) -> Table:
    columns = [
        ("method", "method", ""), ("lowest value", "value", ".4g"), (f"minus {DEFAULT}", "difference", "+.3g"),
        (f"against {DEFAULT}", "verdict", ""), ("failures", "failures", "d"), ("queries", "queries", ",.0f"),
        ("seconds", "seconds", ",.0f"),
    ]  # fmt: skip
    title = f"{name}: d = {made.dim}, {s.budget:,} evaluations, {s.problems} problems with a seed each"
    return records_table(name, title, columns, records)


def _summary(every: Mapping[str, list[dict[str, Any]]]) -> Table:
    """For each method, the numbers of kinds on which it beats the default, is beaten, or neither."""
    rows: dict[str, dict[str, Any]] = {}
    for records in every.values():
        for place, record in enumerate(records):
            row = rows.setdefault(record["method"], {"method": record["method"], "kinds": 0, "lowest": 0})
            row["kinds"] += 1
            row["lowest"] += place == 0
            if "verdict" in record:
                row[record["verdict"]] = row.get(record["verdict"], 0) + 1
    for row in rows.values():
        if row["method"] != DEFAULT:
            row |= {key: row.get(key, 0) for key in ("win", "loss", "undecided")}
    columns = [
        ("method", "method", ""), ("kinds", "kinds", "d"), ("lowest mean", "lowest", "d"),
        (f"beats {DEFAULT}", "win", "d"), (f"beaten by {DEFAULT}", "loss", "d"), ("undecided", "undecided", "d"),
    ]  # fmt: skip
    title = f"Kinds of problems on which each method beats {DEFAULT}, by the paired interval"
    return records_table("summary", title, columns, list(rows.values()))


def _findings(every: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """The number of kinds on which no method beats the default."""
    kinds = {name: records for name, records in every.items() if any(r["method"] == DEFAULT for r in records)}
    if not kinds:
        return []
    level = [name for name, records in kinds.items() if not any(r.get("verdict") == "win" for r in records)]
    told = f": {', '.join(level)}" if level else ""
    return [f"On {len(level)} of {len(kinds)} kinds no method beats zoracle.minimize by the paired interval{told}."]


def _line(runs: list[Ran], budget: int) -> Line:
    """The lowest value so far at about a hundred numbers of evaluations; NaN before the first value."""
    at = np.unique(np.linspace(1, budget, min(100, budget)).round())
    values = torch.full((1, len(runs), len(at)), torch.nan, dtype=torch.float64)
    for row, one in enumerate(runs):
        for queries, value in one.answer.curve:
            values[0, row, torch.from_numpy(at >= queries)] = value
    return line(at, values)


def _alike(panels: dict[str, dict[str, Line]], names: list[str]) -> dict[str, dict[str, Line]]:
    """Every method in every panel, so that the panels share a legend."""
    nothing = Line(*(np.empty(0) for _ in Line._fields))
    return {heading: {name: lines.get(name, nothing) for name in names} for heading, lines in panels.items()}


def work(s: Settings) -> Work:
    """The amount of work of a form; methods with dense models are counted as if they ran everywhere."""
    if unknown := [name for name in s.kinds if name not in PROBLEMS]:
        raise InputError(f"problem {unknown[0]!r} is unknown; expected one of {', '.join(PROBLEMS)}")
    runs = sum(label != "ars" or PROBLEMS[name].policy for label in known(s.methods) for name in s.kinds)
    return Work(s.budget * s.problems * runs)


FULL = Settings()
EXPERIMENT = Experiment(
    "black-boxes",
    "Problems that are not test functions, every optimizer with no setting.",
    f"""Policies for Gymnasium's Pendulum (16 hidden units) and MuJoCo's Swimmer and HalfCheetah (linear, as in \
augmented random search), by the return of a whole episode; a rover's path of 30 waypoints past obstacles; the \
penalties of a Lasso with 100, 300 and 1,000 coefficients, by cross-validation; how a small network is \
trained, by its validation loss; the weights of a network, by its training loss; an attack on an MNIST image. \
{FULL.problems} test problems of each task, {FULL.budget:,} evaluations each; problem r has seed r and a start \
of its own. None of them has noise: the initial states of a policy's problem, the folds and the images are the \
same in every evaluation.

No optimizer is given a setting. All are told the same bounds where there are any. pycma, which cannot do without a \
first width, is told a fifth of their range, 0.5 for weights and 0.1 for the attack. Local methods of SciPy and \
Py-BOBYQA are restarted from further starts of the task until the budget is gone, pycma with twice the population; \
augmented random search (ARS, V1) has the settings of its authors' code and runs on policies only.

What is compared is the lowest value that was evaluated, method by method minus `{DEFAULT}`, which is \
`zoracle.minimize` as it is, paired by problem, with 95 % intervals over problems; "win" means lower than \
`{DEFAULT}`. A run that raised counts with the highest value that another method ended at there.""",
    FULL,
    Settings(
        kinds=("pendulum", "rover", "lasso-100", "attack"),
        problems=2,
        budget=60,
        methods=(DEFAULT, "snes", "pycma", "scipy-l-bfgs-b", "ars"),
    ),
    run,
    work,
)
