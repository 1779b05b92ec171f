"""Small tensors side by side, moved together: one by one, calling operations takes far longer than they do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.finetune.noise import BLOCK, INTEGERS, Draw, counters, rounds
from zoracle.finetune.signs import Layout, line, mirror, paired, part
from zoracle.finetune.tensors import Slot

#: The largest size of a tensor that is moved with others.
SMALL = BLOCK // 8
_MOST = BLOCK // 2  # elements side by side, padding included

Numbers = float | Tensor
"""One number for all tensors, or one a column, (P,)."""


class Room(NamedTuple):
    """Scratch memory that packs of one type share, (n,) each."""

    weights: Tensor
    values: Tensor
    total: Tensor
    """In the type in which steps are computed."""
    signs: Tensor
    """Integers of the type's size."""


class Pack:
    """Small tensors of one type on one device, in P columns: line k of a tensor has the signs of bit k of its words.

    The columns of a tensor are padded to whole 64-bit words. What is computed for an element is what is computed where
    its tensor is moved alone, bit for bit.

    Args:
        slots: the tensors.
        layouts: of each.
        room: of at least :func:`columns` times the bits of an element.
    """

    def __init__(self, slots: Sequence[Slot], layouts: Sequence[Layout], room: Room) -> None:
        self.slots, self._layouts = list(slots), list(layouts)
        device, self._kind = layouts[0].device, INTEGERS[layouts[0].dtype]
        widths = [columns(about) for about in layouts]
        self._counters = torch.cat([counters(w * self._kind.bits // 64, device) for w in widths])
        self._words = torch.tensor([w * self._kind.bits // 64 for w in widths], device=device)
        self._widths = torch.tensor(widths, device=device)
        self._starts = [sum(widths[:i]) for i in range(len(widths))]
        bits, self._columns = self._kind.bits, sum(widths)
        self.weights, self._values, self._total, signs = (x[: bits * self._columns].view(bits, -1) for x in room)
        self._signs = signs.view(bits // 2, 2, -1)
        self._shifts = torch.arange(0, bits, 2, dtype=self._kind.dtype, device=device).view(-1, 1, 1)
        self._inside = [
            view for place in zip(self._layouts, self._starts, strict=True) for view in _inside(self.weights, *place)
        ]
        self._outside: list[Tensor] = []
        self._found: list[int] = []
        self.fine = True
        """Whether all tensors are, see :func:`~zoracle.finetune.tensors.fine`."""
        self.reach: Numbers = 0.0
        """Of the tensors at this step."""
        self._mask: Tensor | None = None

    def prepare(self, reaches: Sequence[float], masks: Sequence[Tensor] | None) -> None:
        """Begin a step.

        Args:
            reaches: of each tensor.
            masks: words of the elements that move, of each tensor as :meth:`Signs.twice` takes them; None for all.
        """
        self.reach, self.fine = self.columns(reaches), all(slot.fine for slot in self.slots)
        if masks is not None:
            words = self._widths.new_zeros(self._columns, dtype=self._kind.dtype)
            for mask, start in zip(masks, self._starts, strict=True):
                words[start : start + len(mask)] = mask
            self._mask = paired(torch.full_like(words, -1), words, self._kind, words.new_empty((2, len(words))))

    def gather(self) -> Tensor:
        """The weights in columns, (bits, P), to be changed and then put back by :meth:`scatter`."""
        found = [slot.parameter.data_ptr() for slot in self.slots]
        if found != self._found:
            self._outside = [
                view for slot, about in zip(self.slots, self._layouts, strict=True) for view in _outside(slot, about)
            ]
            self._found = found
        torch._foreach_copy_(self._inside, self._outside)
        return self.weights

    def scatter(self) -> None:
        """Write the weights back."""
        torch._foreach_copy_(self._outside, self._inside)
        for slot in self.slots:
            slot.version = slot.parameter._version

    def columns(self, numbers: Sequence[float], dtype: torch.dtype | None = None) -> Numbers:
        """A number of each tensor for all its columns."""
        if len(set(numbers)) == 1:
            return numbers[0]
        given = torch.tensor(numbers, dtype=dtype or self.weights.dtype, device=self.weights.device)
        return given.repeat_interleave(self._widths)

    def moves(self, legs: Sequence[tuple[Draw, int]]) -> Iterator[Tensor]:
        """Changes (bits, P) along directions by numbers of probes, as :meth:`Method.moves` has them for one tensor."""
        if not self.fine:
            legs = [(draw, sides // abs(sides)) for draw, sides in legs for _ in range(abs(sides))]
        elif len(legs) == 2:
            (leave, back), (enter, side) = legs
            before, after = self._bits(leave), self._bits(enter)
            same = before ^ after
            yield self._times(self._block(after if side > 0 else ~after, same if back != side else ~same), self.reach)
            return
        for draw, sides in legs:
            yield self.perturbation(draw, sides)

    def perturbation(self, draw: Draw, sides: int) -> Tensor:
        """The change by a number of probes along a direction."""
        return self._times(self._block(self._bits(draw), None), self.reach * (0.5 * sides))

    def along(self, draws: Sequence[Draw], scales: Sequence[Sequence[float]]) -> Tensor:
        """The sum of directions, each times a number of each tensor, (bits, P) in the type of the step.

        Args:
            draws: of the directions, in the order in which they are added.
            scales: numbers for each direction.
        """
        total = self._total.zero_()
        for draw, row in zip(draws, scales, strict=True):
            if any(row):
                block = self._block(self._bits(draw), None)
                halves = self.columns([0.5 * scale for scale in row], total.dtype)
                if isinstance(halves, float):
                    total.add_(block, alpha=halves)
                else:
                    total.addcmul_(block.to(total.dtype), halves)
        return total

    def _times(self, block: Tensor, numbers: Numbers) -> Tensor:
        return torch.mul(block, numbers, out=self._values)

    def _bits(self, draw: Draw) -> Tensor:
        """The words of a direction, (P,)."""
        keys = [draw.key(slot.index) for slot in self.slots]
        starts = torch.tensor(keys, device=self._words.device).repeat_interleave(self._words)
        drawn = rounds(starts.add_(self._counters)).view(self._kind.dtype)
        for key, about, start in zip(keys, self._layouts, self._starts, strict=True):
            if about.row:
                mirror(drawn[start : start + line(about)].view(-1, part(about)), key & 0x7FFFFFFF)
        return drawn

    def _block(self, signs: Tensor, moves: Tensor | None) -> Tensor:
        """2, -2, or 0 where an element does not move, (bits, P)."""
        pairs = paired(signs, moves, self._kind, signs.new_empty((2, len(signs))))
        if self._mask is not None:
            pairs &= self._mask
        torch.bitwise_left_shift(pairs, self._shifts, out=self._signs)
        self._signs.bitwise_and_(self._kind.sign | self._kind.two)
        return self._signs.view(self.weights.dtype).view(self._kind.bits, -1)


def columns(about: Layout) -> int:
    """Number of columns of a tensor."""
    kind = INTEGERS[about.dtype]
    return -(-line(about) * kind.bits // 64) * 64 // kind.bits


def packs(slots: Sequence[Slot], layouts: Sequence[Layout]) -> list[Pack]:
    """All small tensors, in packs of bounded size."""
    groups: dict[tuple[torch.dtype, torch.device], list[list[int]]] = {}
    for i, about in enumerate(layouts):
        if about.size > SMALL:
            continue
        found = groups.setdefault((about.dtype, about.device), [[]])
        if sum(columns(layouts[j]) for j in (*found[-1], i)) * INTEGERS[about.dtype].bits > _MOST:
            found.append([])
        found[-1].append(i)
    made = []
    for (dtype, device), members in groups.items():
        kind = INTEGERS[dtype]
        most = max(sum(columns(layouts[i]) for i in group) for group in members) * kind.bits
        wide = dtype if dtype.itemsize >= 4 else torch.float32
        room = Room(*(torch.zeros(most, dtype=d, device=device) for d in (dtype, dtype, wide, kind.dtype)))
        made += [Pack([slots[i] for i in group], [layouts[i] for i in group], room) for group in members if group]
    return made


def _inside(columns: Tensor, about: Layout, start: int) -> Iterator[Tensor]:
    """Whole lines of a tensor in its columns, and the rest of its elements."""
    width = line(about)
    lines, rest = divmod(about.size, width)
    yield columns[:lines, start : start + width]
    if rest:
        yield columns[lines, start : start + rest]


def _outside(slot: Slot, about: Layout) -> Iterator[Tensor]:
    """The same elements in the tensor."""
    width, flat = line(about), slot.flat()
    lines, rest = divmod(about.size, width)
    yield flat[: lines * width].view(lines, width)
    if rest:
        yield flat[lines * width :]
