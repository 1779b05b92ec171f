"""NES: signed or normalised steps along an antithetic Gaussian estimate (Ilyas et al., 2018)."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor

from zoracle.optimizers.ball import Ball, ball_of, unit_step
from zoracle.optimizers.base import Positive, SamplingConfig, Share, Start
from zoracle.optimizers.finite_difference import DescentOptimizer
from zoracle.optimizers.radius import Radius
from zoracle.types import Key, Queries


class NESConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings of NES.

    Attributes:
        num_directions: q, antithetic pairs; a step costs 2q queries. 25 pairs are the 50 samples of the public code.
        mu: standard deviation of the samples, sigma in the paper: 0.001 for pixels in [0, 1].
        difference: "central" is the paper's; "forward" spends q + 1 queries per step instead of 2q.
        lr: first step size, per coordinate, or the length of a step in an l2 ball. None uses a fifth of an linf
            ball's radius, a tenth of an l2 ball's, and 0.01 where there is no ball.
        momentum: decay of the running mean of the estimates.
        plateau_length: steps over which the mean value must not rise.
        plateau_drop: what the step size is divided by where it did.
        lr_floor: smallest step size, as a share of the first; 5e-5 of 1e-2 in the public code.
    """

    num_directions: int = 25
    mu: float | None = 1e-3
    difference: Literal["forward", "central"] = "central"
    lr: Positive | None = None
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    plateau_length: Annotated[int, msgspec.Meta(ge=2)] = 5
    plateau_drop: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    lr_floor: Share = 1 / 200


class NESState(NamedTuple):
    """State of NES."""

    x: Tensor
    key: Key
    mu: Tensor
    mean: Tensor
    """(B, d) running mean of the estimates."""
    lr: Tensor
    """(B,) step size."""
    least: Tensor
    """(B,) the smallest that it may become."""
    recent: Tensor
    """(B, L) mean values of the last steps, the latest last."""
    seen: Tensor
    """(B,) int64, how many of them count."""
    ball: Ball
    radius: tuple[Radius, ...] = ()
    """How far directions are probed over the run."""


class NES(DescentOptimizer[NESState, NESConfig]):
    r"""Gradient descent in the norm of the ball, on the estimate of a natural evolution strategy.

    .. math::
        \hat g = \frac{1}{2 q \mu} \sum_{i=1}^{q} \big(f(x + \mu u_i) - f(x - \mu u_i)\big)\, u_i, \quad
        m \leftarrow \beta m + (1 - \beta) \hat g, \quad x \leftarrow x - \eta\, \mathrm{sign}(m)

    In an l2 ball the step is \eta m / \|m\|. The step size is halved where the mean value of a step is higher than it
    was ``plateau_length`` - 1 steps before. The public code spends one more query per step to see whether the iterate
    succeeds; here a sample that does tells it.

    Source: Ilyas, Engstrom, Athalye and Lin (2018), "Black-box adversarial attacks with limited queries and
    information"; momentum and plateaus are those of its public code.
    """

    Config = NESConfig

    def _init(self, start: Start) -> NESState:
        ball = ball_of(start.space, start.x)
        lr = ball.step(self.config.lr)
        return NESState(
            x=start.x,
            key=start.key,
            mu=start.mu,
            mean=torch.zeros_like(start.x),
            lr=lr,
            least=lr * self.config.lr_floor,
            recent=start.x.new_zeros((start.x.shape[0], self.config.plateau_length)),
            seen=torch.zeros(start.x.shape[0], dtype=torch.int64),
            ball=ball,
            radius=start.radius,
        )

    def _tell(self, state: NESState, queries: Queries, values: Tensor, gradients: Tensor | None) -> NESState:
        return super()._tell(self._annealed(state, values), queries, values, gradients)

    def _step(self, state: NESState, gradient: Tensor) -> NESState:
        beta = self.config.momentum
        mean = beta * state.mean + (1 - beta) * gradient
        x = state.x - state.lr.unsqueeze(1) * unit_step(state.ball, mean)
        return state._replace(x=x, key=state.key.next(), mean=mean)

    def _annealed(self, state: NESState, values: Tensor) -> NESState:
        """A smaller step size where the values have not fallen."""
        # A step without any value has no mean, and NaN is not a rise.
        recent = torch.cat((state.recent[:, 1:], values.nanmean(1, keepdim=True)), dim=1)
        seen = (state.seen + 1).clamp(max=self.config.plateau_length)
        full = (seen == self.config.plateau_length).to(values.device)
        rose = full & (recent[:, -1] > recent[:, 0])
        lower = torch.maximum(state.lr / self.config.plateau_drop, state.least)
        seen = torch.where(rose.to(seen.device), 0, seen)
        return state._replace(lr=torch.where(rose, lower, state.lr), recent=recent, seen=seen)
