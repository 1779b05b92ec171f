"""Lines with bands, used in most figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from zoracle.errors import require
from zoracle.reporting.figures import Figure, styles
from zoracle.results.intervals import clustered
from zoracle.results.result import Result

Numbers = npt.NDArray[np.float64]

#: Said of every line with a band.
BAND = "Lines are means over problems and repeats, bands 95 % intervals over problems."


class Line(NamedTuple):
    """A mean and its interval along x; NaN where there is none."""

    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers


def line(x: Sequence[float] | Numbers, values: Tensor) -> Line:
    """The mean of values (S, P, N) at each of N places x, with its interval clustered by problem."""
    found = [clustered(values[..., i]) for i in range(values.shape[2])]
    columns = np.array(found, dtype=np.float64).T
    return Line(np.asarray(x, dtype=np.float64), *columns)


def points_line(x: Sequence[float], values: Sequence[Tensor]) -> Line:
    """As :func:`line`, from one tensor (S, P) a place, whose problems may differ from place to place."""
    columns = np.array([clustered(value) for value in values], dtype=np.float64).T
    return Line(np.asarray(x, dtype=np.float64), *columns)


def loss_line(result: Result) -> Line:
    """Loss of the iterate against queries; both ends only where iterates are not evaluated."""
    return _against_queries(result, result.losses)


def best_line(result: Result) -> Line:
    """Best loss so far against queries."""
    return _against_queries(result, result.best.masked_fill(~result.best.isfinite(), float("nan")))


def lines_figure(
    name: str,
    title: str,
    caption: str,
    lines: Mapping[str, Line],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = False,
    zero: bool = False,
) -> Figure:
    """A figure of several lines with their bands.

    Args:
        name: of the files.
        title: heading.
        caption: what is seen.
        lines: by label.
        x: label of the axis.
        y: likewise.
        log_x: whether the axis is logarithmic.
        log_y: likewise; only where all numbers are positive.
        markers: mark the places that were measured.
        zero: let the y axis begin at zero.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        plot(axes, lines, markers=markers)
        scale(axes, lines, log_x=log_x, log_y=log_y)
        if zero and not log_y:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        legend(figure, axes)

    return Figure(name, title, caption, draw)


def panels_figure(
    name: str, title: str, caption: str, panels: Mapping[str, Mapping[str, Line]], *, x: str, y: str, log_y: bool
) -> Figure:
    """Small figures side by side, one legend for all, up to five in a row."""
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    wide = max(5.2, 2.3 * columns + 0.6)  # a single panel leaves room for two columns of labels
    labels = list(next(iter(panels.values()), {}))
    tall = 1.9 * rows + (1.4 if len(panels) == 1 else 0.8) + legend_rows(labels, wide)

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (heading, lines) in zip(grid.flat, panels.items(), strict=False):
            plot(axes, lines, markers=False, width=1.2)
            scale(axes, lines, log_x=False, log_y=log_y)
            axes.set_title(heading, fontsize=9)
            axes.tick_params(labelsize=8)
        figure.supxlabel(x, fontsize=10)
        figure.supylabel(y, fontsize=10)
        legend(figure, grid.flat[0])

    return Figure(name, title, caption, draw, (wide, tall))


def legend(figure: Any, axes: Any) -> None:
    """The legend above the axes, where no line can be hidden by it."""
    handles, labels = axes.get_legend_handles_labels()
    across = _columns(labels, figure.get_figwidth())
    figure.legend(handles, labels, loc="outside upper center", ncols=across, frameon=False, fontsize=9)


def legend_rows(labels: Sequence[str], width: float) -> float:
    """Height of a legend in a figure of this width, both in inches."""
    return 0.2 * -(-len(labels) // _columns(labels, width))


def _columns(labels: Sequence[str], width: float) -> int:
    # Inches of the widest entry: its sample of the line, and letters of 9 points.
    wide = max(1.7, 0.6 + 0.075 * max(map(len, labels), default=0))
    return max(1, min(int(width / wide), len(labels)))


def plot(axes: Any, lines: Mapping[str, Line], *, markers: bool, width: float = 1.8) -> None:
    """Draw lines and their bands; a line of two ends is dotted between them."""
    style = styles(list(lines))
    for label, found in lines.items():
        colour, dash = style[label]
        known = np.isfinite(found.mean)
        here = [part[known] for part in found]
        if not here[0].size:
            axes.plot([], [], color=colour, dashes=dash, linewidth=width, label=label)  # for the legend
            continue
        ends = not markers and here[0].size <= 2 < found.x.size
        if ends:
            axes.plot(here[0], here[1], color=colour, linestyle=":", linewidth=0.9, marker="o", label=label)
            continue
        band = np.isfinite(here[2])
        axes.fill_between(here[0][band], here[2][band], here[3][band], color=colour, alpha=0.12, linewidth=0)
        marker = {"marker": "o", "markersize": 4} if markers or here[0].size == 1 else {}
        axes.plot(here[0], here[1], color=colour, dashes=dash, linewidth=width, label=label, **marker)


def scale(axes: Any, lines: Mapping[str, Line], *, log_x: bool, log_y: bool) -> None:
    """Axes with plain numbers, logarithmic where that is asked for and possible."""
    ticker = require("matplotlib.ticker", "report")
    for wanted, axis, set_scale in (
        (log_x, axes.xaxis, axes.set_xscale),
        (log_y and all(np.nanmin(one.mean, initial=np.inf) > 0 for one in lines.values()), axes.yaxis, axes.set_yscale),
    ):
        if wanted:
            set_scale("log")
            low, high = axis.get_view_interval()
            axis.set_major_locator(ticker.LogLocator(subs=(1.0,) if high / low > 1e3 else (1.0, 2.0, 5.0)))
            axis.set_minor_formatter(ticker.NullFormatter())
        if axis is axes.yaxis:
            axes.set_ylim(*_limits(lines, log=bool(wanted)))
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}")


def _limits(lines: Mapping[str, Line], *, log: bool) -> tuple[float | None, float | None]:
    """Limits that show every mean, and as much of the bands as does not squeeze the means together."""
    means = np.concatenate([one.mean[np.isfinite(one.mean)] for one in lines.values()] or [np.empty(0)])
    if not means.size:
        return None, None
    low, high = float(means.min()), float(means.max())
    bands = np.concatenate([band[np.isfinite(band)] for one in lines.values() for band in (one.low, one.high)])
    bands = np.concatenate((bands, means))
    if log:
        room = 1.6 * (high / low) ** 0.1
        bottom, top = max(low / room, 0.95 * max(float(bands.min()), 1e-300)), min(high * room, 1.05 * bands.max())
    else:
        room, pad = 0.35 * (high - low), 0.05 * (high - low)
        bottom, top = max(low - room, bands.min() - pad), min(high + room, bands.max() + pad)
    if not bottom < top:  # all the same
        return None, None
    return float(bottom), float(top)


def _against_queries(result: Result, values: Tensor, most: int = 400) -> Line:
    """Values (S, P, T + 1) at some hundred of the steps at most, the first and the last one included."""
    steps = values.shape[2]
    places = np.unique(np.linspace(0, steps - 1, min(most, steps)).round().astype(int))
    return line(result.queries.double().mean((0, 1)).numpy()[places], values[..., places])
