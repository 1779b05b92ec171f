"""SparseMeZO: MeZO on the small weights only (Liu et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoracle.finetune.methods.base import Block
from zoracle.finetune.methods.mezo import MeZO, MeZOConfig
from zoracle.finetune.noise import BLOCK, INTEGERS
from zoracle.finetune.tensors import Slot
from zoracle.optimizers.base import Share

_SAMPLE = 1 << 20  # sample size for a tensor's threshold
_HALF = 16  # bits of a half of a float32


class SparseMeZOConfig(MeZOConfig, frozen=True, kw_only=True):
    """Settings of SparseMeZO.

    Attributes:
        sparsity: the share of each tensor's weights, the largest ones, that does not move.
    """

    sparsity: Share = 0.75


class SparseMeZO(MeZO):
    r"""MeZO with m * z for z, where m is 1 for weights with |w| \le h and 0 for others.

    h is the (1 - ``sparsity``) quantile of each tensor's |w| before the first step, of a tensor with more than a
    million weights that of a million of them. The mask m is that of the weights at each step.

    Source: Liu et al. (2024), "Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM Fine-Tuning",
    algorithm 1 and section 4.3. The paper recomputes the mask in the forward pass; here one bit per weight is stored,
    since it cannot be recovered exactly from weights that have moved.
    """

    Config = SparseMeZOConfig
    extra_memory = "1 bit a weight"
    summary = "MeZO on the small weights of each tensor only (Liu et al., 2024)"

    def begin(self, slots: Sequence[Slot]) -> None:
        """Memory of masks and thresholds: between the scratch memory of steps it would fragment the heap."""
        for slot in slots:
            kind = INTEGERS[slot.parameter.dtype]
            columns = sum(-(-count // kind.bits) for _, count in slot.blocks())
            slot.state["mask"] = torch.zeros(columns, dtype=kind.dtype, device=slot.parameter.device)
            slot.state["threshold"] = slot.parameter.new_full((), math.nan)  # until the first step

    def prepare(self, slot: Slot, seed: int, step: int) -> None:
        """The mask of the current weights."""
        super().prepare(slot, seed, step)
        flat, kind = slot.flat(), INTEGERS[slot.parameter.dtype]
        if slot.state["threshold"].isnan():
            sample = flat[:: -(-slot.size // _SAMPLE)]
            kept = max(1, round((1 - self.config.sparsity) * sample.numel()))
            slot.state["threshold"].copy_(smallest(sample, kept))
        shifts = torch.arange(kind.bits, dtype=kind.dtype, device=flat.device).unsqueeze(1)
        for first, count in slot.blocks():
            columns = -(-count // kind.bits)
            small = torch.zeros(columns * kind.bits, dtype=kind.dtype, device=flat.device)
            small[:count] = flat[first : first + count].abs() <= slot.state["threshold"]
            # Row k goes into the bit that a shift by k moves to the sign bit.
            rows = small.view(kind.bits, columns).bitwise_left_shift_(shifts.flip(0))
            torch.sum(rows, 0, dtype=kind.dtype, out=self._words(slot, first, columns))

    def mask(self, slot: Slot) -> Block:
        """The words of the mask."""
        bits = INTEGERS[slot.parameter.dtype].bits
        return lambda first, count: self._words(slot, first, -(-count // bits))

    @staticmethod
    def _words(slot: Slot, first: int, columns: int) -> Tensor:
        """The part of the mask for a block."""
        start = first // INTEGERS[slot.parameter.dtype].bits
        return slot.state["mask"][start : start + columns]


def smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest absolute value, () float32, in the memory of a block: ``kthvalue`` sorts a copy with indices.

    The bits of numbers that are not negative order as the numbers do: the upper half of the bits of the result is
    found by counting upper halves, the lower half by counting among those.

    Args:
        values: (n,) of any floating-point type.
        k: from 1 to n.
    """

    def counted(upper: int | None) -> Tensor:
        total = torch.zeros(1 << _HALF, dtype=torch.int64, device=values.device)
        for part in torch.split(values, BLOCK):
            bits = part.abs().float().view(torch.int32)
            halves = bits >> _HALF if upper is None else bits[bits >> _HALF == upper] & (1 << _HALF) - 1
            total += torch.bincount(halves, minlength=1 << _HALF)
        return total.cumsum(0)

    above = counted(None)
    upper = int((above < k).sum())
    below = int(above[upper - 1]) if upper else 0
    bits = upper << _HALF | int((counted(upper) < k - below).sum())
    return torch.tensor(bits, dtype=torch.int32, device=values.device).view(torch.float32)


assert all(BLOCK % kind.bits == 0 for kind in INTEGERS.values())
