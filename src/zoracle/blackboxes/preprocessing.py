"""What is done to images between the attack, where pixels lie in [0, 1], and a model that wants them otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from zoracle.errors import BlackBoxError, InputError

Channels = float | Sequence[float]
Layout = Literal["NCHW", "NHWC", "flat"]


class Preprocessing:
    r"""Scaling, normalisation and layout, in this order: x' = (pixel_max x - mean) / std, then the layout.

    Args:
        preprocess: mean and std in the units of ``pixel_max``, a number or one per channel (inputs (N, C, ...)).
        layout: "NCHW" leaves inputs (N, C, ...) as they are, "NHWC" moves the channels to the end, "flat" makes them
            (N, d).
        pixel_max: what a pixel of 1 is to the model: 1, or 255 where it takes bytes.

    Raises:
        InputError: a setting is unusable.
    """

    def __init__(
        self,
        preprocess: tuple[Channels, Channels] | None = None,
        layout: Layout = "NCHW",
        pixel_max: float = 1.0,
    ) -> None:
        if layout not in get_args(Layout):
            raise InputError(f"layout is {layout!r}; expected one of {', '.join(get_args(Layout))}")
        if not (isinstance(pixel_max, int | float) and 0 < pixel_max < math.inf):
            raise InputError(f"pixel_max is {pixel_max!r}; expected what a pixel of 1 is to the model, 1 or 255")
        self.layout = layout
        self.pixel_max = float(pixel_max)
        self._mean_std = None if preprocess is None else _mean_and_std(preprocess)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape, without N, in which the model sees inputs of this shape.

        Raises:
            BlackBoxError: inputs of this shape cannot be prepared.
        """
        for values in self._mean_std or ():
            if values.ndim and (not shape or shape[0] != values.shape[0]):
                raise BlackBoxError(
                    f"preprocess has {values.shape[0]} channels, and the inputs have shape (N, "
                    f"{', '.join(map(str, shape))}); expected one number per channel"
                )
        if self.layout == "flat":
            return (math.prod(shape),)
        if self.layout == "NHWC":
            if len(shape) < 2:
                raise BlackBoxError(f"layout NHWC needs inputs (N, C, H, W); these have {len(shape) + 1} dimensions")
            return (*shape[1:], shape[0])
        return shape

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs (N, ...) as the model takes them.

        Raises:
            BlackBoxError: inputs of this shape cannot be prepared.
        """
        shape = self.shape(tuple(x.shape[1:]))
        if self.pixel_max != 1:
            x = x * self.pixel_max
        if self._mean_std is not None:
            mean, std = (
                values.to(x).view(-1, *[1] * (x.ndim - 2)) if values.ndim else values.to(x) for values in self._mean_std
            )
            x = (x - mean).div_(std)
        if self.layout == "NHWC":
            x = x.movedim(1, -1)
        return x.reshape(x.shape[0], *shape)


def _mean_and_std(preprocess: tuple[Channels, Channels]) -> tuple[Tensor, Tensor]:
    expected = "expected (mean, std) with no std of zero, each a number or one per channel"
    try:
        mean, std = (torch.as_tensor(values, dtype=torch.float64) for values in preprocess)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"preprocess is {preprocess!r}; {expected}") from None
    finite = bool(mean.isfinite().all() and std.isfinite().all())
    if mean.ndim > 1 or std.ndim > 1 or not finite or bool((std == 0).any()):
        raise InputError(f"preprocess is {preprocess!r}; {expected}")
    return mean, std
