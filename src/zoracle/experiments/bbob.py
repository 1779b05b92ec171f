"""COCO's suites of functions: large-scale and noisy, with every optimizer untuned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from zoracle.errors import InputError
from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.context import Context
from zoracle.experiments.untuned import DEFAULT, METHODS, available, known
from zoracle.experiments.untuned.asking import Point
from zoracle.experiments.untuned.coco import GROUPS, REACH, SUITES, TARGETS, WIDTH, area, coco_run, reached
from zoracle.experiments.untuned.ranking import mean_ranks, places
from zoracle.experiments.untuned.shards import Ran, Shard, ran
from zoracle.experiments.work import Work
from zoracle.reporting import Array, Line, Table, panels_figure, records_table

#: Differences below COCO's last target precision are none.
_SOLVED = float(TARGETS[-1])


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        dimensions: d of `bbob-largescale`: 20, 40, 80, 160, 320, 640; empty leaves the suite out.
        budgets: evaluations per dimension.
        noisy_dimensions: d of `bbob-noisy`: 2, 3, 5, 10, 20, 40.
        noisy_budgets: evaluations per dimension there.
        instances: of each function.
        functions: numbers 1, 2, ... within each suite; empty for all.
        methods: labels.
    """

    dimensions: tuple[int, ...] = (40, 80, 160, 320, 640)
    budgets: tuple[int, ...] = (10, 50, 200)
    noisy_dimensions: tuple[int, ...] = (40,)
    noisy_budgets: tuple[int, ...] = (100,)
    instances: tuple[int, ...] = (1, 2, 3)
    functions: tuple[int, ...] = ()
    methods: tuple[str, ...] = tuple(name for name in METHODS if name != "ars")


class _Cell(NamedTuple):
    """A suite, a dimension and a budget."""

    suite: str
    dim: int
    times: int
    """Evaluations per dimension."""
    functions: tuple[int, ...]

    @property
    def name(self) -> str:
        """As used in keys."""
        return f"{self.suite}-d{self.dim}-{self.times}d"

    @property
    def budget(self) -> int:
        """Evaluations."""
        return self.dim * self.times


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    methods, missing = available(s.methods)
    for sentence in missing:
        context.note(sentence)
    tables: list[Table] = []
    curves: dict[str, Array] = {}
    panels: dict[str, dict[str, Line]] = {}
    every: list[dict[str, Any]] = []
    for cell in cells(s):
        there = [name for name, method in methods.items() if method.most is None or cell.dim <= method.most]
        if left := sorted(set(methods) - set(there)):
            context.note(f"{', '.join(left)} did not run at d = {cell.dim}: its models are dense")
        found = {name: _of_method(context, cell, name) for name in there}
        records = _records(cell, found)
        for record in records:
            if record["failures"]:
                context.note(f"{cell.name}: {record['method']} failed in {record['failures']} runs, counted as last")
        every += records
        tables.append(_table(cell, records, len(s.instances)))
        panels[f"{_short(cell.suite)} d = {cell.dim}, {cell.times} d"] = {
            name: _line(runs, cell.dim, cell.budget) for name, runs in found.items()
        }
        for name, runs in found.items():
            curves[f"{cell.name}/{name}.gap"] = np.array([_gap(one) for one in runs])
            curves[f"{cell.name}/{name}.reached"] = np.stack([_reached(one) for one in runs])
    summary = _summary(every)
    figure = panels_figure(
        "targets", "Share of target precisions reached",
        "Over functions, instances and 51 precisions from 10^2 to 10^-8, against the logarithm (base 10) of "
        "evaluations per dimension; a run that failed reaches none.",
        _alike(panels, list(methods)), x="log10(evaluations / d)", y="share of targets", log_y=False,
    )  # fmt: skip
    return Outcome([summary, *tables], [figure], curves, _findings(summary))


