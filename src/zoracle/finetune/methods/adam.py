"""MeZO with Adam."""

from __future__ import annotations

from torch import Tensor

from zoracle.finetune.methods.base import Move, ProbeLosses, rate
from zoracle.finetune.methods.mezo import MeZO, MeZOConfig
from zoracle.finetune.methods.momentum import buffer
from zoracle.finetune.tensors import Slot
from zoracle.optimizers.base import Positive
from zoracle.settings import Decay


class AdamConfig(MeZOConfig, frozen=True, kw_only=True):
    """Settings of MeZO with Adam.

    Attributes:
        lr: step size.
        beta1: decay of the running mean of the estimates.
        beta2: decay of the running mean of their squares.
        eps: added to the root of that second running mean.
    """

    lr: Positive = 1e-4
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8


class Adam(MeZO):
    r"""w \leftarrow w - \eta\, \hat m / (\sqrt{\hat v} + \epsilon), with both moments corrected for their start.

    Source: Malladi et al. (2023), appendix B; Kingma and Ba (2015), algorithm 1. Both moments are kept.
    """

    Config = AdamConfig
    extra_memory = "2 numbers per weight"
    summary = "Adam on MeZO's estimates"

    def scales(self, slot: Slot, probed: ProbeLosses) -> None:
        """None: a step is not a sum of its directions only."""

    def mover(self, slot: Slot, probed: ProbeLosses) -> Move:
        """Adam's step."""
        c, lr = self.config, rate(slot)
        estimate = self.estimate(slot, probed)
        mean, square = buffer(slot, "mean"), buffer(slot, "square")
        taken = self.memory.get("moments", 0.0) + 1
        first_weight, second_weight = 1 - c.beta1**taken, 1 - c.beta2**taken

        def step(first: int, count: int) -> Tensor:
            g = estimate.block(first, count) * estimate.scale
            m, v = mean[first : first + count], square[first : first + count]
            m.mul_(c.beta1).add_(g, alpha=1 - c.beta1)
            v.mul_(c.beta2).addcmul_(g, g, value=1 - c.beta2)
            return m.div((v / second_weight).sqrt_().add_(c.eps))

        return Move(step, lr / first_weight)

    def after(self, probed: ProbeLosses) -> None:
        """Count the steps that moved."""
        self.memory["moments"] = self.memory.get("moments", 0.0) + 1
