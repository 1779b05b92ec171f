"""Targets that remove high frequencies from images before classifying them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoracle.blackboxes import BlackBox
from zoracle.errors import InputError, require

Defence = Literal["none", "blur", "jpeg"]

#: Quality of the JPEG files, of 100.
JPEG_QUALITY = 75


class Defended(BlackBox):
    """A black box whose inputs are filtered.

    Args:
        box: takes images (N, C, H, W) in [0, 1].
        defence: "blur", a binomial filter of 3 by 3 pixels; "jpeg", a JPEG file of quality 75 and back (extra
            ``images``); or "none".

    Raises:
        InputError: the defence is unknown.
        MissingExtraError: pillow is not installed.
    """

    def __init__(self, box: BlackBox, defence: Defence) -> None:
        if defence not in get_args(Defence):
            raise InputError(f"defence is {defence!r}; expected one of {', '.join(get_args(Defence))}")
        if defence == "jpeg":
            require("PIL.Image", "images")
        self.box, self.outputs = box, box.outputs
        filters: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "blur": blurred, "jpeg": compressed}
        self.filter = filters[defence]

    def check(self, shape: tuple[int, ...]) -> None:
        """The description by the box that it wraps."""
        self.box.check(shape)

    def close(self) -> None:
        """Release the resources of the box that it wraps."""
        self.box.close()

    def _call(self, inputs: Tensor) -> Tensor:
        return self.box(self.filter(inputs))


def blurred(images: Tensor) -> Tensor:
    """Images (N, C, H, W) under the filter (1, 2, 1) / 4 along rows and columns, edges repeated."""
    line = images.new_tensor([0.25, 0.5, 0.25])
    channels = images.shape[1]
    kernel = (line.unsqueeze(1) * line).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


def compressed(images: Tensor) -> Tensor:
    """Images (N, C, H, W), C of 1 or 3, as a JPEG file of quality 75 keeps them."""
    pillow = require("PIL.Image", "images")
    bytes_ = (images.detach().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    found = []
    for one in bytes_:
        buffer = io.BytesIO()
        pillow.fromarray(one[..., 0] if one.shape[2] == 1 else one).save(buffer, "JPEG", quality=JPEG_QUALITY)
        read = np.asarray(pillow.open(buffer))
        found.append(torch.from_numpy(read.copy()).view(*one.shape))
    return (torch.stack(found).permute(0, 3, 1, 2).to(images) / 255) if found else images
