"""Figures as SVG and PNG, drawn with matplotlib's object interface: no window, no global figure."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoracle.errors import require
from zoracle.storage.files import write_bytes

#: Readable on light and dark grounds, and distinguished by most colour-blind readers; dashes repeat the distinction.
COLOURS = ("#2f7fd1", "#dd6b20", "#1d9e74", "#b65fb0", "#b58900", "#d1495b", "#3fa7c4", "#808890")
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.5), (6, 2, 1.5, 2), (10, 3), (1, 1), (8, 2, 2, 2), (4, 4))

_INK = "#010203"  # stands for the page's own text colour, which matplotlib cannot name


class Style(NamedTuple):
    """How one optimizer is drawn in every figure."""

    colour: str
    dash: tuple[float, ...]


class Figure(NamedTuple):
    """One figure, drawn on axes when matplotlib is there."""

    name: str
    """Of its files, without a suffix."""
    title: str
    caption: str
    draw: Callable[[Any], None]
    """Draws on a figure of matplotlib's."""
    size: tuple[float, float] = (6.4, 4.2)
    """Inches."""


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """A colour and a dash for each label; no two labels share both, for as many as there are pairs."""
    n = len(COLOURS)
    # Each time round the colours, the dashes are shifted by more: the ninth is not the first again.
    return {label: Style(COLOURS[i % n], DASHES[(i + 3 * (i // n)) % len(DASHES)]) for i, label in enumerate(labels)}


#: What all figures have in common.
_STYLE = {
    "svg.fonttype": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_figure(figure: Figure, folder: Path) -> list[Path]:
    """Write a figure as SVG and PNG.

    Raises:
        MissingExtraError: matplotlib is not installed; the message names the extra.
        InputError: the files cannot be written.
    """
    matplotlib = require("matplotlib", "report")
    agg = require("matplotlib.backends.backend_agg", "report")
    paths = []
    style = {"svg.hashsalt": figure.name, "font.size": 10.5, "grid.alpha": 0.2, "axes.titlelocation": "left"}
    with matplotlib.rc_context({**_STYLE, **style}):
        made = _drawn(figure, agg.FigureCanvasAgg)
        for form, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            made.savefig(buffer, format=form, metadata=metadata, dpi=150)
            paths.append(folder / f"{figure.name}.{form}")
            write_bytes(paths[-1], buffer.getvalue())
    return paths


def inline_svg(figure: Figure) -> str:
    """A figure as an svg element, safe to put into a page: in the page's text colour and font, with ids of its own.

    Raises:
        MissingExtraError: matplotlib is not installed; the message names the extra.
    """
    matplotlib = require("matplotlib", "report")
    backend = require("matplotlib.backends.backend_svg", "report")
    colours = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _INK
    )
    style = {"svg.hashsalt": figure.name, "font.size": 11, "grid.alpha": 0.12}
    with matplotlib.rc_context({**_STYLE, **colours, **style}):
        made = _drawn(figure, backend.FigureCanvasSVG)
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), figure.name)


def _drawn(figure: Figure, canvas: Callable[[Any], Any]) -> Any:
    """A figure of matplotlib's on a canvas."""
    made = require("matplotlib.figure", "report").Figure(figsize=figure.size, layout="constrained")
    canvas(made)
    figure.draw(made)
    return made


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
