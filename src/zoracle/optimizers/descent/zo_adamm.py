"""ZO-AdaMM: the adaptive momentum method on the finite-difference estimate (Chen et al., 2019)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers.base import Positive, SamplingConfig, Start
from zoracle.optimizers.finite_difference import DescentOptimizer
from zoracle.optimizers.radius import Radius
from zoracle.settings import Decay
from zoracle.types import Key


class ZOAdaMMConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings of ZO-AdaMM.

    Attributes:
        lr: step size; None uses 16 / d, the best of 4 / d to 32 / d on validation images of the MNIST attack.
        beta1: decay of the running mean of the estimates; 0.9 in the public code.
        beta2: decay of the running mean of their squares; 0.9 in the public code of attacks on single images (0.3
            for universal ones).
        square0: what the running mean and the maximum of the squares start from; 1e-7 in the public code.
        decay: "sqrt" divides the step size by the root of the step's number, as the public code does. "none" keeps it,
            which ended lower on those validation images.
    """

    lr: Positive | None = None
    beta1: Decay = 0.9
    beta2: Decay = 0.9
    square0: Positive = 1e-7
    decay: Literal["none", "sqrt"] = "none"


class ZOAdaMMState(NamedTuple):
    """State of ZO-AdaMM."""

    x: Tensor
    key: Key
    mu: Tensor
    mean: Tensor
    """(B, d) running mean of the estimates."""
    square: Tensor
    """(B, d) running mean of their squares."""
    largest: Tensor
    """(B, d) the largest that it has been."""
    radius: tuple[Radius, ...] = ()
    """How far directions are probed over the run."""


class ZOAdaMM(DescentOptimizer[ZOAdaMMState, ZOAdaMMConfig]):
    r"""Adam whose denominator never falls, without correction for the start of the moments.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) \hat g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \hat g_t^2, \quad
        \hat v_t = \max(\hat v_{t-1}, v_t), \quad x_{t+1} = \Pi(x_t - \eta_t m_t / \sqrt{\hat v_t})

    The paper's projection \Pi is the nearest feasible point in the Mahalanobis distance of \hat v_t^{1/2}. That matrix
    is diagonal, so in a box it is clipping, coordinate by coordinate, which is what the loop does. In an l2 ball the
    loop takes the point that the objective takes, straight towards zero, where the paper would give up more of the
    coordinates with small \hat v_t.

    Source: Chen et al. (2019), "ZO-AdaMM: zeroth-order adaptive momentum method for black-box optimization",
    algorithm 1.
    """

    Config = ZOAdaMMConfig

    def _init(self, start: Start) -> ZOAdaMMState:
        square = torch.full_like(start.x, self.config.square0)
        return ZOAdaMMState(
            start.x, start.key, start.mu, torch.zeros_like(start.x), square, square.clone(), start.radius
        )

    def _step(self, state: ZOAdaMMState, gradient: Tensor) -> ZOAdaMMState:
        config = self.config
        lr: float | Tensor = 16 / state.x.shape[1] if config.lr is None else config.lr
        key = state.key.next()
        if config.decay == "sqrt":
            lr = lr / key.step.to(state.x).sqrt().unsqueeze(1)
        mean = config.beta1 * state.mean + (1 - config.beta1) * gradient
        square = config.beta2 * state.square + (1 - config.beta2) * gradient.square()
        largest = torch.maximum(state.largest, square)
        x = state.x - lr * mean / largest.sqrt()
        return state._replace(x=x, key=key, mean=mean, square=square, largest=largest)
