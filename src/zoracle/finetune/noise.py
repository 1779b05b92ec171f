"""Random numbers that are never stored: a hash of a key and a counter, the same on every device.

Word i of a key is output i of SplitMix64 (Steele, Lea and Flood, 2014) from that key. Any stretch of the words is made
on its own, in any order, from integer operations alone, so that a direction is the same on the CPU and on a GPU.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle import keyed

#: Elements of a tensor that are handled at a time: what all scratch memory is a small multiple of.
BLOCK = 1 << 17

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number, like the next two
_FIRST = -4658895280553007687
_SECOND = -7723592293110705685
_WORD = 64
_STRETCH = 4 * BLOCK


class Draw(NamedTuple):
    """What the randomness of a direction is keyed by."""

    seed: int
    step: int
    direction: int

    def key(self, tensor: int, stream: int = 0) -> int:
        """The key of a tensor's words, a signed 64-bit number; the stream tells apart a direction's draws."""
        words = (self.seed, self.step, self.direction, tensor, stream)
        key = keyed.mix(*words) << 32 | keyed.mix(*words, 1)
        return key - (1 << 64) if key >> 63 else key


def words(key: int, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Words first .. first + count - 1 of a key, (count,) int64 of 64 random bits each."""
    x = torch.arange(first, first + count, dtype=torch.int64, device=device)
    x.mul_(_GOLDEN).add_(key)
    high = torch.empty_like(x)
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        # The mask makes the shift that of an unsigned number.
        torch.bitwise_right_shift(x, shift, out=high).bitwise_and_((1 << (64 - shift)) - 1)
        x.bitwise_xor_(high)
        if factor != 1:
            x.mul_(factor)
    return x


class Signs:
    """A key's signs: each element + or - with equal chance.

    What it hands out is overwritten by the next call: memory that is taken and given back a thousand times a step costs
    as much as the numbers in it. The block that was made last is kept, since a step takes back a direction and moves
    along it in one go.
    """

    def __init__(self) -> None:
        self._stretch: tuple[tuple[Any, ...], Tensor] | None = None
        self._last: tuple[tuple[Any, ...], Tensor] | None = None
        self._room: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    def block(
        self, key: int, first: int, count: int, size: int, scale: float, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Elements first .. first + count - 1 times a scale, (count,).

        Args:
            key: of the tensor.
            first: a multiple of BLOCK.
            count: at most BLOCK.
            size: of the whole tensor.
            scale: has to be a number of the dtype, or is rounded to one.
            dtype: floating point, of 16, 32 or 64 bits.
            device: where.
        """
        kind, about = INTEGERS[dtype], (key, first, count, dtype, device)
        if (dtype, device) not in self._room:
            shifts = torch.arange(kind.bits, dtype=kind.dtype, device=device).unsqueeze(1)
            room = torch.empty((2, BLOCK), dtype=kind.dtype, device=device)
            self._room[dtype, device] = (shifts, room[0], room[1])
        shifts, bare, sized = self._room[dtype, device]
        if self._last is None or self._last[0] != about:
            columns = -(-count // kind.bits)
            bits = self._words(key, first, size, device).view(kind.dtype)[:columns]
            # One bit of a word is one sign: row k of the block has bit k of all words in the place of the sign bit.
            made = bare[: columns * kind.bits]
            torch.bitwise_left_shift(bits, shifts, out=made.view(kind.bits, columns)).bitwise_and_(kind.sign)
            self._last = (about, made[:count])
        sized = sized[:count]
        torch.bitwise_or(self._last[1], pattern(scale, dtype), out=sized)
        if scale < 0:
            sized.bitwise_xor_(kind.sign)
        return sized.view(dtype)

    def _words(self, key: int, first: int, size: int, device: torch.device) -> Tensor:
        """The words of a block and of those behind it: four at a time take little longer than one."""
        start = first // _STRETCH * _STRETCH
        about = (key, start, size, device)
        if self._stretch is None or self._stretch[0] != about:
            self._stretch = (about, words(key, start // _WORD, -(-min(_STRETCH, size - start) // _WORD), device))
        return self._stretch[1][(first - start) // _WORD :]


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
    # 24 bits each: u is in (0, 1], so that its logarithm is finite.
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


INTEGERS = {
    torch.float16: Integers(torch.int16, 16, -(1 << 15)),
    torch.bfloat16: Integers(torch.int16, 16, -(1 << 15)),
    torch.float32: Integers(torch.int32, 32, -(1 << 31)),
    torch.float64: Integers(torch.int64, 64, -(1 << 63)),
}
DTYPES = tuple(INTEGERS)


def pattern(scale: float, dtype: torch.dtype) -> int:
    """The bits of |scale| in a floating-point type, as an integer."""
    return int(torch.tensor(abs(scale), dtype=dtype).view(INTEGERS[dtype].dtype))


def with_sign_of(values: Tensor, scale: float) -> Tensor:
    """A tensor of +scale and -scale with the signs of the values; several times as fast as torch.copysign."""
    kind = INTEGERS[values.dtype]
    return values.view(kind.dtype).bitwise_and(kind.sign).bitwise_or_(pattern(scale, values.dtype)).view(values.dtype)
