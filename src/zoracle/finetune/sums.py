"""Sums of several directions, looked up by their signs: eight at an element are one of 256 bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoracle.finetune.noise import BLOCK, INTEGERS
from zoracle.finetune.signs import STRETCH, Layout, Signs, place, room

#: Directions in one sum.
MOST = 8
#: Rounds that transpose eight rows and the bits of their bytes: the distance, and a mask of the bits to exchange.
_ROUNDS = ((4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333), (1, 0x5555555555555555))


class Sums:
    """Sums of up to eight directions times numbers, block by block.

    The words of eight directions are eight rows of bits. Transposed, eight rows by eight bits, each byte holds the
    signs of one element along all of them. A table has the sum for each byte, added in the order in which it would be
    added element by element, so it is the same to the bit.

    Args:
        signs: source of the words.
    """

    def __init__(self, signs: Signs) -> None:
        self._signs = signs
        self._rows: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._room: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}
        self._seen: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._found: tuple[tuple[int, ...], int, Layout] | None = None

    def reserve(self, layouts: Iterable[Layout]) -> None:
        """Allocate what sums need, before the first forward pass."""
        for about in layouts:
            self._reserved(about)

    def table(self, scales: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Sums (256,) of numbers times the signs in a byte, of which bit k, from the highest, is for number k."""
        signs, total = torch.arange(256, device=device), torch.zeros(256, dtype=dtype, device=device)
        for k, scale in enumerate(scales):
            total.add_((1 - 2 * (signs >> (7 - k) & 1)).to(dtype), alpha=scale)
        return total

    def block(self, keys: tuple[int, ...], table: Tensor, first: int, count: int, about: Layout) -> Tensor:
        """Elements first .. first + count - 1 of a sum, (count,); overwritten by the next call.

        Args:
            keys: of the tensor, for each direction.
            table: result of :meth:`table`.
            first: a multiple of BLOCK.
            count: at most BLOCK.
            about: the tensor.
        """
        start, kind = first // STRETCH * STRETCH, INTEGERS[about.dtype]
        shifts, _, out = self._reserved(about)
        self._signs.forget()
        rows = self._rows[about.device][0]
        if self._found != (keys, start, about):
            self._transpose(keys, start, about)
            self._found = keys, start, about
        offset, columns = place(first, start, count, about)
        # Line 8 b + i of a block has the signs in byte b, from the highest, of row i.
        whole, rest, found, index = self._views(about, columns, count)
        words = rows.view(kind.dtype)[:, offset : offset + columns]
        if len(whole):
            torch.bitwise_right_shift(words, shifts[: len(whole)], out=whole)
        if len(rest):
            torch.bitwise_right_shift(words[: len(rest)], shifts[len(whole), 0], out=rest)
        found.bitwise_and_(255)
        if found.itemsize < 4:  # no type of indices
            index.copy_(found)
        return torch.index_select(table, 0, index, out=out[:count])

    def _views(self, about: Layout, columns: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lines of a block, eight and eight, the lines that are left, all elements, and indices: stored."""
        name = about.dtype, about.device, columns, count
        if name not in self._seen:
            lines, scratch = -(-count // columns), self._signs.scratch(about)[1]
            whole = lines // 8 * 8
            rows = scratch[: lines * columns].view(lines, columns)
            found, wide = rows.view(-1)[:count], self._reserved(about)[1]
            index = wide[:count] if found.itemsize < 4 else found
            self._seen[name] = rows[:whole].view(-1, 8, columns), rows[whole:], found, index
        return self._seen[name]

    def _transpose(self, keys: tuple[int, ...], start: int, about: Layout) -> None:
        """Words of a stretch: bit i of a byte of row k becomes bit 7 - k of the byte of row 7 - i."""
        rows, spare = self._rows[about.device]
        used = 0
        for key, row in zip(keys, rows.view(INTEGERS[about.dtype].dtype), strict=False):
            bits = self._signs.bits(key, start, about)
            row[: len(bits)] = bits
            used = -(-bits.nbytes // 8)
        for distance, mask in _ROUNDS:
            pairs = rows[:, :used].view(4 // distance, 2, distance, used)
            upper, lower = pairs[:, 0], pairs[:, 1]
            changed = spare[: 4 * used].view(upper.shape)
            torch.bitwise_right_shift(lower, distance, out=changed).bitwise_xor_(upper).bitwise_and_(mask)
            upper.bitwise_xor_(changed)
            lower.bitwise_xor_(changed.bitwise_left_shift_(distance))

    def _reserved(self, about: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """The shifts to each byte of a word, and memory for indices and sums; memory of the rows is made, too."""
        device, kind = about.device, INTEGERS[about.dtype]
        numbers = room(about) // 2 + 1
        if device not in self._rows or self._rows[device][0].shape[1] < numbers:
            rows = torch.zeros((8, numbers), dtype=torch.int64, device=device)
            self._rows[device], self._found = (rows, rows.new_empty(4 * numbers)), None
        if (about.dtype, device) not in self._room:
            shifts = torch.arange(kind.bits - 8, -1, -8, dtype=kind.dtype, device=device).view(-1, 1, 1)
            wide = torch.empty(BLOCK if kind.bits < 32 else 0, dtype=torch.int32, device=device)
            out = torch.empty(BLOCK, dtype=torch.promote_types(about.dtype, torch.float32), device=device)
            self._room[about.dtype, device] = shifts, wide, out
        return self._room[about.dtype, device]
