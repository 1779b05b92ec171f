"""Random numbers that are never stored: a hash of a key and a counter, the same on every device.

Word i of a key is output i of SplitMix64 (Steele, Lea and Flood, 2014) from that key. Any range of words is computed
independently, in any order, by integer operations alone, so a direction is the same on the CPU and on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoracle import keyed

#: Elements of a tensor processed at a time; all scratch memory is a small multiple of this.
BLOCK = 1 << 17

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number, like the factors of the rounds
_ROUNDS = ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1))
_ALL = (1 << 64) - 1
_WORD = 64
_STRETCH = 4 * BLOCK
_KEPT = 24  # stretches: those of the directions that a step goes along block by block


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
    start = counters(count, device) if ramp is None else ramp[:count]
    if start.device.type == "cpu":  # NumPy has unsigned numbers, and takes half the time
        n = start.numpy().view(np.uint64) + np.uint64(offset)
        above = np.empty_like(n)
        for shift, factor in _ROUNDS:
            np.right_shift(n, np.uint64(shift), out=above)
            n ^= above
            if factor != 1:
                n *= np.uint64(factor & _ALL)
        return torch.from_numpy(n.view(np.int64))
    return scramble(start.add(offset - ((offset >> 63) << 64)))


def scramble(x: Tensor) -> Tensor:
    """The rounds of SplitMix64 with signed numbers, in place: the words from multiples of its increment."""
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


class Layout(NamedTuple):
    """What the order of a tensor's signs depends on."""

    size: int
    """Number of elements."""
    dtype: torch.dtype
    """Floating point, of 16, 32 or 64 bits."""
    device: torch.device
    row: int = 0
    """Length of the rows in which signs balance, see :func:`partners`; 0 for independent signs."""


