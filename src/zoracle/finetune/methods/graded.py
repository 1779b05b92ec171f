"""Exact moves along directions whose elements differ in size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from zoracle.finetune.methods.base import Block, Move, Pairs
from zoracle.finetune.noise import Draw, normals, uniforms
from zoracle.finetune.tensors import Slot, power_of_two, quantum

_ROUNDING = 6  # stream of the draws for rounding a perturbation in half precision


class Graded(Pairs):
    """A method along directions that are not signs.

    A subclass writes :meth:`scaled` in float32 (float64 for float64 tensors) and :meth:`span`. A probe adds
    the direction times mu, rounded to multiples of the spacing at the tensor's largest weight, so that it can be taken
    back exactly: to the nearest one, or in half precision, where rounding may remove most of it, up or down at random.
    """

    signs = False

    @abstractmethod
    def span(self, slot: Slot) -> float:
        """Upper bound on an element of the direction; larger ones are clipped to it."""

    @abstractmethod
    def scaled(self, slot: Slot, draw: Draw, scale: float) -> Block:
        """A direction times a scale."""

    def reserve(self, slots: Sequence[Slot]) -> None:
        """Nothing: directions are not signs."""

    def direction(self, slot: Slot, draw: Draw) -> Move:
        """A direction."""
        return Move(self.scaled(slot, draw, 1.0), 1.0)

    def moves(self, slot: Slot, legs: Sequence[tuple[Draw, int]]) -> list[Move]:
        """One change for each direction: what two of them differ by is not on the grid."""
        return self.apart(slot, legs)

    def reach(self, slot: Slot) -> float:
        """The reach of the largest element of a direction."""
        return power_of_two(self.mu(slot) * self.span(slot))

    def prepare(self, slot: Slot, seed: int, step: int) -> None:
        """The spacing at the largest weight."""
        slot.quantum = quantum(slot.flat(), self.reach(slot))

    def perturbation(self, slot: Slot, draw: Draw) -> Move:
        """The direction times mu, in multiples of the quantum."""
        p = slot.parameter
        block = self.scaled(slot, draw, self.mu(slot) / slot.quantum)
        most = self.reach(slot) / slot.quantum
        key = draw.key(slot.index, _ROUNDING)

        def rounded(first: int, count: int) -> Tensor:
            made = block(first, count)
            made = made.round_() if p.dtype.itemsize >= 4 else made.add_(uniforms(key, first, count, p.device)).floor_()
            return made.clamp_(-most, most).mul_(slot.quantum).to(p.dtype)

        return Move(rounded, 1.0)


def gaussian(slot: Slot, draw: Draw, scale: float, stream: int = 0) -> Block:
    """Standard normal numbers times a scale, float32 or wider."""
    key, p = draw.key(slot.index, stream), slot.parameter

    def block(first: int, count: int) -> Tensor:
        made = normals(key, first, count, p.device)
        return (made.to(p.dtype) if p.dtype.itemsize > 4 else made).mul_(scale)

    return block
