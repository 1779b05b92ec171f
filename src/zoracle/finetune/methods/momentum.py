"""MeZO with momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.finetune.methods.base import Move, ProbeLosses, rate, working
from zoracle.finetune.methods.mezo import MeZO, MeZOConfig
from zoracle.finetune.tensors import Slot
from zoracle.settings import Decay


class MomentumConfig(MeZOConfig, frozen=True, kw_only=True):
    """Settings of MeZO with momentum.

    Attributes:
        momentum: decay of the running mean of the estimates.
    """

    momentum: Decay = 0.9


class Momentum(MeZO):
    r"""m \leftarrow \beta m + (1 - \beta) \hat g, w \leftarrow w - \eta m.

    Source: Malladi et al. (2023), appendix B, with the mean kept instead of recomputed.
    """

    Config = MomentumConfig
    extra_memory = "1 number per weight"
    summary = "MeZO along a running mean of the estimates"

    def scales(self, slot: Slot, probed: ProbeLosses) -> None:
        """None: a step is not a sum of its directions only."""

    def mover(self, slot: Slot, probed: ProbeLosses) -> Move:
        """The step size times the running mean."""
        estimate = self.estimate(slot, probed)
        mean, beta, lr = buffer(slot, "mean"), self.config.momentum, rate(slot)

        def step(first: int, count: int) -> Tensor:
            part = mean[first : first + count]
            part.mul_(beta).add_(estimate.block(first, count), alpha=(1 - beta) * estimate.scale)
            return part

        return Move(step, lr)


def buffer(slot: Slot, name: str, value: float = 0.0) -> Tensor:
    """A stored number per weight, (n,), created at the first request."""
    if name not in slot.state:
        slot.state[name] = torch.full((slot.size,), value, dtype=working(slot), device=slot.parameter.device)
    return slot.state[name]
