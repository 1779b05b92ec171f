"""The figures of a run's report: loss, best loss and success against queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from textwrap import fill
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from zoracle.errors import require
from zoracle.reporting.figures import Figure, Style, styles
from zoracle.reporting.lines import legend, legend_rows
from zoracle.results.result import Result

Array = npt.NDArray[np.float64]

_SIZE = (5.0, 3.7)


def curves(results: Mapping[str, Result], stopping: bool = False) -> list[Figure]:
    """Loss and best loss against queries, and the success rate where the task knows one.

    Where runs stop at a success, the success rate comes first, and the loss of the iterate is left out.
    """
    style = styles(list(results))
    ends_only = any(bool(result.losses[..., 1:-1].isnan().all()) for result in results.values())
    figures = [
        _figure(
            "loss",
            "Loss of the iterate",
            "Thick line: mean over problems and repeats. Thin lines: each repeat's mean over problems. "
            "Band: the middle half of all problems and repeats."
            + (
                " Two dots: the optimizer does not evaluate its iterates; both ends were monitored."
                if ends_only
                else ""
            ),
            "loss",
            lambda axes: _loss(axes, results, style),
        ),
        _figure(
            "best",
            "Best loss so far",
            "Lowest loss of any point evaluated so far, mean over problems and repeats. "
            + ("Band: the middle half of all of them." if stopping else "Band as before."),
            "best loss so far",
            lambda axes: _best(axes, results, style),
        ),
    ]
    known = {label: result for label, result in results.items() if bool(result.first_known.all())}
    if known:
        figures.append(
            _figure(
                "success",
                "Success against queries",
                "Share of problems and repeats of which some point evaluated so far succeeded; queries on a log scale. "
                "Whatever never succeeds stays in the share.",
                "success",
                lambda axes: _success(axes, known, style),
            )
        )
    return [*figures[2:], figures[1]] if stopping else figures


def success_panels(name: str, title: str, panels: Mapping[str, Mapping[str, Result]]) -> Figure:
    """Success against queries, a panel for each comparison, up to three in a row, one legend for all."""
    labels = list(dict.fromkeys(label for results in panels.values() for label in results))
    style = styles(labels)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    wide = 3.1 * columns + 0.6

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (heading, results) in zip(grid.flat, panels.items(), strict=False):
            _success(axes, results, style)
            axes.set_title(fill(heading, 47), fontsize=9)  # a panel is about that wide
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        for label in labels:
            grid.flat[0].plot([], [], color=style[label].colour, dashes=style[label].dash, linewidth=1.8, label=label)
        figure.supxlabel("queries per image", fontsize=10)
        figure.supylabel("success", fontsize=10)
        legend(figure, grid.flat[0])

    caption = (
        "Share of images and repeats broken within this many queries (log scale); images never broken are included in "
        "the share."
    )
    return Figure(name, title, caption, draw, (wide, 2.6 * rows + 0.6 + legend_rows(labels, wide)))


def _loss(axes: Any, results: Mapping[str, Result], style: Mapping[str, Style]) -> None:
    data = {label: (r.queries.numpy().astype(float), _filled(r.losses)) for label, r in results.items()}
    _bands(axes, data, style, thin=True)


def _best(axes: Any, results: Mapping[str, Result], style: Mapping[str, Style]) -> None:
    data = {label: (r.queries.numpy().astype(float), _filled(r.best)) for label, r in results.items()}
    _bands(axes, data, style, thin=False)


def _bands(axes: Any, data: Mapping[str, tuple[Array, Array]], style: Mapping[str, Style], *, thin: bool) -> None:
    positive = True
    for label, (queries, values) in data.items():
        shown = np.isfinite(values).all((0, 1))
        x, y = queries.mean((0, 1))[shown], values[..., shown]
        if x.size == 0:
            continue
        colour, dash = style[label]
        low, high = np.quantile(y, [0.25, 0.75], axis=(0, 1))
        positive = positive and bool((low > 0).all() and (y.mean(1) > 0).all())
        if x.size <= 2 < values.shape[2]:  # both ends only: this optimizer does not evaluate its iterates
            axes.plot(x, y.mean((0, 1)), color=colour, linestyle=":", linewidth=0.8, marker="o")
            continue
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        if thin and y.shape[0] > 1:
            for repeat in y.mean(1):
                axes.plot(x, repeat, color=colour, linewidth=0.6, alpha=0.5)
        axes.plot(x, y.mean((0, 1)), color=colour, dashes=dash, linewidth=1.8)
    axes.set_xlim(left=0)
    if positive:
        _log(axes)


def _success(axes: Any, results: Mapping[str, Result], style: Mapping[str, Style]) -> None:
    for label, result in results.items():
        first = result.first_success[result.attacked].numpy()
        if not first.size:
            continue
        reached = np.sort(first[first > 0]).astype(float)
        end = float(result.allowance.max())
        x = np.concatenate(([1.0], reached, [end]))
        y = np.concatenate(([0.0], np.arange(1, reached.size + 1), [reached.size])) / first.size
        axes.step(x, y, where="post", color=style[label].colour, dashes=style[label].dash, linewidth=1.8)
    axes.set_xscale("log")
    axes.set_xlim(left=1)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _log(axes: Any) -> None:
    ticker = require("matplotlib.ticker", "report")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0,) if high / low > 1e3 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _filled(values: Tensor) -> Array:
    """(S, P, T + 1), where a value that is not finite repeats the last finite one; columns without any stay NaN.

    Where whole columns are missing, an optimizer that does not evaluate its iterates, they are left out.
    """
    array = values.double().numpy().copy()
    missing = ~np.isfinite(array)
    gaps = missing.all((0, 1))
    for t in range(1, array.shape[2]):
        if not gaps[t]:
            array[..., t] = np.where(missing[..., t], array[..., t - 1], array[..., t])
    array[~np.isfinite(array)] = np.nan
    return array


def _figure(name: str, title: str, caption: str, y: str, draw: Callable[[Any], None]) -> Figure:
    """A figure of one plot against queries."""

    def whole(figure: Any) -> None:
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel("queries per problem")
        axes.set_ylabel(y)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    return Figure(name, title, caption, whole, _SIZE)
