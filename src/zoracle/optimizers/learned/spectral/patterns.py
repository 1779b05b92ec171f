"""Periodic sign patterns over the whole image, the first queries of a search within a ball."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from zoracle.optimizers.learned.spectral.basis import Array, Shape

#: Periods in pixels.
PERIODS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
#: Periods of the coloured patterns.
COLOURED = (2, 4, 8, 16, 32)
#: Signs of the three channels; the first is grey.
COLOURS = ((1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, 1, 1))
#: Stripes that change along x, along y and along either diagonal; products of the first two and of the last two.
KINDS = ("x", "y", "diagonal", "antidiagonal", "product", "diagonal product", "constant")


class Pattern(NamedTuple):
    """One pattern."""

    kind: int
    """Index into KINDS."""
    period: int
    """In pixels along an axis; 0 where it is constant."""
    colour: int
    """Index into COLOURS."""


@lru_cache(maxsize=16)
def bank(shape: Shape) -> tuple[Pattern, ...]:
    """The distinct patterns for images of a shape; no period exceeds the longer side."""
    channels, height, width = shape
    found: list[Pattern] = []
    for colour in range(len(COLOURS) if channels == 3 else 1):
        periods = [p for p in (PERIODS if colour == 0 else COLOURED) if p <= max(height, width)]
        kinds = [Pattern(len(KINDS) - 1, 0, colour)]
        kinds += [Pattern(kind, period, colour) for period in periods for kind in range(len(KINDS) - 1)]
        # With period 2, a diagonal equals a product of stripes; in a single row, most kinds coincide.
        seen = set()
        for pattern in kinds:
            plane = _plane(pattern, height, width)
            key = (plane * plane[0, 0]).tobytes()
            if key not in seen:
                seen.add(key)
                found.append(pattern)
    return tuple(found)


@lru_cache(maxsize=256)
def signs(pattern: Pattern, shape: Shape) -> npt.NDArray[np.int8]:
    """The pattern (d,) of a shape, 1 and -1."""
    channels, height, width = shape
    colour = COLOURS[pattern.colour] if channels == 3 else (1,) * channels
    return (np.array(colour, dtype=np.int8)[:, None, None] * _plane(pattern, height, width)).reshape(-1)


def _plane(pattern: Pattern, height: int, width: int) -> npt.NDArray[np.int8]:
    y, x = np.ogrid[:height, :width]
    axes = {0: (x,), 1: (y,), 2: (x + y,), 3: (x - y,), 4: (x, y), 5: (x + y, x - y)}.get(pattern.kind, ())
    plane = np.ones((height, width), dtype=np.int8)
    for axis in axes:
        plane = plane * np.where(2 * (axis % pattern.period) < pattern.period, 1, -1).astype(np.int8)
    return plane


def features(shape: Shape, reach: float) -> Array:
    """Features of each pattern of the bank, known before any query, (N, 24) of about unit size.

    Args:
        shape: channels, height and width.
        reach: permitted change per pixel, averaged over the image; for an l2 ball, its radius over sqrt(d).
    """
    channels, height, width = shape
    side, rows = max(height, width), []
    for kind, period, colour in bank(shape):
        octave = np.log2(period / 8) / 2 if period else 1.5
        rows.append(
            (
                *(float(kind == k) for k in range(len(KINDS))),
                octave,
                octave**2,
                np.log2(period / side) / 2 + 1 if period else 1.0,
                *(float(period == p) for p in PERIODS[:6]),
                *(float(channels == 3 and colour == k) for k in range(len(COLOURS))),
                float(channels == 3),
                np.log2(side / 32) / 2,
                np.log2(max(reach, 1e-6) * 255 / 8) / 2,
                float(channels != 3) * np.log2(max(reach, 1e-6) / 0.2) / 2,
            )
        )
    return np.array(rows, dtype=np.float32)
