"""Figures as SVG and PNG, drawn with matplotlib's object interface: no window, no global figure."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from zoracle.errors import require
from zoracle.results.result import Result

Array = npt.NDArray[np.float64]

#: Readable on light and dark grounds, and told apart by most colour-blind readers; dashes repeat the distinction.
COLOURS = ("#2f7fd1", "#dd6b20", "#1d9e74", "#b65fb0", "#b58900", "#d1495b", "#3fa7c4", "#808890")
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.5), (6, 2, 1.5, 2), (10, 3), (1, 1), (8, 2, 2, 2), (4, 4))

_INK = "#010203"  # stands for the page's own text colour, which matplotlib cannot name
_SIZE = (5.0, 3.7)


class Style(NamedTuple):
    """How one optimizer is drawn in every figure."""

    colour: str
    dash: tuple[float, ...]


class Picture(NamedTuple):
    """One figure."""

    title: str
    caption: str
    svg: str
    """An svg element, safe to put into a page."""


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """A colour and a dash for each label; no two labels share both, for as many as there are pairs."""
    n = len(COLOURS)
    # Each time round the colours, the dashes are shifted by more: the ninth is not the first again.
    return {label: Style(COLOURS[i % n], DASHES[(i + 3 * (i // n)) % len(DASHES)]) for i, label in enumerate(labels)}


def curves(results: Mapping[str, Result], stopping: bool = False) -> list[Picture]:
    """Loss and best loss against queries, and the success rate where the task knows one.

    Where runs stop at a success, the success rate comes first, and the loss of the iterate is left out.
    """
    style = styles(list(results))
    ends_only = any(bool(result.losses[..., 1:-1].isnan().all()) for result in results.values())
    pictures = [
        Picture(
            "Loss of the iterate",
            "Thick line: mean over problems and repeats. Thin lines: each repeat's mean over problems. "
            "Band: the middle half of all problems and repeats."
            + (
                " Two dots: the optimizer does not evaluate its iterates; both ends were monitored."
                if ends_only
                else ""
            ),
            _svg(lambda axes: _loss(axes, results, style), "queries per problem", "loss", "loss"),
        ),
        Picture(
            "Best loss so far",
            "Lowest loss of any point evaluated so far, mean over problems and repeats. "
            + ("Band: the middle half of all of them." if stopping else "Band as before."),
            _svg(lambda axes: _best(axes, results, style), "queries per problem", "best loss so far", "best"),
        ),
    ]
    known = {label: result for label, result in results.items() if bool(result.first_known.all())}
    if known:
        pictures.append(
            Picture(
                "Success against queries",
                "Share of problems and repeats of which some point evaluated so far succeeded; queries on a log scale. "
                "Whatever never succeeds stays in the share.",
                _svg(lambda axes: _success(axes, known, style), "queries per problem", "success", "success"),
            )
        )
    return [*pictures[2:], pictures[1]] if stopping else pictures


def grey_png(image: Tensor) -> str:
    """An image (C, H, W) in [0, 1] as a data URI; one channel is grey, three are colours."""
    pixels = _pixels(image)
    return _png(pixels, cmap="gray", vmin=0.0, vmax=1.0) if pixels.ndim == 2 else _png(pixels)


def signed_png(change: Tensor, scale: float) -> str:
    """A change (C, H, W) in [-scale, scale] as a data URI: blue is darker, red is brighter, white is unchanged.

    Three channels are drawn as colours around grey.
    """
    pixels = _pixels(change) / (scale if scale > 0 else 1.0)
    if pixels.ndim == 2:
        return _png(pixels, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
    return _png(np.clip(0.5 + 0.5 * pixels, 0, 1))


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
        first = result.first_success[~result.misclassified].numpy()
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


def _svg(draw: Callable[[Any], None], xlabel: str, ylabel: str, salt: str) -> str:
    matplotlib = require("matplotlib", "report")
    figure_module = require("matplotlib.figure", "report")
    backend = require("matplotlib.backends.backend_svg", "report")
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "font.size": 11,
            "text.color": _INK,
            "axes.edgecolor": _INK,
            "axes.labelcolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "grid.color": _INK,
            "grid.alpha": 0.12,
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        figure = figure_module.Figure(figsize=_SIZE, layout="constrained")
        backend.FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), salt)


def _inline(svg: str, salt: str) -> str:
    """Only the svg element, as wide as the page allows, with the page's text colour and font, and ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", svg)
    svg = re.sub(r'\bid="', f'id="{salt}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\1{salt}-", svg)
    return svg.replace(_INK, "currentColor").strip()


def _pixels(image: Tensor) -> Array:
    array = image.detach().cpu().double().numpy()
    pixels: Array = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)[..., :3]
    return pixels


def _png(pixels: Array, **options: Any) -> str:
    image = require("matplotlib.image", "report")
    buffer = io.BytesIO()
    image.imsave(buffer, pixels, format="png", metadata={"Software": None}, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
