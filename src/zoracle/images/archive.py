"""Images and labels in an ``.npz`` file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoracle.errors import InputError
from zoracle.images.arrays import LabelledImages, Layout, as_images, as_labels, check_classes
from zoracle.images.classes import Numbering


def read_archive(
    path: Path,
    *,
    images_key: str | None = None,
    labels_key: str | None = None,
    targets_key: str | None = None,
    layout: Layout | None = None,
    classes: tuple[str, ...] | None = None,
) -> LabelledImages:
    """Arrays of images, labels and possibly target classes; nothing is ever unpickled.

    Args:
        path: the ``.npz`` file.
        images_key: the array of images, uint8 or floating-point in [0, 1]; "images" by default.
        labels_key: the array of labels, integers or names of classes; "labels" by default.
        targets_key: the array of target classes; "targets" by default, which need not be there.
        layout: "NCHW" or "NHWC"; None tells it from the shape.
        classes: names of the classes in the model's order.

    Raises:
        InputError: it cannot be read, an array is missing, or is none of images or labels.
    """
    keys = {"images": images_key or "images", "labels": labels_key or "labels", "targets": targets_key or "targets"}
    arrays = _arrays(path, keys, optional=() if targets_key else ("targets",))
    try:
        images = as_images(arrays["images"], layout, keys["images"])
        return _labelled(images, arrays, keys, classes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _arrays(path: Path, keys: dict[str, str], optional: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    try:
        # Opened here, since np.load leaves a truncated file open; members are read on access, and may fail then.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InputError(f"{path} holds one array without a name; expected .npz with images and labels")
            there = loaded.files
            for key in (key for what, key in keys.items() if what not in optional):
                if key not in there:
                    known = f"it has {', '.join(there[:8])}" if there else "it is empty"
                    raise InputError(f"{path} has no array {key!r}; {known}")
            found = {what: key for what, key in keys.items() if key in there}
            for key in found.values():
                _check_size(path, loaded, key)
            return {what: loaded[key] for what, key in found.items()}
    except InputError:
        raise
    except Exception as error:  # what damaged archives raise is not documented, and of many kinds
        raise InputError(f"{path} cannot be read ({_reason(error)}); expected .npz with images and labels") from None


#: Bytes of an array that are unpacked whatever they were packed into, and by how much more than these at most.
_FREE, _RATIO = 2**26, 64
_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _check_size(path: Path, loaded: Any, key: str) -> None:
    """Say before anything is unpacked where an array would take far more memory than the file tells.

    Raises:
        InputError: it would.
    """
    there = set(loaded.zip.namelist())
    info = loaded.zip.getinfo(f"{key}.npy" if f"{key}.npy" in there else key)
    if info.file_size > max(_FREE, _RATIO * info.compress_size):
        raise InputError(
            f"{path}: {key!r} is {info.compress_size:,} bytes that unpack to {info.file_size:,}, more than "
            "images do; if this is correct, save it uncompressed with np.savez"
        )
    with loaded.zip.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            return  # what NumPy then says of it is told
        shape, _, dtype = _HEADERS[version](member)
        promised, have = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
    if not dtype.hasobject and promised != have:
        raise InputError(f"{path}: {key!r} has the shape {shape} of {promised:,} bytes, but contains {have:,}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # np.load takes what is not a zip file for a pickle, and says how to load that, which nobody should.
    if "pickle" in str(error):
        return "it holds Python objects, or is something else"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _labelled(
    images: Tensor, arrays: dict[str, NDArray[Any]], keys: dict[str, str], classes: tuple[str, ...] | None
) -> LabelledImages:
    number = len(images)
    texts = {what: _texts(arrays[what]) for what in ("labels", "targets") if what in arrays}
    words = [text for cells in texts.values() for text in cells or ()]
    numbering = Numbering.of(words, classes)
    found: dict[str, Tensor] = {}
    for what, cells in texts.items():
        values: Any = arrays[what]
        if cells is not None:
            values = np.array([numbering.number(text, f"{keys[what]}, image {i}") for i, text in enumerate(cells)])
        elif words and classes is None:
            raise InputError(
                f"{keys[what]} are numbers, and others are names; expected one kind, or --classes with the class names"
            )
        found[what] = as_labels(values, number, keys[what])
        if numbering.names:
            check_classes(found[what], len(numbering.names), keys[what].removesuffix("s"))
    return LabelledImages(images, found["labels"], found.get("targets"), numbering.names, numbering.notes)


def _texts(array: NDArray[Any]) -> list[str] | None:
    """The cells of an array of text, or None where it holds something else."""
    return [str(cell) for cell in array] if array.dtype.kind == "U" and array.ndim == 1 else None
