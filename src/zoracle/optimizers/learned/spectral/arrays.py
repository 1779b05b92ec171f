"""What the search does with arrays in the fewest passes: images of 224x224 pixels fill the processor's cache."""

from __future__ import annotations

import math

import numpy as np

from zoracle.optimizers.learned.spectral.basis import Array

SMALL = 1e-30
# Coordinates that are compared before the next.
_PART = 2**13


def either(first: Array, one: Array, other: Array) -> Array:
    """What np.where gives, by bits: on masks without order that takes a sixth of the time."""
    whole = np.dtype(f"i{one.itemsize}")
    mask = np.negative(first.view(np.int8)).astype(whole)
    ones, others = one.view(whole), other.view(whole)
    made = ones ^ others
    made &= mask
    made ^= others
    chosen: Array = made.view(one.dtype)
    return chosen


def clip(v: Array, low: Array, high: Array) -> Array:
    """What np.clip gives, in a third of the time and in place."""
    return np.minimum(np.maximum(v, low, out=v), high, out=v)


def same(one: Array, other: Array) -> bool:
    """What np.array_equal says of two vectors, as soon as they are known to differ."""
    return all(np.array_equal(one[i : i + _PART], other[i : i + _PART]) for i in range(0, len(one), _PART))


def overlap(one: tuple[slice, ...], other: tuple[slice, ...]) -> tuple[slice, ...]:
    """The part that two windows share; the empty tuple where they share none."""
    first = [max(a.start, b.start) for a, b in zip(one[1:], other[1:], strict=True)]
    last = [min(a.stop, b.stop) for a, b in zip(one[1:], other[1:], strict=True)]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return ()
    return slice(None), *(slice(a, b) for a, b in zip(first, last, strict=True))


def unit(v: Array) -> Array:
    """A vector of norm one in its direction."""
    made: Array = v / max(length(v), SMALL)
    return made


def length(v: Array) -> float:
    """Its norm."""
    return math.sqrt(float(np.vdot(v, v)))
