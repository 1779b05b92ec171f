"""Tables of records, as they are read and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoracle.reporting.table import COLUMNS, Row, cells, shown_columns

Array = npt.NDArray[Any]


class Table(NamedTuple):
    """One table: as it is read, and as JSON."""

    name: str
    """Its key in ``table.json``."""
    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, Any]]
    """JSON values, one record a line, unrounded."""

    def markdown(self) -> str:
        """The table as Markdown."""
        head = "| " + " | ".join(map(_plain, self.headings)) + " |"
        rule = "| --- |" + " ---: |" * (len(self.headings) - 1)
        return "\n".join((head, rule, *("| " + " | ".join(map(_plain, line)) + " |" for line in self.lines))) + "\n"


def records_table(
    name: str, title: str, columns: Sequence[tuple[str, str, str]], records: Sequence[Mapping[str, Any]]
) -> Table:
    """A table of records: columns are heading, key, and format; with ``key_low`` and ``key_high`` the interval too."""
    lines = [[_cell(record, key, form) for _, key, form in columns] for record in records]
    return Table(name, title, [heading for heading, *_ in columns], lines, [_json(record) for record in records])


def rows_table(name: str, title: str, rows: Sequence[Row]) -> Table:
    """The table of a comparison."""
    shown = shown_columns(rows)
    lines = [
        [row.optimizer, *(f"{line[j].text} {line[j].interval}".strip() for j in shown)]
        for row, line in zip(rows, cells(rows), strict=True)
    ]
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


def _cell(record: Mapping[str, Any], key: str, form: str) -> str:
    value = record.get(key)
    low, high = record.get(f"{key}_low"), record.get(f"{key}_high")
    text = _number(value, form)
    interval = f" [{_number(low, form)}, {_number(high, form)}]" if _known(low) and _known(high) else ""
    return text + interval


def _number(value: Any, form: str) -> str:
    if not isinstance(value, str) and not _known(value):
        return "-"
    return format(value, form)


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not np.isfinite(value))


def _json(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {key: value if _known(value) else None for key, value in record.items()}


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
