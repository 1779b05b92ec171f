"""Random numbers that are never stored: a hash of a key and a counter, the same on every device.

Word i of a key is output i of SplitMix64 (Steele, Lea and Flood, 2014) from that key. Any range of words is computed
independently, in any order, by integer operations alone, so a direction is the same on the CPU and on a GPU.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoracle import keyed

#: Elements of a tensor processed at a time; all scratch memory is a small multiple of this.
BLOCK = 1 << 17

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number, like the factors of the rounds
_ROUNDS = ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1))
_ALL = (1 << 64) - 1


class Draw(NamedTuple):
    """The key of a direction's randomness."""

    seed: int
    step: int
    direction: int

    def key(self, tensor: int, stream: int = 0) -> int:
        """The key of a tensor's words, a signed 64-bit number; the stream distinguishes a direction's draws."""
        return _key(self.seed, self.step, self.direction, tensor, stream)


@lru_cache(maxsize=4096)
def _key(*words: int) -> int:
    """The key, cached: a step uses a direction several times, and mixing costs as much as moving a small tensor."""
    key = keyed.mix(*words) << 32 | keyed.mix(*words, 1)
    return key - (1 << 64) if key >> 63 else key


def words(key: int, first: int, count: int, device: torch.device | str = "cpu", ramp: Tensor | None = None) -> Tensor:
    """Words first .. first + count - 1 of a key, (count,) int64 of 64 random bits each.

    Args:
        key: which.
        first: of the words.
        count: how many.
        device: where.
        ramp: result of :func:`counters` for count or more, if available.
    """
    offset = (key + first * _GOLDEN) & _ALL
    start = counters(count, device) if ramp is None else ramp
    if start.device.type == "cpu":
        return torch.from_numpy(_rounds(start.numpy()[:count].view(np.uint64) + np.uint64(offset)).view(np.int64))
    return scramble(start[:count].add(offset - ((offset >> 63) << 64)))


def rounds(x: Tensor) -> Tensor:
    """The rounds of SplitMix64, in place: the words from multiples of its increment."""
    if x.device.type != "cpu":
        return scramble(x)
    _rounds(x.numpy().view(np.uint64))
    return x


def _rounds(n: np.ndarray) -> np.ndarray:
    """What :func:`rounds` does: NumPy has unsigned numbers, and takes half the time."""
    above = np.empty_like(n)
    for shift, factor in _ROUNDS:
        np.right_shift(n, np.uint64(shift), out=above)
        n ^= above
        if factor != 1:
            n *= np.uint64(factor & _ALL)
    return n


def scramble(x: Tensor) -> Tensor:
    """What :func:`rounds` does, with signed numbers."""
    high = torch.empty_like(x)
    for shift, factor in _ROUNDS:
        # The mask makes the shift that of an unsigned number.
        torch.bitwise_right_shift(x, shift, out=high).bitwise_and_((1 << (64 - shift)) - 1)
        x.bitwise_xor_(high)
        if factor != 1:
            x.mul_(factor)
    return x


def counters(count: int, device: torch.device | str) -> Tensor:
    """Multiples 0 .. count - 1 of SplitMix64's increment, (count,) int64."""
    return torch.arange(count, dtype=torch.int64, device=device).mul_(_GOLDEN)


def uniforms(key: int, first: int, count: int, device: torch.device | str) -> Tensor:
    """Elements first .. first + count - 1 of a key's draws from [0, 1), (count,) float32 of 16 bits; first is even."""
    quarter = -(-count // 4)
    return words(key, first // 4, quarter, device).view(torch.int16)[:count].float().add_(32768.0).mul_(2.0**-16)


def normals(key: int, first: int, count: int, device: torch.device | str) -> Tensor:
    """Elements first .. first + count - 1 of a key's standard normal draws, (count,) float32 (Box and Muller, 1958).

    Args:
        key: of the tensor.
        first: a multiple of BLOCK.
        count: at most BLOCK.
        device: where.
    """
    pairs = -(-count // 2)
    bits = words(key, first // 2, pairs, device).view(torch.int32)
    # 24 bits each: u is in (0, 1], so its logarithm is finite.
    u = (bits >> 8).float().add_(2.0**23 + 1).mul_(2.0**-24)
    radius = u[:pairs].log_().mul_(-2.0).sqrt_()
    angle = u[pairs:].mul_(2 * math.pi)
    return torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)))[:count]


class Integers(NamedTuple):
    """The integers of a floating-point type's size."""

    dtype: torch.dtype
    bits: int
    sign: int
    """The sign bit, as a signed number."""
    two: int
    """The bit of 2."""
    alternate: int
    """Every second bit, the lowest among them."""


INTEGERS = {
    torch.float16: Integers(torch.int16, 16, -(1 << 15), 1 << 14, 0x5555),
    torch.bfloat16: Integers(torch.int16, 16, -(1 << 15), 1 << 14, 0x5555),
    torch.float32: Integers(torch.int32, 32, -(1 << 31), 1 << 30, 0x55555555),
    torch.float64: Integers(torch.int64, 64, -(1 << 63), 1 << 62, 0x5555555555555555),
}
DTYPES = tuple(INTEGERS)
