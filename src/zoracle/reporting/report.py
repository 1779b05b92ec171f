"""The report of a comparison or an attack."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoracle.reporting.attack_page import COUNTS, AttackPage
from zoracle.reporting.curves import curves
from zoracle.reporting.figures import inline_svg, styles
from zoracle.reporting.gallery import Gallery
from zoracle.reporting.page import write_page
from zoracle.reporting.pictures import grey_png, signed_png, signed_words
from zoracle.reporting.rows import Row
from zoracle.reporting.tables import COLUMNS, WORST_CASE, cells, shown_columns
from zoracle.results.result import Result

#: What a label looks like in a figure's key: a short line with its dash.
_KEY_LENGTH = 28

#: Numbers of ``versus_first`` by the words that a reader sees.
_DIFFERENCES = (("ratio", "ratio", ".4f"), ("queries_to_success", "queries to first success", ".1f"))


def write_report(
    path: Path,
    *,
    title: str,
    rows: Sequence[Row],
    results: Mapping[str, Result],
    config: Mapping[str, Any],
    versions: Mapping[str, Any],
    drawn: Sequence[str] | None = None,
    gallery: Gallery | None = None,
    notes: Sequence[str] = (),
    attack: AttackPage | None = None,
) -> None:
    """Write the report of a comparison, or of one optimizer's single run.

    Args:
        path: the HTML file.
        title: its heading.
        rows: what :func:`zoracle.reporting.rows.rows_of` made of the results, best first.
        results: by label.
        config: the run's settings, JSON values.
        versions: what computed the numbers, and when the run began.
        drawn: labels that have curves and pictures; None draws all.
        gallery: pictures, where the task is an attack.
        notes: lines that a reader should know, above the table.
        attack: what was attacked and how, where the run is an attack.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed; the message names the extra.
        InputError: the file cannot be written.
    """
    ordered = {row.optimizer: results[row.optimizer] for row in rows if drawn is None or row.optimizer in drawn}
    shown = shown_columns(rows)
    stopping = all(row.stop_on_success for row in rows)
    write_page(
        path,
        "run",
        title=title,
        lead=_lead(rows),
        notes=[*notes, *_warnings(rows)],
        rows=rows,
        parts=[
            (
                [COLUMNS[j][0] for j in some],
                [(row, [line[j] for j in some]) for row, line in zip(rows, cells(rows), strict=True)],
            )
            for some in _parts(shown)
        ],
        differences=_differences(rows),
        figures=[(figure, inline_svg(figure)) for figure in curves(ordered, stopping=stopping)],
        ensemble=config.get("ensemble"),
        sorted_by="queries to success" if stopping else "ratio",
        attack=attack,
        count_headings=COUNTS,
        styles=styles(list(ordered)),
        key_length=_KEY_LENGTH,
        drawn=list(ordered),
        strips=_strips(gallery, ordered),
        gallery=gallery,
        colours="" if gallery is None else signed_words(gallery.originals.shape[1]),
        settings=[(row, json.dumps(row.settings, indent=1, sort_keys=True)) for row in rows if row.settings],
        config=json.dumps(config, indent=1, sort_keys=True),
        versions=versions,
    )


#: Columns that a table of the page's width holds; one with an interval counts twice.
_WIDTH = 12
#: What a table of losses shows where all columns do not fit into one.
_LOSSES = ("ratio", "best_ratio", "final_loss", "l1", "l2", "linf")


def _parts(shown: Sequence[int]) -> list[list[int]]:
    """The columns of one table, or of two where one would be wider than the page."""
    if sum(2 if COLUMNS[j][2] else 1 for j in shown) <= _WIDTH:
        return [list(shown)]
    losses = [j for j in shown if COLUMNS[j][1] in _LOSSES]
    return [losses, [j for j in shown if j not in losses]]


class _Shot(NamedTuple):
    """One problem under one optimizer."""

    adversarial: str
    change: str
    predicted: str
    success: bool
    first: int
    l1: float
    l2: float
    linf: float


class _Strip(NamedTuple):
    """One problem under all optimizers, the best one first."""

    id: int
    original: str
    label: str
    predicted: str
    shots: list[_Shot]


def _strips(gallery: Gallery | None, ordered: Mapping[str, Result]) -> list[_Strip]:
    if gallery is None:
        return []
    return [
        _Strip(
            id=gallery.ids[i],
            original=grey_png(gallery.originals[i]),
            label=gallery.class_name(int(gallery.labels[i])),
            predicted=gallery.class_name(int(gallery.predicted[i])),
            shots=[_shot(gallery, label, i) for label in ordered],
        )
        for i in range(len(gallery.ids))
    ]


def _shot(gallery: Gallery, label: str, i: int) -> _Shot:
    outcome = gallery.outcomes[label]
    change = outcome.adversarial[i] - gallery.originals[i]
    return _Shot(
        adversarial=grey_png(outcome.adversarial[i]),
        change=signed_png(change, float(change.abs().max())),
        predicted=gallery.class_name(int(outcome.predicted[i])),
        success=bool(outcome.success[i]),
        first=int(outcome.first_success[i]),
        l1=float(outcome.l1[i]),
        l2=float(outcome.l2[i]),
        linf=float(outcome.linf[i]),
    )


def _lead(rows: Sequence[Row]) -> str:
    """A summary of the table in one or two sentences."""
    first = rows[0]
    runs = f"{_many(first.problems, 'problem')}, {_many(first.seeds, 'repeat')}"
    if first.attacked is not None and first.stop_on_success:
        return f"{_many(first.problems, 'image')}, {_many(first.seeds, 'repeat')}. {accuracies(rows)}."
    if first.stop_on_success:
        return _lead_stopping(first, runs)
    if first.ratio is None:
        return f"{runs}. No ratio is defined: the initial losses are not positive."
    text = f"{runs}. {first.optimizer} ends at {first.ratio:.4f} of the initial loss{_within(first)}"
    others = [row for row in rows[1:] if row.ratio is not None and row.versus_first is not None]
    if not others:
        return text + "."
    second = others[0]
    assert second.versus_first is not None
    gap = second.versus_first["ratio"]
    text += f"; the next, {second.optimizer}, at {second.ratio:.4f}{_within(second)}."
    if gap["low"] is None or gap["high"] is None:
        return text
    apart = "which excludes zero" if gap["low"] > 0 else "which includes zero: the difference is not significant"
    return text + (f" The paired difference is {gap['mean']:.4f} [{gap['low']:.4f}, {gap['high']:.4f}], {apart}.")


def accuracies(rows: Sequence[Row]) -> str:
    """Clean and robust accuracy of an attack, of several those of their worst case, in a sentence without its end."""
    row = rows[-1] if rows[-1].settings_from == WORST_CASE else rows[0]
    assert row.robust_accuracy is not None
    others = [one.optimizer for one in rows if one is not row] if row.settings_from == WORST_CASE else [row.optimizer]
    clean = "" if row.clean_accuracy is None else f"clean accuracy {row.clean_accuracy:.1%}, "
    text = (
        f"{clean}robust accuracy {row.robust_accuracy:.1%} "
        f"[{row.robust_accuracy_low:.1%}, {row.robust_accuracy_high:.1%}]: {row.broken:,} of {row.attacked:,} "
        f"{'images' if row.seeds == 1 else 'runs'} broken by {_listed(others)}"
    )
    return text[0].upper() + text[1:]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _within(row: Row) -> str:
    return "" if row.ratio_low is None else f" [{row.ratio_low:.4f}, {row.ratio_high:.4f}]"


def _lead_stopping(first: Row, runs: str) -> str:
    if first.success_ever is None:
        return f"{runs}. No success is defined, or no image was attacked."
    text = f"{runs}. {first.optimizer} succeeds on {first.success_ever:.1%}"
    if first.queries_to_success_mean is not None:
        text += (
            f", after {first.queries_to_success_mean:,.1f} queries on average and "
            f"{first.queries_to_success_median:,.1f} in the median; failures count at the whole budget"
        )
    return text + "."


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _warnings(rows: Sequence[Row]) -> list[str]:
    told = [
        f"{lost}; {row.non_finite_finals:,} runs ended with a non-finite loss." for row in rows if (lost := row.lost())
    ]
    undefined = max((row.ratio_undefined for row in rows), default=0)
    if undefined:
        told.append(f"{undefined:,} runs start at a loss that is not positive; only the ratios exclude them.")
    if len({row.queries_per_problem for row in rows}) > 1 and not all(row.stop_on_success for row in rows):
        told.append("The optimizers spent different numbers of queries; compare the curves, not only the final values.")
    return told


def _differences(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each row minus the first, as text: the optimizer, and (what, difference with its interval)."""
    told = []
    for row in rows:
        if row.versus_first is None:
            continue
        parts = []
        for key, words, digits in _DIFFERENCES:
            if key == "ratio" and row.stop_on_success:
                continue
            difference = row.versus_first.get(key)
            if difference is None or difference["mean"] is None:
                continue
            text = f"{difference['mean']:+{digits}}"
            if difference["low"] is not None and difference["high"] is not None:
                text += f" [{difference['low']:+{digits}}, {difference['high']:+{digits}}]"
            parts.append((words, text))
        told.append((row.optimizer, parts))
    return told
