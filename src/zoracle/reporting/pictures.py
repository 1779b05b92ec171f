"""Images as PNG data URIs, to be put into a page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from zoracle.errors import require

Array = npt.NDArray[np.float64]


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


def signed_words(channels: int) -> str:
    """What the colours of :func:`signed_png` mean."""
    if channels == 1:
        return "red is brighter, blue darker, white unchanged"
    return "grey is unchanged, and each colour channel brighter or darker around it"


def _pixels(image: Tensor) -> Array:
    array = image.detach().cpu().double().numpy()
    pixels: Array = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)[..., :3]
    return pixels


def _png(pixels: Array, **options: Any) -> str:
    image = require("matplotlib.image", "report")
    buffer = io.BytesIO()
    image.imsave(buffer, pixels, format="png", metadata={"Software": None}, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
