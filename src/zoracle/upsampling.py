"""Linear maps from small images to large ones, for coarse perturbations and coarse priors."""

from __future__ import annotations

import math
import re
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from zoracle.errors import InputError

Kind = Literal["tile", "bilinear"]

_FORM = re.compile(r"(tile|bilinear):(\d{1,9})(?:x(\d{1,9}))?")
_EXPECTED = 'expected "tile:N" (cells of N pixels), "tile:HxW" (H by W cells), "bilinear:N" or "bilinear:HxW" (a grid)'


class Upsampling:
    r"""The linear map U from images (C, h, w) to images (C, H, W), both flattened, channel by channel.

    "tile" is constant on each cell: pixel i takes row floor(i h / H), and columns likewise. "bilinear" interpolates
    between the centres of the cells.

    Args:
        kind: "tile" or "bilinear".
        shape: (C, H, W).
        grid: (h, w).

    Attributes:
        dim: C h w, the dimension of a small image.
        low_shape: (C, h, w).

    Raises:
        InputError: the grid does not fit the image.
    """

    def __init__(self, kind: Kind, shape: tuple[int, int, int], grid: tuple[int, int]) -> None:
        for size, cells in zip(shape[1:], grid, strict=True):
            if not 1 <= cells <= size:
                raise InputError(
                    f"a grid of {grid[0]} by {grid[1]} does not fit images of {shape[1]} by {shape[2]} pixels; "
                    "expected at least 1 and at most one cell a pixel"
                )
        self.kind = kind
        self.shape = shape
        self.low_shape = (shape[0], *grid)
        self.dim = math.prod(self.low_shape)
        self._axes = [_matrix(kind, size, cells) for size, cells in zip(shape[1:], grid, strict=True)]

    @property
    def norm(self) -> float:
        r"""The largest \|U z\| / \|z\|: the root of the largest cell's size where cells are constant."""
        return math.prod(float(torch.linalg.matrix_norm(axis, 2)) for axis in self._axes)

    def up(self, small: Tensor) -> Tensor:
        """U z: (N, C h w) -> (N, C H W). The same for an image alone and among others."""
        z = small.view(-1, *self.low_shape)
        if self.kind == "tile":
            rows, columns = (axis.argmax(1).to(z.device) for axis in self._axes)
            return z[:, :, rows][:, :, :, columns].flatten(1)
        size = self.shape[1:]
        return functional.interpolate(z, size=size, mode="bilinear", align_corners=False).flatten(1)

    def transpose(self, image: Tensor) -> Tensor:
        """U^T g: (N, C H W) -> (N, C h w), what a gradient becomes."""
        rows, columns = (axis.to(image) for axis in self._axes)
        return (rows.t() @ image.view(-1, *self.shape) @ columns).flatten(1)

    def lowest(self, image: Tensor) -> Tensor:
        """The lowest of the pixels that each coordinate of z takes part in: (N, C H W) -> (N, C h w)."""
        pooled = image.view(-1, *self.shape)
        for dim, axis in zip((2, 3), self._axes, strict=True):
            parts = [
                pooled.index_select(dim, members.nonzero().squeeze(1).to(image.device)).amin(dim)
                for members in (axis > 0).t()
            ]
            pooled = torch.stack(parts, dim)
        return pooled.flatten(1)


def parse(text: str, shape: tuple[int, ...]) -> Upsampling:
    """The map that a setting names, for images of this shape.

    Args:
        text: "tile:2" for cells of 2 by 2 pixels, "tile:14x14" for 14 by 14 cells, "bilinear:14" or "bilinear:14x10"
            for a grid of that size. Where the image is not a multiple of the cell, cells are made a little smaller.
        shape: (C, H, W).

    Raises:
        InputError: it names nothing of the kind, or nothing that fits the images.
    """
    found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise InputError(f"reduce is {text!r}; {_EXPECTED}")
    if len(shape) != 3:
        raise InputError(f"reduce is {text!r}, and images have shape {tuple(shape)}; expected images (C, H, W) for it")
    channels, height, width = shape
    kind: Kind = "tile" if found[1] == "tile" else "bilinear"
    first, second = int(found[2]), found[3]
    if second is not None:
        grid = (first, int(second))
    elif kind == "bilinear":
        grid = (first, first)
    elif 1 <= first <= max(height, width):
        grid = (math.ceil(height / first), math.ceil(width / first))
    else:
        raise InputError(f"reduce is {text!r}, and images are {height} by {width}; expected cells of 1 pixel or more")
    return Upsampling(kind, (channels, height, width), grid)


def _matrix(kind: Kind, size: int, cells: int) -> Tensor:
    """One axis of the map, (size, cells) float64: each row sums to one."""
    if kind == "tile":
        return functional.one_hot(torch.arange(size) * cells // size, cells).to(torch.float64)
    eye = torch.eye(cells, dtype=torch.float64).unsqueeze(0)
    return functional.interpolate(eye, size=size, mode="linear", align_corners=False)[0].t().contiguous()
