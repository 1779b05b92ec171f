"""LOZO: directions of low rank (Chen et al., 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoracle.finetune.methods.base import Block, Directions, Move, ProbeLosses, rate
from zoracle.finetune.methods.graded import Graded, gaussian
from zoracle.finetune.methods.mezo import MeZOConfig
from zoracle.finetune.noise import BLOCK, Draw, normals
from zoracle.finetune.tensors import Slot

_LEFT, _RIGHT = 1, 2  # streams of the factors
_SPAN = 8.0  # a Box-Muller draw of 24 bits is below 5.8, and a product of two rarely above 8


class LOZOConfig(MeZOConfig, frozen=True, kw_only=True):
    """Settings of LOZO.

    Attributes:
        num_directions: central pairs per step.
        rank: r of the directions of a matrix.
        interval: number of steps for which V is kept.
    """

    rank: Directions = 2
    interval: Directions = 50


class LOZO(Graded):
    r"""W \leftarrow W - \frac{\eta}{q r} \sum_j \frac{f(W + \mu U_j V_j^T) - f(W - \mu U_j V_j^T)}{2 \mu} U_j V_j^T.

    U_j (m, r) is drawn at each step and V_j (n, r) every ``interval`` steps, both standard normal. Tensors of more
    than two dimensions are matrices of their first dimension by the rest; vectors move along Gaussian directions.

    Source: Chen et al. (2024), "Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank Structures",
    algorithm 1.
    """

    Config = LOZOConfig
    extra_memory = "r (m + n) numbers of one (m, n) matrix at a time"
    summary = "central differences along directions of low rank (Chen et al., 2024)"

    def span(self, slot: Slot) -> float:
        """The span of a sum of r products of two normal numbers."""
        return _SPAN * math.sqrt(self.config.rank)

    def scaled(self, slot: Slot, draw: Draw, scale: float) -> Block:
        """U V^T times a scale, block by block."""
        p, r = slot.parameter, self.config.rank
        if p.dim() < 2 or not p.is_contiguous():
            return gaussian(slot, draw, scale)
        rows, columns = p.shape[0], p.numel() // p.shape[0]
        lazy = draw._replace(step=draw.step // self.config.interval)
        dtype = p.dtype if p.dtype.itemsize > 4 else torch.float32
        left = _drawn(draw.key(slot.index, _LEFT), rows * r, p.device).view(rows, r).to(dtype)
        right = _drawn(lazy.key(slot.index, _RIGHT), columns * r, p.device).view(columns, r).to(dtype)

        def block(first: int, count: int) -> Tensor:
            top, bottom = first // columns, -(-(first + count) // columns)
            product = (left[top:bottom] @ right.T).view(-1)
            return product[first - top * columns : first - top * columns + count] * scale

        return block

    def mover(self, slot: Slot, probed: ProbeLosses) -> Move:
        """The step size times the estimate."""
        low = slot.parameter.dim() >= 2 and slot.parameter.is_contiguous()
        return self.estimate(slot, probed, rate(slot) / (self.config.rank if low else 1))


def _drawn(key: int, n: int, device: torch.device) -> Tensor:
    """Standard normal numbers (n,)."""
    return torch.cat([normals(key, first, min(BLOCK, n - first), device) for first in range(0, n, BLOCK)])
