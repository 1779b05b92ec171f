"""What the strategy of a portfolio learns from its first candidates: how wide and how slowly to search."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.optimizers.portfolio_state import PortfolioState, narrow
from zoracle.optimizers.portfolio_turns import SURE, steps_left
from zoracle.optimizers.search.ma_es import recombination
from zoracle.types import Queries

_NEEDED = 40.0  # evaluations per coordinate in which the strategy converges at its full learning rates
_NARROWER, _WIDER = 1 / 16, 4.0  # limits of one correction of the standard deviation
_QUARTILES = 1.349  # their distance in a normal distribution, in standard deviations
_SLOWEST = 0.2  # least learning rates: a longer budget pays for several runs


def mirrored(z: Tensor) -> Tensor:
    """Draws (B, m, d), the second half of them the negatives of the first."""
    half = z.shape[1] // 2
    return torch.cat((z[:, :half], -z[:, :half], z[:, 2 * half :]), 1)


def noticed(state: PortfolioState, queries: Queries, values: Tensor) -> PortfolioState:
    """The state with the evidence of :func:`mirrored` candidates (B, m, d) and their values (B, m)."""
    half = values.shape[1] // 2
    near, far = queries.points[:, :half], queries.points[:, half : 2 * half]
    up, down = values[:, :half], values[:, half : 2 * half]
    slope = torch.bmm((near - far) / 2, state.newton.gradient.unsqueeze(2)).squeeze(2)
    return state._replace(evidence=state.evidence + summed(slope, up, down))


def summed(slope: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """What pairs tell, summed: s^2, o^2, s o, e and 1, (B, 5); a pair with an unknown value tells nothing.

    Args:
        slope: (B, k) s_k = g^T v_k, with g the gradient that the first sweep measured.
        up: (B, k) f(x + v_k).
        down: (B, k) f(x - v_k). Half their difference is the odd part o_k, their mean the even part e_k.
    """
    odd, even = (up - down) / 2, (up + down) / 2
    known = odd.isfinite() & slope.isfinite()
    s, o, e = (torch.where(known, part, 0.0) for part in (slope, odd, even))
    return torch.stack([part.sum(1) for part in (s.square(), o.square(), s * o, e, known.to(s))], 1)


def looked(state: PortfolioState, m: int) -> PortfolioState:
    """The state after all candidates of the look, m a step.

    Where a sweep has measured the slopes, their reliability is known from now on, and where it is poor the strategy
    learns at the rates of :func:`pace`.
    """
    strategy = state.strategy
    agreement = torch.where(state.looks, agreed(state.evidence), torch.nan)
    rate = torch.where(agreement < SURE, pace(state, m), strategy.rate)
    mass = recombination(torch.arange(m, device=state.x.device).to(state.x).unsqueeze(0))[1]
    factor = widening(state.evidence, state.newton.first, mass)
    sigma = narrow(state.space, strategy.sigma * factor)
    return state._replace(agreement=agreement, strategy=strategy._replace(sigma=sigma, rate=rate))


def agreed(evidence: Tensor) -> Tensor:
    r"""How well slopes predict f farther away, (B,).

    .. math:: r = \frac{2 \sum_k s_k o_k}{\sum_k s_k^2 + \sum_k o_k^2}, \qquad s_k = g^T v_k, \quad
        o_k = \frac{f(x + v_k) - f(x - v_k)}{2},

    which is 1 for every quadratic, however ill-conditioned, and near 0 if f has many local minima within the distance
    |v_k|: the slopes are those of the nearest one then, in another direction or far too steep.

    Source: Lin (1989), "A concordance correlation coefficient to evaluate reproducibility", about zero.
    """
    slopes, odd, both = evidence[:, :3].unbind(1)
    return 2 * both / (slopes + odd).clamp(min=torch.finfo(odd.dtype).tiny)


def widening(evidence: Tensor, centre: Tensor, mass: Tensor) -> Tensor:
    r"""The factor by which the standard deviation of candidates should change, (B,).

    For f = f_0 + g^T v + v^T H v / 2 and candidates v = \sigma z, the mean of f rises by \sigma^2 tr H / 2, and the
    odd part of f has the standard deviation \sigma |g|. Recombination of effectively \mu_w candidates moves the mean by
    about -\sigma g / |g| and a random part of variance \sigma^2 / \mu_w per coordinate, so that f falls most for

    .. math:: \sigma^* = \mu_w |g| / \operatorname{tr} H .

    If f does not rise, it is widened as far as one correction may.

    Args:
        evidence: (B, 5).
        centre: (B,) f where the candidates were drawn around; NaN leaves the width as it is.
        mass: (1,) or (B,), \mu_w.

    Source: Beyer (2001), "The Theory of Evolution Strategies", the optimal step size on quadratics.
    """
    _, odd, _, even, count = evidence.unbind(1)
    rise, spread = even / count - centre, (odd / count).sqrt()
    factor = torch.where(rise > 0, mass * spread / (2 * rise), torch.inf).clamp(_NARROWER, _WIDER)
    return torch.where(rise.isfinite() & spread.isfinite(), factor, 1.0)


def limited(noise: Tensor, values: Tensor) -> Tensor:
    """Standard deviations of noise (B,), at most those of the values (B, m) of a step as their quartiles tell them."""
    low, high = torch.nanquantile(values, values.new_tensor((0.25, 0.75)), 1)
    spread = (high - low) / _QUARTILES
    return torch.where(spread > 0, noise.minimum(spread), noise)


def pace(state: PortfolioState, m: int) -> Tensor:
    """Learning rates (B,), within limits, at which a run of the strategy that begins now takes all queries left.

    Slower learning averages over more candidates, as a larger population does (Nomura, Akimoto and Ono, 2023), which is
    for many local minima and for noise.
    """
    share = _NEEDED * state.x.shape[1] / (m * steps_left(state).clamp(min=1))
    return share.clamp(_SLOWEST, 1.0).to(state.strategy.rate)
