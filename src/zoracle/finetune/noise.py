"""Random numbers that are never stored: a hash of a key and a counter, the same on every device.

Word i of a key is output i of SplitMix64 (Steele, Lea and Flood, 2014) from that key. Any range of words is computed
independently, in any order, by integer operations alone, so a direction is the same on the CPU and on a GPU.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle import keyed

#: Elements of a tensor processed at a time; all scratch memory is a small multiple of this.
BLOCK = 1 << 17

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number, like the next two
_FIRST = -4658895280553007687
_SECOND = -7723592293110705685
_WORD = 64
_STRETCH = 4 * BLOCK
_KEPT = 32  # stretches: those of the directions that a step goes along block by block


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
    offset = (key + first * _GOLDEN) & ((1 << 64) - 1)
    x = (counters(count, device) if ramp is None else ramp[:count]).add(offset - ((offset >> 63) << 64))
    high = torch.empty_like(x)
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        # The mask makes the shift that of an unsigned number.
        torch.bitwise_right_shift(x, shift, out=high).bitwise_and_((1 << (64 - shift)) - 1)
        x.bitwise_xor_(high)
        if factor != 1:
            x.mul_(factor)
    return x


def counters(count: int, device: torch.device | str) -> Tensor:
    """Multiples 0 .. count - 1 of SplitMix64's increment, (count,) int64."""
    return torch.arange(count, dtype=torch.int64, device=device).mul_(_GOLDEN)


class Signs:
    """A key's signs: each element 1 or -1 with equal chance.

    The last block is cached, since a step undoes a direction and moves along it in succession. It is
    overwritten by the next call: allocating and freeing memory a thousand times per step costs as much as computing the
    numbers.
    """

    def __init__(self) -> None:
        self._stretches: dict[tuple[Any, ...], Tensor] = {}
        self._last: tuple[tuple[Any, ...], Tensor] | None = None
        self._room: dict[Any, tuple[Tensor, Tensor]] = {}
        self._ramp: dict[torch.device, Tensor] = {}

    def block(
        self, key: int, first: int, count: int, size: int, dtype: torch.dtype, device: torch.device, row: int = 0
    ) -> Tensor:
        """Elements first .. first + count - 1, (count,); read-only.

        Args:
            key: of the tensor.
            first: a multiple of BLOCK.
            count: at most BLOCK.
            size: of the whole tensor.
            dtype: floating point, of 16, 32 or 64 bits.
            device: where.
            row: length of the rows in which signs balance, see :func:`partners`; 0 for independent signs.
        """
        kind, about = INTEGERS[dtype], (key, first, count, dtype, device, row)
        if self._last is not None and self._last[0] == about:
            return self._last[1]
        if (dtype, device) not in self._room:
            shifts = torch.arange(kind.bits, dtype=kind.dtype, device=device).unsqueeze(1)
            # Balanced rows take up to an eighth more: whole rows of 16 bits or more.
            self._room[dtype, device] = (shifts, torch.empty(BLOCK + BLOCK // 8, dtype=kind.dtype, device=device))
        shifts, room = self._room[dtype, device]
        if row:
            bits = self._balanced(key, first, size, device, kind, row)
        else:
            bits = self._words(key, first, size, device).view(kind.dtype)[: -(-count // kind.bits)]
        # One bit of a word is one sign: line k of the block has bit k of all words as its sign bit.
        columns = len(bits)
        lines = -(-count // columns)
        made = room[: columns * lines]
        torch.bitwise_left_shift(bits, shifts[:lines], out=made.view(lines, columns))
        made.bitwise_and_(kind.sign).bitwise_or_(kind.one)
        self._last = (about, made[:count].view(dtype))
        return self._last[1]

    def _words(self, key: int, first: int, size: int, device: torch.device) -> Tensor:
        """The words of a block and of those after it: computing many at a time takes little longer than one."""
        start = first // _STRETCH * _STRETCH
        about = (key, start, size, device)
        found = self._stretches.get(about)
        if found is None:
            count = -(-min(_STRETCH, size - start) // _WORD)
            found = self._keep(about, words(key, start // _WORD, count, device, self._counters(device)))
        return found[(first - start) // _WORD :]

    def _balanced(self, key: int, first: int, size: int, device: torch.device, kind: Integers, row: int) -> Tensor:
        """The words of a block whose signs balance in rows: lines are a whole number of rows long."""
        start = first // _STRETCH * _STRETCH
        about = (key, start, size, device, kind.bits, row)
        row = _part(row, BLOCK // kind.bits)
        columns = -(-min(BLOCK, size) // (kind.bits * row)) * row
        found = self._stretches.get(about)
        if found is None:
            # Where blocks begin within rows, a line is longer by one, so that it can begin with a whole one.
            whole = columns + (row if size > BLOCK and BLOCK % row else 0)
            width, blocks = -(-whole * kind.bits // _WORD), -(-min(_STRETCH, size - start) // BLOCK)
            drawn = words(key, start // BLOCK * width, blocks * width, device, self._counters(device))
            bits = drawn.view(blocks, width).view(kind.dtype)[:, :whole].reshape(-1, row)
            source, opposite = partners(row, key & 0x7FFFFFFF, device)
            bits = bits.index_select(1, source).bitwise_xor_(opposite.to(kind.dtype).neg_())
            found = self._keep(about, bits.view(blocks, whole))
        began = first % row
        return found[(first - start) // BLOCK, began : began + columns]

    def _counters(self, device: torch.device) -> Tensor:
        if device not in self._ramp:
            self._ramp[device] = counters(3 * _STRETCH // _WORD, device)
        return self._ramp[device]

    def _keep(self, about: tuple[Any, ...], made: Tensor) -> Tensor:
        if len(self._stretches) == _KEPT:
            del self._stretches[next(iter(self._stretches))]
        self._stretches[about] = made
        return made


def _part(row: int, longest: int) -> int:
    """The length of the parts that a row balances in: all of it, an equal part, or the longest."""
    least = -(-row // longest)
    return next((row // parts for parts in range(least, 8 * least) if row % parts == 0), longest)


def partners(row: int, shift: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Pairs of elements with opposite signs, so that the signs of a row sum to nearly zero.

    Element i of a row of n is paired with (shift - i) mod n; one or two may be their own partners, and have free signs.
    For a uniform shift, the mean of z z^T over directions is nearly I - 1 1^T / n: the projection that removes the mean
    of a row.

    Args:
        row: n.
        shift: any number of at least 0.
        device: where.

    Returns:
        The first element of each element's pair, (n,), and whether the element has the opposite of its sign, (n,).
    """
    place = torch.arange(row, device=device)
    other = (shift - place).remainder_(row)
    return torch.minimum(place, other), other < place


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
    one: int
    """The bits of 1."""


INTEGERS = {
    torch.float16: Integers(torch.int16, 16, -(1 << 15), 0x3C00),
    torch.bfloat16: Integers(torch.int16, 16, -(1 << 15), 0x3F80),
    torch.float32: Integers(torch.int32, 32, -(1 << 31), 0x3F800000),
    torch.float64: Integers(torch.int64, 64, -(1 << 63), 0x3FF0000000000000),
}
DTYPES = tuple(INTEGERS)
