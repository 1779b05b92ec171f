"""The rows of a comparison, and the forms in which they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from zoracle.results.intervals import Interval
from zoracle.results.metrics import paired, summarise
from zoracle.results.result import Result


class Row(NamedTuple):
    """One optimizer's numbers, in the order of ``table.json``; None where the task does not define a number.

    The words are defined in :mod:`zoracle.results.metrics`. Intervals are 95 %.
    """

    optimizer: str
    problems: int
    seeds: int
    queries_per_problem: float
    final_loss: float | None
    final_loss_low: float | None
    final_loss_high: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    best_ratio: float | None
    success_final: float | None
    success_ever: float | None
    queries_to_success_mean: float | None
    queries_to_success_median: float | None
    l1: float | None
    l2: float | None
    linf: float | None
    seconds: float
    """Wall-clock seconds of all its runs."""
    steps: int
    monitor_queries_per_problem: float
    """Points evaluated only to report; not among queries_per_problem."""
    non_finite_values: int
    non_finite_finals: int
    ratio_undefined: int
    settings: dict[str, Any]
    """All settings it ran with."""
    settings_from: str
    """Where those came from: "given", "defaults", "defaults, none tuned", "tuned" or "tuned in this run"."""
    misclassified: int
    """Runs whose start was checked and is a success: there was nothing to attack."""
    stop_on_success: bool
    """Whether problems stopped at their first success."""
    versus_first: dict[str, dict[str, float | None]] | None
    """This row minus the first row on the same problems and seeds: mean, low, high of ratio, final_loss and
    queries_to_success. None in the first row."""


def rows_of(
    results: Mapping[str, Result],
    settings: Mapping[str, dict[str, Any]] | None = None,
    settings_from: Mapping[str, str] | None = None,
    stopping: bool = False,
) -> list[Row]:
    """Rows with the best first and undefined ones last.

    Sorted by ratio, and by final loss where there is none; where runs stop at a success, by queries to it first.
    """
    order = sorted(results, key=lambda label: _rank(results[label], stopping))
    first = results[order[0]] if order else None
    rows = []
    for label in order:
        versus = None if results[label] is first or first is None else paired(results[label], first)
        rows.append(
            _row(
                label,
                results[label],
                (settings or {}).get(label, {}),
                (settings_from or {}).get(label, "given"),
                versus,
                stopping,
            )
        )
    return rows


#: Columns of the tables that people read: heading, key, key of the interval or None, digits, and which is better.
COLUMNS: tuple[tuple[str, str, bool, str, str], ...] = (
    ("ratio", "ratio", True, ".4f", "low"),
    ("best ratio", "best_ratio", False, ".4f", "low"),
    ("final loss", "final_loss", True, ".4g", "low"),
    ("success final", "success_final", False, ".1%", "high"),
    ("success ever", "success_ever", False, ".1%", "high"),
    ("queries to success, mean", "queries_to_success_mean", False, ".1f", "low"),
    ("median", "queries_to_success_median", False, ".1f", "low"),
    ("l1", "l1", False, ".3f", "low"),
    ("l2", "l2", False, ".3f", "low"),
    ("linf", "linf", False, ".3f", "low"),
    ("queries", "queries_per_problem", False, ",.0f", ""),
    ("seconds", "seconds", False, ".1f", ""),
)


class Cell(NamedTuple):
    """One number as text."""

    text: str
    interval: str
    """Empty where there is none."""
    best: bool
    """No other row is better, at the digits shown."""


def cells(rows: Sequence[Row]) -> list[list[Cell]]:
    """The numbers of each row under COLUMNS, the best of each column marked where the rows differ in it."""
    values = [[getattr(row, key) for _, key, *_ in COLUMNS] for row in rows]
    texts = [[_text(value, COLUMNS[j][3]) for j, value in enumerate(line)] for line in values]
    best: list[set[str]] = []
    for j, (*_, better) in enumerate(COLUMNS):
        known = [(line[j], texts[i][j]) for i, line in enumerate(values) if line[j] is not None]
        choose = {"low": min, "high": max}.get(better)
        differ = len({text for _, text in known}) > 1
        best.append({choose(known)[1]} if choose is not None and differ else set())
    return [
        [
            Cell(texts[i][j], _interval(row, key) if has else "", texts[i][j] in best[j])
            for j, (_, key, has, *_) in enumerate(COLUMNS)
        ]
        for i, row in enumerate(rows)
    ]


def shown_columns(rows: Sequence[Row]) -> list[int]:
    """Which of COLUMNS any row has a number for. Where runs stop at a success, how they end says nothing."""
    ends = {"ratio", "best_ratio", "final_loss", "success_final"} if all(row.stop_on_success for row in rows) else set()
    return [
        j
        for j, (_, key, *_) in enumerate(COLUMNS)
        if key not in ends and any(getattr(row, key) is not None for row in rows)
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown; best values are bold, intervals in brackets."""
    shown = shown_columns(rows)
    lines = [
        "| optimizer | " + " | ".join(COLUMNS[j][0] for j in shown) + " |",
        "| --- |" + " ---: |" * len(shown),
    ]
    for row, line in zip(rows, cells(rows), strict=True):
        texts = []
        for j in shown:
            cell = line[j]
            text = f"**{cell.text}**" if cell.best else cell.text
            texts.append(f"{text} {cell.interval}".strip())
        lines.append(f"| {_plain(row.optimizer)} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def rich_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """The table for a terminal of 80 columns: the main numbers only, best values bold."""
    shown = shown_columns(rows)
    table = Table(
        title=None if title is None else Text(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("optimizer", overflow="fold", min_width=14)
    brief = _BRIEF_STOPPING if rows and all(row.stop_on_success for row in rows) else _BRIEF
    columns = [(j, heading) for j, (_, key, *_) in enumerate(COLUMNS) if j in shown and (heading := brief.get(key))]
    for _, heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row, line in zip(rows, cells(rows), strict=True):
        texts = [Text(row.optimizer)]
        for j, _ in columns:
            text = Text(line[j].text, style="bold green" if line[j].best else "")
            if COLUMNS[j][1] == "ratio" and row.ratio is not None and row.ratio_high is not None:
                text.append(f" ±{_number(row.ratio_high - row.ratio, '.4f')}", style="not bold dim")
            texts.append(text)
        table.add_row(*texts)
    return table


#: What a terminal shows of COLUMNS, and its headings.
_BRIEF = {
    "ratio": "ratio ± 95 %",
    "success_final": "success\nat end",
    "success_ever": "ever",
    "queries_to_success_mean": "queries to\nsuccess",
    "l1": "l1",
    "queries_per_problem": "spent",
    "seconds": "s",
}


#: Likewise, where runs stop at their first success.
_BRIEF_STOPPING = {
    "success_ever": "success",
    "queries_to_success_mean": "queries to\nsuccess",
    "queries_to_success_median": "median",
    "l2": "l2",
    "linf": "linf",
    "queries_per_problem": "spent",
    "seconds": "s",
}


def _row(
    label: str,
    result: Result,
    settings: dict[str, Any],
    source: str,
    versus: dict[str, Interval] | None,
    stopping: bool,
) -> Row:
    s = summarise(result)
    return Row(
        optimizer=label,
        problems=result.ids.shape[1],
        seeds=result.ids.shape[0],
        queries_per_problem=s.queries_per_problem,
        final_loss=_finite(s.final_loss.mean),
        final_loss_low=_finite(s.final_loss.low),
        final_loss_high=_finite(s.final_loss.high),
        ratio=_finite(s.ratio.mean),
        ratio_low=_finite(s.ratio.low),
        ratio_high=_finite(s.ratio.high),
        best_ratio=_finite(s.best_ratio),
        success_final=s.success_final,
        success_ever=s.success_ever,
        queries_to_success_mean=s.queries_to_success_mean,
        queries_to_success_median=s.queries_to_success_median,
        l1=s.l1,
        l2=s.l2,
        linf=s.linf,
        seconds=s.seconds,
        steps=result.losses.shape[2] - 1,
        monitor_queries_per_problem=s.monitor_queries_per_problem,
        non_finite_values=s.non_finite_values,
        non_finite_finals=s.non_finite_finals,
        ratio_undefined=s.ratio_undefined,
        misclassified=s.misclassified,
        stop_on_success=stopping,
        settings=settings,
        settings_from=source,
        versus_first=None
        if versus is None
        else {name: {k: _finite(v) for k, v in i._asdict().items()} for name, i in versus.items()},
    )


def _rank(result: Result, stopping: bool) -> tuple[float, float, float]:
    s = summarise(result)
    first = s.queries_to_success_mean if stopping else 0.0
    return math.inf if first is None else first, _last(s.ratio.mean), _last(s.final_loss.mean)


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _text(value: float | None, digits: str) -> str:
    return "-" if value is None else _number(value, digits)


def _number(value: float, digits: str) -> str:
    """As the column asks; a ratio too small for its four decimals gets two significant digits instead."""
    return f"{value:.2g}" if digits == ".4f" and 0 < abs(value) < 1e-3 else format(value, digits)


def _interval(row: Row, key: str) -> str:
    low, high = getattr(row, f"{key}_low"), getattr(row, f"{key}_high")
    if low is None or high is None:
        return ""
    digits = next(column[3] for column in COLUMNS if column[1] == key)
    return f"[{_number(low, digits)}, {_number(high, digits)}]"


def _plain(label: str) -> str:
    """A label that cannot break a Markdown table."""
    return label.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
