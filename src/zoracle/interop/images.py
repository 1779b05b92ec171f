"""Images as other libraries keep them, and as :func:`zoracle.attack` takes them: pixels in [0, 1], channels first."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import InputError


class ImageForm:
    """The pixel range and the order of axes of a library's images.

    Args:
        low: lowest value of a pixel.
        high: highest.
        channels_last: images are (P, height, width, channels), where they have four axes.

    Raises:
        InputError: the range is none.
    """

    def __init__(self, low: float, high: float, *, channels_last: bool = False) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"pixels range over ({low:g}, {high:g}); expected (low, high), finite, with low < high")
        self.low, self.high = float(low), float(high)
        self.channels_last = channels_last

    @property
    def width(self) -> float:
        """What a distance of one in [0, 1] is in pixels."""
        return self.high - self.low

    def radius(self, eps: float | None, norm: str) -> float | None:
        """The radius of a ball for pixels in [0, 1]; one of linf that exceeds their range is the whole range."""
        if eps is None:
            return None
        radius = eps / self.width
        return min(radius, 1.0) if norm == "linf" else radius

    def take(self, images: Tensor) -> Tensor:
        """Images (P, ...) of the library as zoracle takes them.

        Raises:
            InputError: a pixel is out of range.
        """
        if bool((images < self.low).any()) or bool((images > self.high).any()):
            raise InputError(
                f"pixels range over [{float(images.min()):g}, {float(images.max()):g}]; "
                f"expected those of the model, [{self.low:g}, {self.high:g}]"
            )
        if self._moves(images):
            images = images.movedim(-1, 1)
        if self._is_unit:
            return images
        return ((images - self.low) / self.width).clamp(0, 1)

    def give(self, images: Tensor) -> Tensor:
        """Images (N, ...) of zoracle as the library takes them."""
        if not self._is_unit:
            images = (images * self.width + self.low).clamp(self.low, self.high)
        return images.movedim(1, -1).contiguous() if self._moves(images) else images

    @property
    def _is_unit(self) -> bool:
        return (self.low, self.high) == (0.0, 1.0)

    def _moves(self, images: Tensor) -> bool:
        return self.channels_last and images.ndim == 4


def as_threat(labels: Tensor, *, targeted: bool) -> dict[str, Any]:
    """``labels`` and ``targets`` for :func:`zoracle.attack` from what other libraries know: one of both, (P,) int64.

    A targeted attack does not look at the labels but to see that they are not targets, so any other class will do.
    """
    if not targeted:
        return {"labels": labels}
    return {"labels": torch.where(labels == 0, 1, 0), "targets": labels}
