"""ZO-signSGD: steps of one size along the signs of the estimate (Liu et al., 2019)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from zoracle.optimizers.base import Positive, SamplingConfig, Start
from zoracle.optimizers.finite_difference import DescentOptimizer
from zoracle.optimizers.radius import Radius
from zoracle.types import Key


class ZOSignSGDConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings of ZO-signSGD.

    Attributes:
        lr: step size a coordinate; None uses 8 / d, which the public code of Ruan et al. uses on MNIST.
    """

    lr: Positive | None = None


class ZOSignSGDState(NamedTuple):
    """State of ZO-signSGD."""

    x: Tensor
    key: Key
    mu: Tensor
    radius: tuple[Radius, ...] = ()
    """How far directions are probed over the run."""


class ZOSignSGD(DescentOptimizer[ZOSignSGDState, ZOSignSGDConfig]):
    r"""x \leftarrow x - \eta\, \mathrm{sign}(\hat\nabla f(x)).

    Source: Liu, Chen, Chen and Hong (2019), "signSGD via zeroth-order oracle".
    """

    Config = ZOSignSGDConfig

    def _init(self, start: Start) -> ZOSignSGDState:
        return ZOSignSGDState(start.x, start.key, start.mu, start.radius)

    def _step(self, state: ZOSignSGDState, gradient: Tensor) -> ZOSignSGDState:
        lr = 8 / state.x.shape[1] if self.config.lr is None else self.config.lr
        return state._replace(x=state.x - lr * gradient.sign(), key=state.key.next())
