"""ZO-SGD: gradient descent on the finite-difference estimate (Ghadimi and Lan, 2013)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from zoracle.optimizers.base import Positive, SamplingConfig, Start
from zoracle.optimizers.finite_difference import DescentOptimizer
from zoracle.optimizers.radius import Radius
from zoracle.types import Key


class ZOSGDConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings of ZO-SGD.

    Attributes:
        lr: step size; None uses 4 / d, which the public code of Ruan et al. uses on MNIST.
    """

    lr: Positive | None = None


class ZOSGDState(NamedTuple):
    """State of ZO-SGD."""

    x: Tensor
    key: Key
    mu: Tensor
    radius: tuple[Radius, ...] = ()
    """How far directions are probed over the run."""


class ZOSGD(DescentOptimizer[ZOSGDState, ZOSGDConfig]):
    r"""x \leftarrow x - \eta \hat\nabla f(x).

    Source: Ghadimi and Lan (2013), "Stochastic first- and zeroth-order methods for nonconvex stochastic programming".
    """

    Config = ZOSGDConfig

    def _init(self, start: Start) -> ZOSGDState:
        return ZOSGDState(start.x, start.key, start.mu, start.radius)

    def _step(self, state: ZOSGDState, gradient: Tensor) -> ZOSGDState:
        lr = 4 / state.x.shape[1] if self.config.lr is None else self.config.lr
        return state._replace(x=state.x - lr * gradient, key=state.key.next())
