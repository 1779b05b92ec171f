"""SNES: a separable natural evolution strategy (Schaul, Glasmachers and Schmidhuber, 2011)."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from zoracle.directions import gaussian
from zoracle.estimators import combine
from zoracle.optimizers.base import Config, Optimizer, Positive, Start
from zoracle.types import Key, Queries


class SNESConfig(Config, frozen=True, kw_only=True):
    """Settings of SNES.

    Attributes:
        sigma: standard deviation of the first candidates, in units of ``scale``. 0.03 was the best of 0.01, 0.02,
            0.03, 0.05 and 0.1 on validation images of the MNIST attack.
        population: candidates per step, at least 2; None uses ``num_directions`` + 1. The paper's rule is
            4 + floor(3 ln d), 23 for d = 784.
        num_directions: with it SNES costs what forward differences along as many directions cost.
        lr_mean: learning rate of the mean; 1 in the paper.
        lr_sigma: learning rate of the standard deviations; None uses the paper's (3 + ln d) / (5 sqrt d).
    """

    sigma: Positive = 0.03
    population: Annotated[int, msgspec.Meta(ge=2)] | None = None
    num_directions: int = 20
    lr_mean: Positive = 1.0
    lr_sigma: Positive | None = None


class SNESState(NamedTuple):
    """State of SNES."""

    x: Tensor
    """(B, d) the mean."""
    key: Key
    std: Tensor
    """(B, d) standard deviation of each coordinate."""


class SNES(Optimizer[SNESState, SNESConfig]):
    r"""Follows the natural gradient of the expected utility of a Gaussian with a diagonal covariance.

    With z_k ~ N(0, I), candidates x + \sigma z_k, and utilities u_k by rank,

    .. math::
        x \leftarrow x + \eta_x\, \sigma \sum_k u_k z_k, \qquad
        \sigma \leftarrow \sigma \exp\Big(\frac{\eta_\sigma}{2} \sum_k u_k (z_k^2 - 1)\Big)

    Only the order of the values counts. Candidates of one value share their utilities, so that where the function is
    flat nothing moves; those without a value rank last. The mean itself is not evaluated.

    Source: Schaul, Glasmachers and Schmidhuber (2011), "High dimensions and heavy tails for natural evolution
    strategies"; Wierstra et al. (2014), "Natural evolution strategies", algorithm 6 and table 1.
    """

    Config = SNESConfig

    @property
    def queries_per_step(self) -> int:
        """The population."""
        config = self.config
        return config.num_directions + 1 if config.population is None else config.population

    @property
    def evaluates_iterate(self) -> bool:
        """False: the mean is not among the candidates."""
        return False

    def _init(self, start: Start) -> SNESState:
        return SNESState(start.x, start.key, torch.full_like(start.x, self.config.sigma * start.scale))

    def _ask(self, state: SNESState) -> Queries:
        z = gaussian(state.key, self.queries_per_step, state.x)
        return Queries(state.x.unsqueeze(1) + state.std.unsqueeze(1) * z, z)

    def _tell(self, state: SNESState, queries: Queries, values: Tensor, gradients: Tensor | None) -> SNESState:
        d = state.x.shape[1]
        config = self.config
        lr_sigma = (3 + math.log(d)) / (5 * math.sqrt(d)) if config.lr_sigma is None else config.lr_sigma
        weights = utilities(values)
        z = queries.directions
        x = state.x + config.lr_mean * state.std * combine(weights, z)
        std = state.std * (lr_sigma / 2 * combine(weights, z.square() - 1)).exp()
        return SNESState(x, state.key.next(), std)


def utilities(values: Tensor) -> Tensor:
    r"""Utilities of m values by rank, the lowest first; they sum to zero.

    u_k = \frac{\max(0, \ln(m/2 + 1) - \ln k)}{\sum_j \max(0, \ln(m/2 + 1) - \ln j)} - \frac{1}{m}

    Equal values get the mean of theirs; NaN ranks last, and all of them equal.

    Args:
        values: (B, m).

    Returns:
        (B, m).

    Source: Wierstra et al. (2014), section 3.1.
    """
    m = values.shape[1]
    ranks = torch.arange(1, m + 1, dtype=torch.float64, device=values.device)
    raw = (math.log(m / 2 + 1) - ranks.log()).clamp(min=0)
    total = functional.pad((raw / raw.sum() - 1 / m).cumsum(0), (1, 0))
    known = values.nan_to_num(nan=torch.inf)
    ordered = known.sort(dim=1).values
    first = torch.searchsorted(ordered, known)
    after = torch.searchsorted(ordered, known, right=True)
    return ((total[after] - total[first]) / (after - first)).to(values.dtype)
