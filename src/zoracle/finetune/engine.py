"""Moves the weights of a model along directions that are never stored, and restores them bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoracle.finetune.methods.base import Method, Probe, ProbeLosses
from zoracle.finetune.noise import BLOCK, Draw, uniforms
from zoracle.finetune.pack import Pack, packs
from zoracle.finetune.tensors import Slot, snap

_ROUNDING = 7  # stream of the draws for rounding updates
#: Bits of float32 that half-precision types lack.
_DROPPED = {torch.float16: 13, torch.bfloat16: 16}


class Engine:
    """Tracks the position of the weights: at the iterate, or at a probe beside it.

    Args:
        slots: the tensors.
        method: determines the directions and distances.
    """

    def __init__(self, slots: Sequence[Slot], method: Method) -> None:
        self.slots = slots
        self.method = method
        self.at: Probe | None = None
        """The probe that the weights stand at; None at the iterate."""
        # Allocated once: allocating and freeing between forward passes would fragment the heap, which then grows.
        kinds = {(slot.parameter.dtype, slot.parameter.device) for slot in slots}
        method.reserve(slots)
        self._packs = packs(slots, [method.layout(slot) for slot in slots]) if method.signs else []
        together = {slot.index for pack in self._packs for slot in pack.slots}
        self._alone = [slot for slot in slots if slot.index not in together]
        self._room = {kind: torch.empty(BLOCK, dtype=kind[0], device=kind[1]) for kind in kinds}

    def settle(self) -> None:
        """Round weights that are new, or were changed from outside, to the grid of exact steps."""
        for slot in self.slots:
            reach = self.method.reach(slot)
            if slot.reach == reach and slot.version == slot.parameter._version:
                continue
            flat = slot.flat()
            for first, count in slot.blocks():
                snap(flat[first : first + count], reach, self._scratch(slot, count))
            slot.reach, slot.version = reach, slot.parameter._version

    def _scratch(self, slot: Slot, count: int) -> torch.Tensor:
        """Memory for this many elements of a tensor's type."""
        return self._room[slot.parameter.dtype, slot.parameter.device][:count]

    def prepare(self, seed: int, step: int) -> None:
        """Begin a step at the iterate: round to the grid, and let the method prepare from the weights there."""
        self.settle()
        for slot in self.slots:
            self.method.prepare(slot, seed, step)
        for pack in self._packs:
            masks = [mask(0, slot.size) for slot in pack.slots if (mask := self.method.mask(slot))]
            pack.prepare([slot.reach for slot in pack.slots], masks or None)

    def go(self, probe: Probe | None, seed: int, step: int) -> None:
        """Move the weights from their current position to a probe, or back to the iterate, block by block."""
        there = None if probe is None or probe.side == 0 else probe
        if there == self.at:
            return
        leave, self.at = self.at, there
        # Each sum is exact because it starts and ends on the grid; moving from one side of a direction to the other
        # takes one sum.
        legs: dict[int, int] = {}
        for probe, sign in ((leave, -1), (there, 1)):
            if probe is not None:
                legs[probe.direction] = legs.get(probe.direction, 0) + sign * probe.side
        path = [(Draw(seed, step, j), sides) for j, sides in legs.items()]
        for pack in self._packs:
            weights = pack.gather()
            for change in pack.moves(path):
                weights.add_(change)
            pack.scatter()
        for slot in self._alone:
            moves = self.method.moves(slot, path)
            flat = slot.flat()
            for first, count in slot.blocks():
                block = flat[first : first + count]
                for move in moves:
                    block.add_(move.block(first, count), alpha=move.scale)
            slot.version = slot.parameter._version

    def finish(self, probed: ProbeLosses) -> None:
        """Apply the method's step to the iterate, wherever the weights currently are.

        In half precision most steps are smaller than the spacing of the weights; they are rounded up or down at random
        so that they add up on average, with draws that a replay repeats.
        """
        leave, self.at = self.at, None
        alone = [*self._alone]
        for pack in self._packs:
            if not self._finish_together(pack, leave, probed):
                alone += pack.slots
        for slot in alone:
            move = self.method.mover(slot, probed)
            back = None
            if leave is not None:
                back = self.method.perturbation(slot, Draw(probed.seed, probed.step, leave.direction))
            flat = slot.flat()
            reach = self.method.next_reach(slot, probed)
            decay = float(slot.group.get("weight_decay", 0.0)) * float(slot.group["lr"])
            for first, count in slot.blocks():
                block = flat[first : first + count]
                if back is not None and leave is not None:
                    block.sub_(back.block(first, count), alpha=leave.side * back.scale)
                delta, scale = move.block(first, count), move.scale
                if decay:
                    delta, scale = (delta * scale).add_(block, alpha=decay), 1.0
                if slot.parameter.dtype not in _DROPPED:
                    block.sub_(delta, alpha=scale)
                    snap(block, reach, self._scratch(slot, count))
                    continue
                wide = block.float().sub_(delta, alpha=scale)
                toward = wide.sign()
                wide.add_(toward, alpha=reach)
                bits = wide.view(torch.int32)
                below = 1 << _DROPPED[slot.parameter.dtype]
                key = Draw(probed.seed, probed.step, 0).key(slot.index, _ROUNDING)
                dither = uniforms(key, first, count, block.device).mul_(below).to(torch.int32)
                bits.add_(dither).bitwise_and_(-below)
                block.copy_(wide.sub_(toward, alpha=reach))
            slot.reach, slot.version = reach, slot.parameter._version

    def _finish_together(self, pack: Pack, leave: Probe | None, probed: ProbeLosses) -> bool:
        """Apply the step to small tensors; False where it has to be done one by one."""
        method, slots = self.method, pack.slots
        scales = [method.scales(slot, probed) for slot in slots]
        decay = any(slot.group.get("weight_decay", 0.0) for slot in slots)
        if decay or None in scales or slots[0].parameter.dtype in _DROPPED:
            return False
        weights = pack.gather()
        if leave is not None:
            weights.sub_(pack.perturbation(Draw(probed.seed, probed.step, leave.direction), leave.side))
        rows = list(zip(*(row for row in scales if row is not None), strict=True))
        draws = [Draw(probed.seed, probed.step, j) for j in range(len(rows))]
        weights.sub_(pack.along(draws[::-1], rows[::-1]))
        reaches = [method.next_reach(slot, probed) for slot in slots]
        snap(weights, pack.columns(reaches), self._scratch(slots[0], weights.numel()).view_as(weights))
        pack.scatter()
        for slot, reach in zip(slots, reaches, strict=True):
            slot.reach = reach
        return True