class Signs:
    """A key's signs: each element 1 or -1 with equal chance.

    Blocks hold twice the signs: 2 and 0 differ in one bit, the one next to the sign, so that a shift and a mask make a
    block. The last one is cached, since a step undoes a direction and moves along it in succession. It is
    overwritten by the next call: allocating and freeing memory a thousand times per step costs as much as computing the
    numbers.
    """

    def __init__(self) -> None:
        self._stretches: dict[tuple[Any, ...], Tensor] = {}
        self._last: tuple[tuple[Any, ...], Tensor] | None = None
        self._room: dict[Any, tuple[Tensor, Tensor]] = {}
        self._ramp: dict[torch.device, Tensor] = {}

    def twice(self, key: int, first: int, count: int, about: Layout, mask: Tensor | None = None) -> Tensor:
        """Twice the elements first .. first + count - 1, (count,); read-only.

        Args:
            key: of the tensor.
            first: a multiple of BLOCK.
            count: at most BLOCK.
            about: the tensor.
            mask: a word for each column of the block, whose bit k, from the highest, is for line k: elements without
                a bit are 0. Not with balanced rows. None for no mask.
        """

        def make(start: int) -> Tensor:
            return _paired(self._bits(key, start, about), None, INTEGERS[about.dtype])

        return self._block((key,), make, first, count, about, mask)

    def change(
        self, leave: tuple[int, int], enter: tuple[int, int], first: int, count: int, about: Layout,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The change from one direction to another, elements first .. first + count - 1, (count,): 2, 0 or -2.

        Args:
            leave: key and side, 1 or -1.
            enter: the same of the other direction.
            first: as in :meth:`twice`, like all that follows.
            count: see there.
            about: see there.
            mask: see there.
        """

        def make(start: int) -> Tensor:
            before, after = (self._bits(key, start, about) for key, _ in (leave, enter))
            moves = before ^ after if leave[1] == enter[1] else ~(before ^ after)
            return _paired(after if enter[1] > 0 else ~after, moves, INTEGERS[about.dtype])

        return self._block((*leave, *enter), make, first, count, about, mask)

    def _block(
        self, name: tuple[int, ...], make: Callable[[int], Tensor], first: int, count: int, about: Layout,
        mask: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """A block from the words of the blocks around it: making many at a time takes little longer than one."""
        start = first // _STRETCH * _STRETCH
        if self._last is not None and mask is None and self._last[0] == (name, first, count, about):
            return self._last[1]
        found = _kept(self._stretches, _KEPT, (name, start, about), lambda: make(start))
        offset, columns = _place(first, start, count, about)
        paired, kind = found[:, offset : offset + columns], INTEGERS[about.dtype]
        if mask is not None:
            paired = paired & _paired(torch.full_like(mask, -1), mask, kind)
        if (about.dtype, about.device) not in self._room:
            shifts = torch.arange(0, kind.bits, 2, dtype=kind.dtype, device=about.device).view(-1, 1, 1)
            # Balanced rows take up to an eighth more: whole rows of 16 bits or more.
            room = torch.empty(BLOCK + BLOCK // 8, dtype=kind.dtype, device=about.device)
            self._room[about.dtype, about.device] = (shifts, room)
        shifts, room = self._room[about.dtype, about.device]
        lines = -(-count // (2 * columns))
        made = room[: 2 * lines * columns].view(lines, 2, columns)
        torch.bitwise_left_shift(paired, shifts[:lines], out=made)
        made.bitwise_and_(kind.sign | kind.two)
        block = made.view(-1)[:count].view(about.dtype)
        self._last = None if mask is not None else ((name, first, count, about), block)
        return block

    def _bits(self, key: int, start: int, about: Layout) -> Tensor:
        """The words of a stretch, one after the other: bit k, from the highest, is for line k of a block.

        A bit of 1 is minus.
        """
        kind, device, size = INTEGERS[about.dtype], about.device, min(_STRETCH, about.size - start)
        if device not in self._ramp:
            self._ramp[device] = counters(3 * _STRETCH // _WORD, device)
        if not about.row:
            return words(key, start // _WORD, -(-size // _WORD), device, self._ramp[device]).view(kind.dtype)
        row, _, whole = _rows(about)
        width, blocks = -(-whole * kind.bits // _WORD), -(-size // BLOCK)
        drawn = words(key, start // BLOCK * width, blocks * width, device, self._ramp[device])
        bits = drawn.view(blocks, width).view(kind.dtype)[:, :whole].reshape(-1, row)
        mirror(bits, key & 0x7FFFFFFF)
        return bits.view(-1)


def _kept(store: dict[tuple[Any, ...], Tensor], most: int, name: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
    """What is stored by this name, or is made now; the oldest goes where there are too many."""
    found = store.get(name)
    if found is None:
        found = make()
        if len(store) >= most:
            del store[next(iter(store))]
        store[name] = found
    return found


def _paired(signs: Tensor, moves: Tensor | None, kind: Integers) -> Tensor:
    """Words of even lines and of odd ones, (2, n), shifted so that bits alternate: the sign, and whether it moves."""
    lower = kind.alternate
    if moves is None:
        return torch.stack((signs | lower, signs << 1 | lower))
    even = (signs & ~lower).bitwise_or_((moves >> 1).bitwise_and_(lower))
    odd = (signs << 1).bitwise_and_(~lower).bitwise_or_(moves & lower)
    return torch.stack((even, odd))


@lru_cache(maxsize=256)
def _rows(about: Layout) -> tuple[int, int, int]:
    """Of a tensor whose rows balance: length of the parts they balance in, words of a line, and of a block."""
    bits = INTEGERS[about.dtype].bits
    row = _part(about.row, BLOCK // bits)
    columns = -(-min(BLOCK, about.size) // (bits * row)) * row
    # Where blocks begin within rows, a line is longer by one, so that it can begin with a whole one.
    return row, columns, columns + (row if about.size > BLOCK and BLOCK % row else 0)


def _place(first: int, start: int, count: int, about: Layout) -> tuple[int, int]:
    """Where the words of a block begin in those of its stretch, and how many a line has."""
    if not about.row:
        bits = INTEGERS[about.dtype].bits
        return (first - start) // bits, -(-count // bits)
    row, columns, whole = _rows(about)
    return (first - start) // BLOCK * whole + first % row, columns


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


def mirror(bits: Tensor, shift: int) -> None:
    """Rows of words (..., n), in place, as ones whose elements are opposite to their :func:`partners`."""
    ends = shift % bits.shape[1] + 1
    for part in (bits[:, :ends], bits[:, ends:]):
        if half := part.shape[1] // 2:
            torch.bitwise_not(part[:, :half].flip(1), out=part[:, part.shape[1] - half :])


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
