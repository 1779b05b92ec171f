"""The table of a comparison on a terminal: as many columns as fit, and no digit cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from zoracle.reporting.rows import Row
from zoracle.reporting.tables import COLUMNS, cells, number, shown_columns

#: Columns that labels take at least; longer ones continue in the next line.
_LABEL = 14
#: Characters between two columns, padding and a divider, and at the edges.
_GAP, _EDGES = 3, 2


class _Column(NamedTuple):
    """One column of numbers."""

    heading: str
    texts: list[Text]
    rank: int
    """The least important has the highest."""

    @property
    def width(self) -> int:
        return max(len(line) for text in (self.heading, *map(str, self.texts)) for line in text.split("\n"))


def rich_table(rows: Sequence[Row], title: str | None = None, width: int = 80) -> Table:
    """The main numbers for a terminal, best values bold.

    Args:
        rows: of the comparison.
        title: its heading.
        width: columns of the terminal. Where the table is wider, the least important numbers are left out, and the
            line below it says which.
    """
    columns = _columns(rows)
    labels = max([len(row.optimizer) for row in rows] + [len("optimizer")])
    kept = _fitting(columns, width - _EDGES - min(labels, _LABEL))
    missing = [column.heading.replace("\n", " ") for column in columns if column not in kept]
    table = Table(
        title=None if title is None else Text(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        caption=f"in table.md, and in a wider terminal: {', '.join(missing)}" if missing else None,
        caption_justify="left",
    )
    room = width - _EDGES - sum(column.width + _GAP for column in kept)
    table.add_column("optimizer", overflow="fold", min_width=min(labels, _LABEL, max(1, room)))
    for column in kept:
        table.add_column(column.heading, justify="right", no_wrap=True, min_width=column.width)
    for i, row in enumerate(rows):
        table.add_row(Text(row.optimizer), *(column.texts[i] for column in kept))
    return table


def _columns(rows: Sequence[Row]) -> list[_Column]:
    """The columns of numbers that the rows have, in the order in which they are shown."""
    brief: Mapping[str, str] = _BRIEF
    if rows and all(row.stop_on_success for row in rows):
        brief = _BRIEF_STOPPING
    if rows and rows[0].attacked is not None:
        brief = {**_ATTACK, **brief}
        if rows[0].stop_on_success:
            brief = {key: heading for key, heading in brief.items() if key not in ("success_ever", "l2", "linf")}
    shown, texts = shown_columns(rows), cells(rows)
    found = []
    for j, (_, key, *_) in enumerate(COLUMNS):
        if j not in shown or key not in brief:
            continue
        column = []
        for row, line in zip(rows, texts, strict=True):
            text = Text(line[j].text, style="bold green" if line[j].best else "")
            if key == "ratio" and row.ratio is not None and row.ratio_high is not None:
                text.append(f" ±{number(row.ratio_high - row.ratio, '.4f')}", style="not bold dim")
            column.append(text)
        found.append(_Column(brief[key], column, _IMPORTANCE.index(key)))
    return found


def _fitting(columns: list[_Column], width: int) -> list[_Column]:
    """Those that have room, the most important ones; one at least."""
    kept = list(columns)
    while len(kept) > 1 and sum(column.width + _GAP for column in kept) > width:
        kept.remove(max(kept, key=lambda column: column.rank))
    return kept


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

#: What an attack shows as well.
_ATTACK = {"attacked": "attacked", "broken": "broken", "robust_accuracy": "robust\naccuracy"}

#: From the number that stays to the one that goes first where there is no room.
_IMPORTANCE = (
    "robust_accuracy", "ratio", "success_ever", "broken", "queries_to_success_mean", "success_final", "l1",
    "queries_per_problem", "attacked", "queries_to_success_median", "l2", "linf", "seconds",
)  # fmt: skip
