"""Tables, figures and pages for runs and experiments."""

from __future__ import annotations

from zoracle.reporting.curves import success_panels
from zoracle.reporting.figures import Figure, write_figure
from zoracle.reporting.lines import BAND, Line, best_line, line, lines_figure, loss_line, panels_figure, points_line
from zoracle.reporting.output import curve_arrays
from zoracle.reporting.page import check_extra, write_page
from zoracle.reporting.rows import Row, rows_of
from zoracle.reporting.tables import Array, Cell, Table, differences_table, markdown, records_table, rows_table

__all__ = [
    "BAND",
    "Array",
    "Cell",
    "Figure",
    "Line",
    "Row",
    "Table",
    "best_line",
    "check_extra",
    "curve_arrays",
    "differences_table",
    "line",
    "lines_figure",
    "loss_line",
    "markdown",
    "panels_figure",
    "points_line",
    "records_table",
    "rows_of",
    "rows_table",
    "success_panels",
    "write_figure",
    "write_page",
]
