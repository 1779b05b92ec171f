"""What the ONNX file and the server have in common: batches of a size, and a shape that inputs must have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zoracle.errors import BlackBoxError


def parts(n: int, size: int | None) -> Iterator[slice]:
    """Slices of at most ``size`` rows that cover n rows; one of all where size is None."""
    step = size or max(n, 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def filled(batch: np.ndarray[Any, Any], size: int | None) -> np.ndarray[Any, Any]:
    """A batch filled up to a fixed size with copies of its last row; itself where there is none."""
    if size is None or len(batch) >= size:
        return batch
    return np.concatenate((batch, batch[-1:].repeat(size - len(batch), axis=0)))


def agree(what: str, given: tuple[int, ...], wanted: Sequence[Any]) -> None:
    """Raise where inputs of a shape (without N) are not what a model wants.

    Args:
        what: who wants it, for the error.
        given: the shape.
        wanted: the model's; a name, None or a negative number fits anything, and an empty shape says nothing.

    Raises:
        BlackBoxError: they do not agree.
    """
    free = [not isinstance(size, int) or size < 0 for size in wanted]
    fits = len(given) == len(wanted) and all(f or g == w for f, g, w in zip(free, given, wanted, strict=True))
    if wanted and not fits:
        told = ", ".join(["N", *("any" if f else str(w) for f, w in zip(free, wanted, strict=True))])
        raise BlackBoxError(
            f"{what} has shape ({told}), and the images arrive as ({', '.join(['N', *map(str, given)])}); "
            'give images of that shape, or another layout: "NCHW", "NHWC" or "flat"'
        )
