"""An optimizer of one's own in one file: ``zoracle compare --optimizers examples/extensions/momentum.py:Momentum``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers import DescentOptimizer, Positive, SamplingConfig, Share, Start
from zoracle.types import Key


class MomentumConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings: the step size, and the decay of the running sum of the estimates."""

    lr: Positive = 0.01
    momentum: Share = 0.9


class MomentumState(NamedTuple):
    """The iterate, the key of its randomness, the smoothing radius, and the running sum (B, d)."""

    x: Tensor
    key: Key
    mu: Tensor
    velocity: Tensor


class Momentum(DescentOptimizer[MomentumState, MomentumConfig]):
    """Gradient descent with momentum (Polyak, 1964) on the finite-difference estimate."""

    Config = MomentumConfig

    def _init(self, start: Start) -> MomentumState:
        return MomentumState(start.x, start.key, start.mu, torch.zeros_like(start.x))

    def _step(self, state: MomentumState, gradient: Tensor) -> MomentumState:
        velocity = self.config.momentum * state.velocity + gradient
        return state._replace(x=state.x - self.config.lr * velocity, key=state.key.next(), velocity=velocity)
