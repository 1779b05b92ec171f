"""The table of a comparison on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from zoracle.reporting.rows import Row
from zoracle.reporting.tables import COLUMNS, cells, number, shown_columns


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
                text.append(f" ±{number(row.ratio_high - row.ratio, '.4f')}", style="not bold dim")
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