def cells(s: Settings) -> Iterator[_Cell]:
    """The cells of the experiment.

    Raises:
        InputError: a suite does not have one of the functions.
    """
    for suite, dims, budgets in (
        ("bbob-largescale", s.dimensions, s.budgets),
        ("bbob-noisy", s.noisy_dimensions, s.noisy_budgets),
    ):
        if wrong := [one for one in s.functions if not 1 <= one <= max(SUITES.values())]:
            raise InputError(f"function {wrong[0]} is unknown; expected 1 .. {SUITES[suite]}, numbers within a suite")
        functions = tuple(i for i in range(1, SUITES[suite] + 1) if not s.functions or i in s.functions)
        for dim in dims:
            for times in budgets:
                yield _Cell(suite, dim, times, functions)


def _of_method(context: Context, cell: _Cell, name: str) -> list[Ran]:
    """The runs of a method in a cell, functions first."""
    base = context.run.pieces / cell.name / name
    shards = [
        Shard(
            base / f"f{function:03d}-i{instance:02d}.safetensors",
            {
                "suite": cell.suite, "function": function, "instance": instance, "dim": cell.dim,
                "budget": cell.budget, "method": name,
            },
        )
        for function in cell.functions
        for instance in context.settings.instances
    ]  # fmt: skip
    found = ran(context, f"{cell.name} {name}", shards, coco_run)
    return [found[shard.path] for shard in shards]


def _gap(one: Ran) -> float:
    """Final f - f_opt, as used for ranks."""
    return float("inf") if one.answer.failure else max(one.answer.value, _SOLVED)


def _reached(one: Ran) -> Point:
    return reached([] if one.answer.failure else one.answer.curve)


def _records(cell: _Cell, found: dict[str, list[Ran]]) -> list[dict[str, Any]]:
    """A record of each method in a cell, the best rank first."""
    ranks = mean_ranks({name: [_gap(one) for one in runs] for name, runs in found.items()})
    groups = _by_group(cell, found)
    records = []
    for name, runs in found.items():
        spent = np.stack([_reached(one) for one in runs])
        records.append(
            {
                "suite": cell.suite, "dimension": cell.dim, "budget": cell.times, "method": name, "rank": ranks[name],
                "targets": float(np.isfinite(spent).mean()), "area": float(area(spent, cell.budget).mean()),
                "failures": sum(bool(one.answer.failure) for one in runs), "runs": len(runs),
                "queries": sum(one.answer.queries for one in runs), "seconds": sum(one.seconds for one in runs),
                **{f"rank, {group}": found_ranks[name] for group, found_ranks in groups.items()},
            }
        )  # fmt: skip
    return sorted(records, key=lambda record: float(record["rank"]))


def _by_group(cell: _Cell, found: dict[str, list[Ran]]) -> dict[str, dict[str, float]]:
    """The mean rank of each method on each of COCO's groups of functions that any function of the cell is of."""
    each = len(next(iter(found.values()))) // len(cell.functions)
    ranks = {}
    for group, (first, last) in GROUPS[cell.suite].items():
        own = [i for i, function in enumerate(cell.functions) if first <= function <= last]
        if own:
            rows = [each * i + k for i in own for k in range(each)]
            ranks[group] = mean_ranks({name: [_gap(runs[row]) for row in rows] for name, runs in found.items()})
    return ranks


def _table(cell: _Cell, records: list[dict[str, Any]], instances: int) -> Table:
    columns = [
        ("method", "method", ""), ("mean rank", "rank", ".2f"), ("targets reached", "targets", ".3f"),
        ("ECDF area", "area", ".3f"), ("failures", "failures", "d"), ("seconds", "seconds", ",.0f"),
        *((key, key, ".2f") for key in records[0] if key.startswith("rank, ")),
    ]  # fmt: skip
    title = (
        f"{cell.suite}, d = {cell.dim}, {cell.times} d evaluations: {len(cell.functions)} functions, "
        f"{instances} instance{'' if instances == 1 else 's'}"
    )
    return records_table(cell.name, title, columns, records)


