"""The orthonormal basis of the search: cosines over space, a rotation over three channels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, int, int]

#: Number of lowest frequencies modelled per axis: all frequencies of an image with this side.
MOST = 64
#: The same for a point that is not an image and has one long axis, and the largest size of its matrix.
MOST_ALONE, MOST_NUMBERS = 512, 2**25

# Grey, and two opponent colours.
_COLOURS = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3.0], [2.0], [6.0]])


class Basis:
    """An orthonormal basis of points of one shape, or of the low frequencies among them.

    Args:
        shape: channels, height and width.

    Attributes:
        kept: channels and frequencies of each axis.
        size: M, number of vectors.
    """

    def __init__(self, shape: Shape) -> None:
        channels, height, width = shape
        alone = 1 in (height, width)
        self.shape = shape
        self.kept = (channels, _kept(height, alone), _kept(width, alone))
        self.size = self.kept[0] * self.kept[1] * self.kept[2]
        self._rows, self._columns = cosines(height, self.kept[1]), cosines(width, self.kept[2])
        self._mixing = (_COLOURS if channels == 3 else np.eye(channels)).astype(np.float32)

    @property
    def whole(self) -> bool:
        """Whether the basis spans all points."""
        return self.kept == self.shape

    # Colours are mixed among the frequencies, where there are fewer numbers.

    def forward(self, point: Array, *, window: bool = False) -> Array:
        """Coefficients (M,) of a point (d,); faster with ``window`` if it is zero but for a window of the image."""
        image, rows, columns = point.reshape(self.shape), self._rows, self._columns
        if window:
            inside = np.any(image, axis=0)
            down, across = np.flatnonzero(np.any(inside, axis=1)), np.flatnonzero(np.any(inside, axis=0))
            if len(down):
                place = slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1)
                image, rows, columns = image[:, *place], rows[:, place[0]], columns[:, place[1]]
        waves = np.matmul(np.matmul(rows, image), columns.T)
        made: Array = (self._mixing @ waves.reshape(len(waves), -1)).reshape(-1)
        return made

    def inverse(self, coefficients: Array) -> Array:
        """The point (d,) of coefficients (M,)."""
        waves = (self._mixing.T @ coefficients.reshape(self.kept[0], -1)).reshape(self.kept)
        made: Array = np.matmul(self._rows.T, np.matmul(waves, self._columns)).reshape(-1)
        return made


@lru_cache(maxsize=16)
def basis_of(shape: Shape) -> Basis:
    """The basis of a shape."""
    return Basis(shape)


def cosines(side: int, kept: int) -> Array:
    """The first rows (kept, side) of the orthonormal DCT-II."""
    number = np.arange(kept)[:, None]
    rows = np.sqrt((1 + (number > 0)) / side) * np.cos(np.pi * (np.arange(side) + 0.5) * number / side)
    return rows.astype(np.float32)


def features(shape: Shape) -> Array:
    """Features of each vector of a basis, known before any query, (M, 12) of about unit size.

    The frequency per pixel and per image, along each axis and combined; whether it is constant along an axis; its
    colour; channels and size of the image.
    """
    (channels, rows, columns), (_, height, width) = basis_of(shape).kept, shape
    colour, i, j = (a.reshape(-1) for a in np.indices((channels, rows, columns)))
    per_pixel = np.stack((i / height, j / width))  # 1 is the highest frequency
    per_image = np.stack((i * max(1, width) / height, j)).astype(np.float64)
    length, waves = np.sqrt((per_pixel**2).sum(0)), np.sqrt((per_image**2).sum(0))
    out = (
        2 * length - 1,
        length**4,
        np.abs(per_pixel[0] - per_pixel[1]),
        np.minimum(per_pixel[0], per_pixel[1]) * 2 - 0.5,
        0.5 * np.log2(waves + 0.5) - 1,
        0.5 * np.log2(length + 0.01) + 1.5,
        (i == 0) * 1.0,
        (j == 0) * 1.0,
        ((channels == 3) & (colour == 0)) * 1.0,
        ((channels == 3) & (colour == 1)) * 1.0,
        np.full(len(i), float(channels == 3)),
        np.full(len(i), np.log2(np.sqrt(height * width) / 32) / 2),
    )
    return np.stack(out, axis=1).astype(np.float32)


def _kept(side: int, alone: bool) -> int:
    return min(side, max(1, MOST_NUMBERS // side), MOST_ALONE if alone else MOST)
