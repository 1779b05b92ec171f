"""Tables: of a comparison's rows, and of any records; as they are read and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoracle.reporting.rows import Row

Array = npt.NDArray[Any]


#: Columns of the tables that people read: heading, key, whether it has an interval, digits, and which is better: "low",
#: "high", or "near", a distance, which is better where it is lower and as many succeed. Neither where it is "".
COLUMNS: tuple[tuple[str, str, bool, str, str], ...] = (
    ("attacked", "attacked", False, ",d", ""),
    ("broken", "broken", False, ",d", ""),
    ("robust accuracy", "robust_accuracy", True, ".1%", "low"),
    ("ratio", "ratio", True, ".4f", "low"),
    ("best ratio", "best_ratio", False, ".4f", "low"),
    ("final loss", "final_loss", True, ".4g", "low"),
    ("success final", "success_final", False, ".1%", "high"),
    ("success ever", "success_ever", False, ".1%", "high"),
    ("queries to success, mean", "queries_to_success_mean", False, ".1f", "low"),
    ("median", "queries_to_success_median", False, ".1f", "low"),
    ("l1", "l1", False, ".3f", "near"),
    ("l2", "l2", False, ".3f", "near"),
    ("linf", "linf", False, ".3f", "near"),
    ("queries", "queries_per_problem", False, ",.0f", ""),
    ("seconds", "seconds", False, ".1f", ""),
)


#: Where the settings of the row of several attacks' worst case come from.
WORST_CASE = "of all attacks"


class Cell(NamedTuple):
    """One place of a table as text."""

    text: str
    interval: str = ""
    """Empty where there is none."""
    best: bool = False
    """No other row is better, at the digits shown."""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()

    def markdown(self) -> str:
        """For a table in Markdown; the best is bold."""
        text = _plain(self.text)
        return f"{f'**{text}**' if self.best else text} {self.interval}".strip()


def cells(rows: Sequence[Row]) -> list[list[Cell]]:
    """The numbers of each row under COLUMNS, the best of each column marked where the rows differ in it.

    Attacks that were made on what others had left are not compared, and neither is the worst case of all.
    """
    values = [[getattr(row, key) for _, key, *_ in COLUMNS] for row in rows]
    texts = [[_text(value, COLUMNS[j][3]) for j, value in enumerate(line)] for line in values]
    alike = [i for i, row in enumerate(rows) if row.settings_from != WORST_CASE]
    if any(row.left_out for row in rows):
        alike = []
    best = [_best(rows, j, {i: (values[i][j], texts[i][j]) for i in alike}) for j in range(len(COLUMNS))]
    return [
        [
            Cell(texts[i][j], _interval(row, key) if has else "", i in alike and texts[i][j] in best[j])
            for j, (_, key, has, *_) in enumerate(COLUMNS)
        ]
        for i, row in enumerate(rows)
    ]


def _best(rows: Sequence[Row], column: int, found: Mapping[int, tuple[Any, str]]) -> set[str]:
    """The text of the best value of a column; none where all are alike, or better means nothing."""
    better = COLUMNS[column][-1]
    if better == "near":
        # A failed attack has moved less: distances tell of those that succeed as often as any.
        most = max((rows[i].success_final or 0.0 for i in found), default=0.0)
        found = {
            i: one for i, one in found.items() if not rows[i].stop_on_success and rows[i].success_final in (None, most)
        }
    known = [one for one in found.values() if one[0] is not None]
    choose = {"low": min, "near": min, "high": max}.get(better)
    differ = len({text for _, text in known}) > 1
    return {choose(known)[1]} if choose is not None and differ else set()


def shown_columns(rows: Sequence[Row]) -> list[int]:
    """Which of COLUMNS any row has a number for. Where runs stop at a success, how they end says nothing."""
    ends = {"ratio", "best_ratio", "final_loss", "success_final"} if all(row.stop_on_success for row in rows) else set()
    return [
        j
        for j, (_, key, *_) in enumerate(COLUMNS)
        if key not in ends and any(getattr(row, key) is not None for row in rows)
    ]


class Table(NamedTuple):
    """One table: as it is read, and as JSON."""

    name: str
    """Its key in ``table.json``."""
    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    records: Sequence[Mapping[str, Any]]
    """JSON values, one record a line, unrounded."""

    def markdown(self) -> str:
        """The table as Markdown."""
        head = "| " + " | ".join(map(_plain, self.headings)) + " |"
        rule = "| --- |" + " ---: |" * (len(self.headings) - 1)
        return (
            "\n".join(
                (head, rule, *("| " + " | ".join(cell.markdown() for cell in line) + " |" for line in self.lines))
            )
            + "\n"
        )


def records_table(
    name: str, title: str, columns: Sequence[tuple[str, str, str]], records: Sequence[Mapping[str, Any]]
) -> Table:
    """A table of records: columns are heading, key, and format; with ``key_low`` and ``key_high`` the interval too."""
    lines = [[_cell(record, key, form) for _, key, form in columns] for record in records]
    return Table(name, title, [heading for heading, *_ in columns], lines, [_json(record) for record in records])


def rows_table(name: str, title: str, rows: Sequence[Row]) -> Table:
    """The table of a comparison."""
    shown = shown_columns(rows)
    lines = [[Cell(row.optimizer), *(line[j] for j in shown)] for row, line in zip(rows, cells(rows), strict=True)]
    return Table(name, title, ["optimizer", *(COLUMNS[j][0] for j in shown)], lines, [row._asdict() for row in rows])


def differences_table(name: str, title: str, rows: Sequence[Row]) -> Table:
    """Each row of a comparison minus the first one, on the same problems and seeds, with 95 % intervals."""
    records: list[dict[str, Any]] = []
    for row in rows[1:]:
        record: dict[str, Any] = {"optimizer": row.optimizer, "minus": rows[0].optimizer}
        for key, interval in (row.versus_first or {}).items():
            record |= {key: interval["mean"], f"{key}_low": interval["low"], f"{key}_high": interval["high"]}
        records.append(record)
    columns = [("optimizer", "optimizer", ""), ("minus", "minus", ""), ("ratio", "ratio", "+.4f")]
    columns += [("final loss", "final_loss", "+.4g"), ("queries to success", "queries_to_success", "+.1f")]
    return records_table(name, title, [c for c in columns if any(c[1] in record for record in records)], records)


def markdown(tables: Sequence[Table]) -> str:
    """All tables of an experiment as Markdown."""
    return "\n".join(f"## {table.title}\n\n{table.markdown()}" for table in tables)


def _text(value: float | None, digits: str) -> str:
    return "-" if value is None else number(value, digits)


def number(value: float, digits: str) -> str:
    """As the column asks; a ratio too small for its four decimals gets two significant digits instead."""
    return f"{value:.2g}" if digits == ".4f" and 0 < abs(value) < 1e-3 else format(value, digits)


def _interval(row: Row, key: str) -> str:
    low, high = getattr(row, f"{key}_low"), getattr(row, f"{key}_high")
    if low is None or high is None:
        return ""
    digits = next(column[3] for column in COLUMNS if column[1] == key)
    return f"[{number(low, digits)}, {number(high, digits)}]"


def _cell(record: Mapping[str, Any], key: str, form: str) -> Cell:
    value = record.get(key)
    low, high = record.get(f"{key}_low"), record.get(f"{key}_high")
    interval = f"[{_formatted(low, form)}, {_formatted(high, form)}]" if _known(low) and _known(high) else ""
    return Cell(_formatted(value, form), interval)


def _formatted(value: Any, form: str) -> str:
    if not isinstance(value, str) and not _known(value):
        return "-"
    return format(value, form)


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not np.isfinite(value))


def _json(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {key: value if _known(value) else None for key, value in record.items()}


def _plain(text: str) -> str:
    """A text that cannot break a Markdown table, nor bring HTML, links or pictures into it."""
    for mark, harmless in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("](", "]\\("), ("\n", " ")):
        text = text.replace(mark, harmless)
    return text
