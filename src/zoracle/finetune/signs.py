"""Directions of signs that are never stored: one bit a weight, made block by block from words of a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoracle.finetune.noise import BLOCK, INTEGERS, Integers, counters, words

_WORD = 64
STRETCH = 4 * BLOCK
_KEPT = 12  # stretches: those of the directions that a step goes along block by block


Maker = Callable[[int], tuple[Tensor, Tensor | None]]
"""From the start of a stretch to words of signs, and of whether elements move."""


class Layout(NamedTuple):
    """What the order of a tensor's signs depends on."""

    size: int
    """Number of elements."""
    dtype: torch.dtype
    """Floating point, of 16, 32 or 64 bits."""
    device: torch.device
    row: int = 0
    """Length of the rows in which signs balance, see :func:`partners`; 0 for independent signs."""


class Stretches:
    """Words of the last stretches, in memory that is allocated once.

    Memory that is allocated between forward passes fragments the heap: activations are placed around it, and the heap
    grows.

    Args:
        numbers: how many 64-bit words the largest stretch has.
        device: where.
    """

    def __init__(self, numbers: int, device: torch.device) -> None:
        self._free = list(torch.empty((_KEPT, numbers), dtype=torch.int64, device=device))
        self._found: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def of(self, name: tuple[Any, ...], make: Callable[[], tuple[Tensor, Tensor | None]], kind: Integers) -> Tensor:
        """The words (2, n) stored by this name, or those of :func:`paired` made now in the place of the oldest."""
        found = self._found.get(name)
        if found is None:
            signs, moves = make()
            room = self._free.pop() if self._free else self._found.pop(next(iter(self._found)))[1]
            if 8 * room.numel() < 2 * signs.numel() * signs.itemsize:
                room = torch.empty(-(-signs.numel() * signs.itemsize // 4), dtype=torch.int64, device=signs.device)
            rows = room.view(kind.dtype)[: 2 * signs.numel()].view(2, -1)
            found = self._found[name] = paired(signs, moves, kind, rows), room
        return found[0]


class Signs:
    """A key's signs: each element 1 or -1 with equal chance.

    Blocks hold twice the signs: 2 and 0 differ in one bit, the one next to the sign, so that a shift and a mask make a
    block. The last one is cached, since a step undoes a direction and moves along it in succession. It is
    overwritten by the next call: allocating and freeing memory a thousand times per step costs as much as computing the
    numbers.
    """

    def __init__(self) -> None:
        self._stretches: dict[torch.device, Stretches] = {}
        self._last: tuple[tuple[Any, ...], Tensor] | None = None
        self._room: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}
        self._seen: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor]] = {}
        self._ramp: dict[torch.device, Tensor] = {}

    def reserve(self, layouts: Iterable[Layout]) -> None:
        """Allocate all that directions of tensors need, before the first forward pass."""
        largest: dict[tuple[torch.dtype, torch.device], Layout] = {}
        most: dict[torch.device, int] = {}
        for about in layouts:
            most[about.device] = max(most.get(about.device, 0), room(about))
            kind = about.dtype, about.device
            if kind not in largest or about.size > largest[kind].size:
                largest[kind] = about
        for device, numbers in most.items():
            self._stretches[device] = Stretches(numbers, device)
        for about in largest.values():
            self.twice(0, 0, min(BLOCK, about.size), about)

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

        def make(start: int) -> tuple[Tensor, Tensor | None]:
            return self.bits(key, start, about), None

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

        def make(start: int) -> tuple[Tensor, Tensor | None]:
            moves, after = (self.bits(key, start, about) for key, _ in (leave, enter))
            moves.bitwise_xor_(after)
            if leave[1] != enter[1]:
                moves.bitwise_not_()
            return after if enter[1] > 0 else after.bitwise_not_(), moves

        return self._block((*leave, *enter), make, first, count, about, mask)

    def _block(
        self, name: tuple[int, ...], make: Maker, first: int, count: int, about: Layout, mask: Tensor | None
    ) -> Tensor:
        """A block from the words of the blocks around it: making many at a time takes little longer than one."""
        start = first // STRETCH * STRETCH
        if self._last is not None and mask is None and self._last[0] == (name, first, count, about):
            return self._last[1]
        kind = INTEGERS[about.dtype]
        if about.device not in self._stretches:
            self._stretches[about.device] = Stretches(room(about), about.device)
        found = self._stretches[about.device].of((name, start, about), lambda: make(start), kind)
        offset, columns = place(first, start, count, about)
        pairs = found[:, offset : offset + columns] if columns < found.shape[1] else found
        if mask is not None:
            pairs = pairs & paired(torch.full_like(mask, -1), mask, kind, mask.new_empty((2, len(mask))))
        shifts, made, block = self._views(about, columns, count)
        torch.bitwise_left_shift(pairs, shifts, out=made)
        made.bitwise_and_(kind.sign | kind.two)
        self._last = None if mask is not None else ((name, first, count, about), block)
        return block

    def forget(self) -> None:
        """The memory of the last block is used otherwise."""
        self._last = None

    def scratch(self, about: Layout) -> tuple[Tensor, Tensor]:
        """Shifts to every second bit, and memory for the integers of a block."""
        kind = INTEGERS[about.dtype]
        if (about.dtype, about.device) not in self._room:
            shifts = torch.arange(0, kind.bits, 2, dtype=kind.dtype, device=about.device).view(-1, 1, 1)
            # Balanced rows take up to an eighth more: whole rows of 16 bits or more.
            made = torch.empty(BLOCK + BLOCK // 8, dtype=kind.dtype, device=about.device)
            self._room[about.dtype, about.device] = (shifts, made)
        return self._room[about.dtype, about.device]

    def _views(self, about: Layout, columns: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Shifts of pairs of lines, the integers of a block, and its elements: stored, as there are few shapes."""
        name = about.dtype, about.device, columns, count
        if name not in self._seen:
            shifts, made = self.scratch(about)
            lines = -(-count // (2 * columns))
            rows = made[: 2 * lines * columns].view(lines, 2, columns)
            self._seen[name] = shifts[:lines], rows, rows.view(-1)[:count].view(about.dtype)
        return self._seen[name]

    def bits(self, key: int, start: int, about: Layout) -> Tensor:
        """The words of a stretch, one after the other: bit k, from the highest, is for line k of a block.

        A bit of 1 is minus.
        """
        kind, device, size = INTEGERS[about.dtype], about.device, min(STRETCH, about.size - start)
        if device not in self._ramp:
            self._ramp[device] = counters(3 * STRETCH // _WORD, device)
        if not about.row:
            return words(key, start // _WORD, -(-size // _WORD), device, self._ramp[device]).view(kind.dtype)
        row, _, whole = _rows(about)
        width, blocks = -(-whole * kind.bits // _WORD), -(-size // BLOCK)
        drawn = words(key, start // BLOCK * width, blocks * width, device, self._ramp[device])
        bits = drawn.view(blocks, width).view(kind.dtype)[:, :whole].reshape(-1, row)
        mirror(bits, key & 0x7FFFFFFF)
        return bits.view(-1)


def paired(signs: Tensor, moves: Tensor | None, kind: Integers, out: Tensor) -> Tensor:
    """Words of even lines and of odd ones, (2, n), shifted so that bits alternate: the sign, and whether it moves."""
    lower, (even, odd) = kind.alternate, out
    torch.bitwise_left_shift(signs, 1, out=odd)
    if moves is None:
        torch.bitwise_or(signs, lower, out=even)
        odd.bitwise_or_(lower)
        return out
    # x ^ ((x ^ y) & mask) takes the bits of the mask from y, without more memory.
    torch.bitwise_right_shift(moves, 1, out=even)
    even.bitwise_xor_(signs).bitwise_and_(lower).bitwise_xor_(signs)
    odd.bitwise_xor_(moves).bitwise_and_(~lower).bitwise_xor_(moves)
    return out


@lru_cache(maxsize=256)
def _rows(about: Layout) -> tuple[int, int, int]:
    """Of a tensor whose rows balance: length of the parts they balance in, words of a line, and of a block."""
    bits = INTEGERS[about.dtype].bits
    row = _part(about.row, BLOCK // bits)
    columns = -(-min(BLOCK, about.size) // (bits * row)) * row
    # Where blocks begin within rows, a line is longer by one, so that it can begin with a whole one.
    return row, columns, columns + (row if about.size > BLOCK and BLOCK % row else 0)


def room(about: Layout) -> int:
    """Number of 64-bit words in the two rows of a stretch."""
    bits, longest = INTEGERS[about.dtype].bits, min(STRETCH, about.size)
    if not about.row:
        return 2 * -(-longest // _WORD)
    return -(-2 * -(-longest // BLOCK) * _rows(about)[2] * bits // _WORD)


def place(first: int, start: int, count: int, about: Layout) -> tuple[int, int]:
    """Where the words of a block begin in those of its stretch, and how many a line has."""
    if not about.row:
        bits = INTEGERS[about.dtype].bits
        return (first - start) // bits, -(-count // bits)
    row, columns, whole = _rows(about)
    return (first - start) // BLOCK * whole + first % row, columns


def line(about: Layout) -> int:
    """Number of columns of the lines of a tensor of one block."""
    return _rows(about)[1] if about.row else -(-about.size // INTEGERS[about.dtype].bits)


def part(about: Layout) -> int:
    """The length of the parts that the rows of a tensor balance in."""
    return _rows(about)[0]


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
    row = bits.shape[1]
    for begin, end in ((0, shift % row + 1), (shift % row + 1, row)):
        half = (end - begin) // 2
        if half and bits.device.type == "cpu":  # NumPy reads backwards, which saves a copy
            numbers = bits.numpy()[:, begin:end]
            np.invert(numbers[:, half - 1 :: -1], out=numbers[:, end - begin - half :])
        elif half:
            torch.bitwise_not(bits[:, begin : begin + half].flip(1), out=bits[:, end - half : end])
