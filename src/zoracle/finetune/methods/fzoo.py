"""FZOO: one-sided differences, steps in units of the spread of the losses (Dang et al., 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoracle.finetune.methods.base import (
    ITERATE,
    Directions,
    Method,
    MethodConfig,
    Probe,
    ProbeLosses,
    finite,
    rate,
)
from zoracle.finetune.tensors import Slot
from zoracle.optimizers.base import Positive


class FZOOConfig(MethodConfig, frozen=True, kw_only=True):
    """Settings of FZOO.

    Attributes:
        lr: step size, in units of the weights: the loss is divided by its spread.
        num_directions: one-sided differences per step.
    """

    lr: Positive = 1e-4
    num_directions: Directions = 8


class FZOO(Method):
    r"""w \leftarrow w - \frac{\eta}{q \sigma} \sum_j (f(w + \mu z_j) - f(w)) z_j, with \sigma the standard deviation of the f(w + \mu z_j).

    Source: Dang et al. (2025), "FZOO: Fast Zeroth-Order Optimizer for Fine-Tuning Large Language Models towards
    Adam-Scale Speed", algorithm 1. sigma is about mu times the norm of the gradient, so that the step is that of
    normalised gradient descent. Directions are signs there as well.
    """  # noqa: E501

    Config = FZOOConfig
    summary = "one-sided differences, divided by the spread of the losses (Dang et al., 2025)"

    @property
    def probes(self) -> Sequence[Probe]:
        """The iterate, then each direction up."""
        return [ITERATE, *(Probe(j, 1) for j in range(self.config.num_directions))]

    def scales(self, slot: Slot, probed: ProbeLosses) -> Sequence[float]:
        """The step size times each difference, over their number and spread."""
        here, ups = probed.losses[0], probed.losses[1:]
        scale = rate(slot) / (self.usable(probed) * spread(ups))
        return [scale * finite(up - here) for up in ups]

    def usable(self, probed: ProbeLosses) -> int:
        """The number of finite losses, if the iterate's loss is finite and they differ; else 0."""
        here, ups = probed.losses[0], probed.losses[1:]
        return sum(map(math.isfinite, ups)) if math.isfinite(here) and spread(ups) > 0 else 0

    def loss(self, probed: ProbeLosses) -> float:
        """The loss of the iterate."""
        return probed.losses[0]


def spread(values: Sequence[float]) -> float:
    """The standard deviation of the finite ones among the values, with n - 1; 0 of fewer than two."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return 0.0
    mean = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))
