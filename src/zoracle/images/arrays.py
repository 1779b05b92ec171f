"""Arrays of images and labels, checked and brought into one form."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoracle.errors import InputError

Layout = Literal["NCHW", "NHWC"]

#: Numbers of channels by which a layout is told from a shape.
_USUAL_CHANNELS = (1, 3)


class LabelledImages(NamedTuple):
    """Images with what is known of them."""

    images: Tensor
    """(P, C, H, W): uint8 with 255 for white, or float32 or float64 in [0, 1]."""
    labels: Tensor
    """(P,) int64."""
    targets: Tensor | None
    """(P,) int64, the class that each attack has to reach; None where the data name none."""
    class_names: tuple[str, ...]
    """Names of the classes in their order; none where they are not known."""
    notes: tuple[str, ...] = ()
    """What whoever gave the data should know of how they were read."""


def as_array(name: str, values: Any) -> NDArray[Any]:
    """A NumPy array in native byte order of an array, a tensor or a list.

    Raises:
        InputError: it is none, or holds Python objects.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if isinstance(values, Tensor):
                values = values.detach().cpu()
                values = values.float() if values.dtype == torch.bfloat16 else values
            array = np.asarray(values)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} cannot be read as an array ({reason}); expected numbers in rows of one size"
        ) from None
    if array.dtype.hasobject:
        raise InputError(f"{name} hold Python objects; expected numbers")
    native: NDArray[Any] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native


def as_images(values: Any, layout: Layout | None = None, name: str = "images") -> Tensor:
    """Images as (P, C, H, W), bytes or floating-point pixels in [0, 1].

    Args:
        values: (P, H, W), (P, C, H, W) or (P, H, W, C); uint8, or floating-point numbers.
        layout: where the channels are; None tells it from the shape, 1 or 3 channels expected.
        name: what they are called in an error.

    Returns:
        uint8, float32 or float64.

    Raises:
        InputError: another type, another shape, pixels out of range, or channels that could be in both places.
    """
    array = as_array(name, values)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(f"{name} are {_kind(array)}; expected uint8, or floating-point pixels in [0, 1]")
    if array.ndim not in (3, 4) or array.size == 0:
        told = f"; of one image, give it as {name}[None]" if array.ndim == 2 else ""
        raise InputError(
            f"{name} have shape {array.shape}; expected (P, H, W), (P, C, H, W) or (P, H, W, C), at least one{told}"
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float64 if array.dtype.itemsize >= 8 else np.float32, copy=False)
        _check_range(array, name)
    array = array[:, None] if array.ndim == 3 else _channels_first(array, layout, name)
    # A copy: what the caller's array becomes later is not ours.
    return torch.from_numpy(np.array(array, order="C"))


def as_labels(values: Any, number: int, name: str = "labels") -> Tensor:
    """Classes (P,) as int64.

    Args:
        values: one integer per image, at least 0.
        number: P.
        name: what they are called in an error.

    Raises:
        InputError: another type or shape, or numbers out of range.
    """
    array = as_array(name, values)
    if array.shape != (number,):
        raise InputError(f"{name} have shape {array.shape}; expected ({number},), one per image")
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} are {_kind(array)}; expected integers")
    bad = np.flatnonzero((array < 0) | (array > np.iinfo(np.int64).max))
    if bad.size:
        raise InputError(f"{name[:-1]} {array[bad[0]]} of image {bad[0]} is out of range; expected 0 or more")
    return torch.from_numpy(array.astype(np.int64))


def check_classes(classes: Tensor, number: int, name: str) -> None:
    """Raise an InputError where a class (P,) is not among this many."""
    bad = (classes >= number).nonzero()
    if len(bad):
        row = int(bad[0])
        raise InputError(f"{name} {int(classes[row])} of image {row} is out of range; expected 0 .. {number - 1}")


def _check_range(array: NDArray[Any], name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))
    if bad.size:
        raise InputError(f"{name[:-1]} {bad[0]} holds NaN or infinite pixels; expected numbers in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        mend = "; divide them by 255, or give uint8" if low >= 0 and 1 < high <= 255 else ""
        raise InputError(f"pixels of {name} range over [{low:g}, {high:g}]; expected [0, 1]{mend}")


def _channels_first(array: NDArray[Any], layout: Layout | None, name: str) -> NDArray[Any]:
    if layout is None:
        first, last = array.shape[1] in _USUAL_CHANNELS, array.shape[3] in _USUAL_CHANNELS
        if first == last:
            could = "could be both NCHW and NHWC" if first else "have neither 1 nor 3 channels"
            raise InputError(f"{name} have shape {array.shape} and {could}; pass the layout, NCHW or NHWC")
        layout = "NCHW" if first else "NHWC"
    if layout not in get_args(Layout):
        raise InputError(f"layout is {layout!r}; expected NCHW or NHWC")
    return array if layout == "NCHW" else np.moveaxis(array, 3, 1)


def _kind(array: NDArray[Any]) -> str:
    return "text" if array.dtype.kind in "US" else str(array.dtype)