def _summary(records: list[dict[str, Any]]) -> Table:
    """The number of cells in which each method has the best mean rank, and its worst place."""
    by_cell: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for record in records:
        by_cell.setdefault((record["suite"], record["dimension"], record["budget"]), {})[record["method"]] = record
    by_rank = places([{name: r["rank"] for name, r in cell.items()} for cell in by_cell.values()])
    by_area = places([{name: -r["area"] for name, r in cell.items()} for cell in by_cell.values()])
    rows = [
        {
            "method": name, "cells": len(taken), "first": taken.count(1), "worst": max(taken),
            "rank": float(np.mean([r["rank"] for r in records if r["method"] == name])),
            "area_first": by_area[name].count(1), "area_worst": max(by_area[name]),
        }
        for name, taken in by_rank.items()
    ]  # fmt: skip
    columns = [
        ("method", "method", ""), ("cells", "cells", "d"), ("mean rank", "rank", ".2f"),
        ("first by mean rank", "first", "d"), ("worst place", "worst", "d"),
        ("first by ECDF area", "area_first", "d"), ("worst place by area", "area_worst", "d"),
    ]  # fmt: skip
    title = "Places over all cells (suite, dimension, budget)"
    return records_table("summary", title, columns, sorted(rows, key=lambda row: float(row["rank"])))


def _findings(summary: Table) -> list[str]:
    return [
        f"zoracle.minimize with no setting has the best mean rank in {row['first']} of {row['cells']} cells and the "
        f"largest ECDF area in {row['area_first']}; its worst place is {row['worst']}."
        for row in summary.records
        if row["method"] == DEFAULT
    ]


def _line(runs: list[Ran], dim: int, budget: int) -> Line:
    """Share of targets reached against log10(evaluations / d)."""
    spent = np.stack([_reached(one) for one in runs])
    at = np.geomspace(1, budget, 100)
    share = (spent[None] <= at[:, None, None]).mean((1, 2))
    none = np.full_like(share, np.nan)
    return Line(np.log10(at / dim), share, none, none)


def _alike(panels: dict[str, dict[str, Line]], names: list[str]) -> dict[str, dict[str, Line]]:
    """Every method in every panel, so that the panels share a legend."""
    nothing = Line(*(np.empty(0) for _ in Line._fields))
    return {heading: {name: lines.get(name, nothing) for name in names} for heading, lines in panels.items()}


def _short(suite: str) -> str:
    return suite.removeprefix("bbob-")


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    methods = known(s.methods).values()
    return Work(
        sum(
            cell.budget * len(cell.functions) * len(s.instances)
            for cell in cells(s)
            for method in methods
            if method.most is None or cell.dim <= method.most
        )
    )


FULL = Settings()
EXPERIMENT = Experiment(
    "bbob",
    "COCO's large-scale and noisy suites, every optimizer with no setting.",
    f"""The functions of COCO's `bbob-largescale` (d = {", ".join(map(str, FULL.dimensions))}; \
{", ".join(map(str, FULL.budgets))} evaluations per dimension) and `bbob-noisy` (d = 40; 100 evaluations per \
dimension), which are test problems: nothing here was trained, tuned or chosen on them. Instances \
{", ".join(map(str, FULL.instances))} of each.

No optimizer is given a setting. Each begins at the same start, drawn in [-{REACH:g}, {REACH:g}]^d, keyed by seed 0 \
and the problem. Those that cannot do without a first width (pycma) are told {WIDTH / 5:g}, a fifth of the range; \
this package's are not. Local methods of SciPy and Py-BOBYQA are restarted from further draws until the budget is \
gone, pycma with twice the population. Every evaluation is counted, and a method is stopped at the budget exactly; \
one that raises ranks last on that problem and reaches no target.

Ranks are by the lowest f - f_opt, without noise, after the whole budget; what is below {_SOLVED:g} is level. Targets \
are COCO's 51 precisions from 10^2 to 10^-8; the ECDF area is the area under their share against the logarithm of the \
evaluations, 1 where all were reached at once. `coco/` in this folder holds COCO's own files: `python -m cocopp \
coco/SUITE/*` draws its pages.""",
    FULL,
    Settings(
        dimensions=(20,), budgets=(10,), noisy_dimensions=(5,), noisy_budgets=(20,), instances=(1,),
        functions=(1, 8), methods=(DEFAULT, "snes", "pycma", "scipy-l-bfgs-b", "scipy-powell"),
    ),
    run,
    work,
    needs=(("cocoex", "coco"),),
)  # fmt: skip
