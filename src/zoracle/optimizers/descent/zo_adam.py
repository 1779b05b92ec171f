"""ZO-ADAM: Adam on the finite-difference estimate (Kingma and Ba, 2015; Chen et al., 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers.base import Positive, SamplingConfig, Start
from zoracle.optimizers.finite_difference import DescentOptimizer
from zoracle.optimizers.radius import Radius
from zoracle.settings import Decay
from zoracle.types import Key


class ZOAdamConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings of ZO-ADAM.

    Attributes:
        lr: step size; None uses 8 / d, which the public code of Ruan et al. uses on MNIST.
        beta1: decay of the running mean of the estimates.
        beta2: decay of the running mean of their squares.
        eps: added to the root of the latter.
    """

    lr: Positive | None = None
    beta1: Decay = 0.9
    beta2: Decay = 0.996
    eps: Positive = 1e-8


class ZOAdamState(NamedTuple):
    """State of ZO-ADAM."""

    x: Tensor
    key: Key
    mu: Tensor
    mean: Tensor
    """(B, d) running mean of the estimates, not yet corrected for its start at zero."""
    square: Tensor
    """(B, d) running mean of their squares, likewise."""
    radius: tuple[Radius, ...] = ()
    """How far directions are probed over the run."""


class ZOAdam(DescentOptimizer[ZOAdamState, ZOAdamConfig]):
    r"""x \leftarrow x - \eta\, \hat m / (\sqrt{\hat v} + \epsilon), with both moments corrected for their start.

    Source: Kingma and Ba (2015), algorithm 1, fed the estimate of Chen et al. (2017), "ZOO".
    """

    Config = ZOAdamConfig

    def _init(self, start: Start) -> ZOAdamState:
        zero = torch.zeros_like(start.x)
        return ZOAdamState(start.x, start.key, start.mu, zero, zero.clone(), start.radius)

    def _step(self, state: ZOAdamState, gradient: Tensor) -> ZOAdamState:
        config = self.config
        lr = 8 / state.x.shape[1] if config.lr is None else config.lr
        key = state.key.next()
        t = key.step.to(state.x).unsqueeze(1)
        mean = config.beta1 * state.mean + (1 - config.beta1) * gradient
        square = config.beta2 * state.square + (1 - config.beta2) * gradient.square()
        corrected = mean / (1 - config.beta1**t)
        spread = (square / (1 - config.beta2**t)).sqrt()
        return state._replace(x=state.x - lr * corrected / (spread + config.eps), key=key, mean=mean, square=square)
