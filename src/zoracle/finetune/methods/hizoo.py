"""HiZOO: directions and steps scaled by an estimate of the Hessian's diagonal (Zhao et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from zoracle.finetune.methods.base import ITERATE, Block, MethodConfig, Move, Probe, ProbeLosses, finite, rate
from zoracle.finetune.methods.graded import Graded, gaussian
from zoracle.finetune.methods.momentum import buffer
from zoracle.finetune.noise import Draw
from zoracle.finetune.tensors import Slot
from zoracle.optimizers.base import Positive, Share

_SPAN = 64.0


class HiZOOConfig(MethodConfig, frozen=True, kw_only=True):
    """Settings of HiZOO.

    Attributes:
        smoothing: alpha, the weight of a step's curvature in its running mean.
        least: lower bound on a weight's curvature; without it, a weight with no observed curvature moves without bound.
    """

    smoothing: Share = 1e-6
    least: Positive = 1e-2


class HiZOO(Graded):
    r"""Steps preconditioned by H, a running estimate of the Hessian's diagonal that begins at 1.

    With z standard normal, f_0 = f(w) and f_\pm = f(w \pm \mu H^{-1/2} z),

    H \leftarrow (1 - \alpha) H + \alpha \frac{|f_+ + f_- - 2 f_0|}{2 \mu^2} H z^2,
    w \leftarrow w - \eta \frac{f_+ - f_-}{2 \mu} H^{-1/2} z.

    Source: Zhao et al. (2024), "Second-Order Fine-Tuning without Pain for LLMs: A Hessian Informed Zeroth-Order
    Optimizer", algorithm 1.
    """

    Config = HiZOOConfig
    extra_memory = "1 number per weight"
    summary = "scaled by an estimate of the Hessian's diagonal (Zhao et al., 2024)"

    @property
    def probes(self) -> Sequence[Probe]:
        """The iterate, up, down."""
        return [ITERATE, Probe(0, 1), Probe(0, -1)]

    def span(self, slot: Slot) -> float:
        """The span of a normal number over the root of the least curvature."""
        return _SPAN

    def usable(self, probed: ProbeLosses) -> int:
        """All three have to be finite."""
        return int(all(map(math.isfinite, probed.losses)))

    def scaled(self, slot: Slot, draw: Draw, scale: float) -> Block:
        """H^{-1/2} z times a scale."""
        z, curvature = gaussian(slot, draw, scale), buffer(slot, "curvature", 1.0)
        return lambda first, count: z(first, count).div_(curvature[first : first + count].sqrt())

    def mover(self, slot: Slot, probed: ProbeLosses) -> Move:
        """The step, after updating the curvature with this step's losses."""
        c, mu, lr = self.config, self.mu(slot), rate(slot)
        here, up, down = probed.losses
        bend = abs(up + down - 2 * here) / (2 * mu * mu)
        slope = finite((up - down) / (2 * mu))
        z, curvature = gaussian(slot, Draw(probed.seed, probed.step, 0), 1.0), buffer(slot, "curvature", 1.0)

        def step(first: int, count: int) -> Tensor:
            made, h = z(first, count), curvature[first : first + count]
            h.mul_(made.square().mul_(c.smoothing * bend).add_(1 - c.smoothing)).clamp_(min=c.least)
            return made.div_(h.sqrt())

        return Move(step, lr * slope)

    def loss(self, probed: ProbeLosses) -> float:
        """The loss of the iterate."""
        return probed.losses[0]
