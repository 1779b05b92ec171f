"""A matrix adaptation evolution strategy with limited memory (Loshchilov, Glasmachers and Beyer, 2019)."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor

from zoracle.directions import gaussian
from zoracle.estimators import combine
from zoracle.estimators.gradient import aligned
from zoracle.optimizers.base import Config, Optimizer, Positive, Start
from zoracle.optimizers.search.feasible import crossed, folded, reflected, unbounded
from zoracle.types import Key, Queries, Space

_PART = 8192  # coordinates that are squared at once
_FAR = 3.0  # standard deviations that a candidate at a bound counts as at most


class MAESConfig(Config, frozen=True, kw_only=True):
    """Settings of the strategy.

    Attributes:
        sigma: standard deviation of the first candidates, in units of ``scale``.
        population: candidates per step, at least 4; None uses ``num_directions`` + 1. 4 + floor(3 ln d) is usual.
        num_directions: with it a step costs what forward differences along as many directions cost.
        lr_mean: share of the way that the mean goes to the weighted candidates. Less than 1 averages over steps, which
            is for noise and many local minima (Nomura, Akimoto and Ono, 2023).
        separable: whether the standard deviation of each coordinate is adapted too.
    """

    sigma: Positive = 0.3
    population: Annotated[int, msgspec.Meta(ge=4)] | None = None
    num_directions: int = 20
    lr_mean: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    separable: bool = True


class MAESState(NamedTuple):
    """State of the strategy."""

    x: Tensor
    """(B, d) the mean."""
    key: Key
    sigma: Tensor
    """(B,) step size."""
    std: Tensor
    """(B, d) standard deviation of each coordinate, in units of sigma."""
    path: Tensor
    """(B, d) the steps of the mean, summed up with decay: long where they agree."""
    paths: Tensor
    """(B, M, d) the same over ever longer times, in the coordinates that candidates are drawn in."""
    begun: Tensor
    """(B,) int64 step at which the paths began."""
    rate: Tensor
    """(B,) what all learning rates are multiplied by."""
    space: Space
    """Where candidates may lie."""


class MAES(Optimizer[MAESState, MAESConfig]):
    r"""LM-MA-ES, with a standard deviation for each coordinate as in SNES.

    Candidates are x + \sigma D y_k, where y_k is z_k ~ N(0, I) after it went through M rank-one transformations
    y <- (1 - c_j) y + c_j m_j (m_j^T y). With weights w_k by rank, the paths m_j follow \sum_k w_k z_k over ever longer
    times, D follows \sum_k w_k (z_k^2 - 1), and \sigma grows where the evolution path is longer than random steps
    would make it. A candidate outside its bounds is reflected into them.

    Source: Loshchilov, Glasmachers and Beyer (2019), "Large scale black-box optimization by limited-memory matrix
    adaptation", algorithm 2; Ros and Hansen (2008) for the diagonal.
    """

    Config = MAESConfig
    fewest = 3

    @property
    def queries_per_step(self) -> int:
        """The population."""
        config = self.config
        return config.num_directions + 1 if config.population is None else config.population

    @property
    def evaluates_iterate(self) -> bool:
        """False: the mean is not among the candidates."""
        return False

    def _init(self, start: Start) -> MAESState:
        x = start.x
        b, d = x.shape
        memory = 4 + int(3 * math.log(d))
        return MAESState(
            x=x,
            key=start.key,
            sigma=x.new_full((b,), self.config.sigma * start.scale),
            std=torch.ones_like(x),
            path=torch.zeros_like(x),
            paths=x.new_zeros((b, memory, d)),
            begun=torch.zeros(b, dtype=torch.int64, device=x.device),
            rate=x.new_ones(b),
            space=start.space if start.space is not None else unbounded(x),
        )

    def restarted(self, state: MAESState, x: Tensor, sigma: Tensor, rate: Tensor) -> MAESState:
        """The state that restarts at x (B, d) with a step size (B,), and learning rates times ``rate`` (B,)."""
        return state._replace(
            x=x,
            sigma=sigma,
            std=torch.ones_like(x),
            path=torch.zeros_like(x),
            paths=torch.zeros_like(state.paths),
            begun=state.key.step.to(x.device),
            rate=rate,
        )

    def _ask(self, state: MAESState) -> Queries:
        return self.candidates(state, gaussian(state.key, self.queries_per_step, state.x))

    def candidates(self, state: MAESState, z: Tensor) -> Queries:
        """The candidates that draws z ~ N(0, I), (B, m, d), make; z is overwritten."""
        size = state.sigma.unsqueeze(1) * state.std
        shaped = self.shaped(state, z)
        drawn = torch.addcmul(state.x.unsqueeze(1), size.unsqueeze(1), shaped, out=shaped)
        return Queries(self._turned_back(state, drawn, z, size), z)

    def _turned_back(self, state: MAESState, points: Tensor, z: Tensor, size: Tensor) -> Tensor:
        """Points (B, m, d) within the bounds; one that was turned back counts in z as if it had been drawn there."""
        space = state.space
        if bool(space.radius.isfinite().any()):
            drawn, points = points, reflected(space, points)
            b, i = (points != drawn).any(1).nonzero(as_tuple=True)
            before, there = drawn[b, :, i], points[b, :, i]
        else:  # in place, since few coordinates are at a bound
            b, i = crossed(space, points).nonzero(as_tuple=True)
            before, there = points[b, :, i], folded(space, points, b, i)
            points[b, :, i] = there
        counted = ((there - state.x[b, i].unsqueeze(1)) / size[b, i].unsqueeze(1)).clamp(-_FAR, _FAR)
        z[b, :, i] = torch.where(there != before, counted, z[b, :, i])
        return points

    def _tell(self, state: MAESState, queries: Queries, values: Tensor, gradients: Tensor | None) -> MAESState:
        m, d = self.queries_per_step, state.x.shape[1]
        weights, mass = recombination(values)
        rate = state.rate
        moved = combine(weights, queries.directions)
        actual = combine(weights, queries.points) - state.x * weights.sum(1, keepdim=True)
        x = torch.addcmul(state.x, (self.config.lr_mean * rate).unsqueeze(1), actual)

        decay = (min(1.0, 2 * m / d) if d > 1 else 0.5) * rate
        decay = decay.clamp(max=0.5)
        column = decay.unsqueeze(1)
        path = torch.addcmul((1 - column) * state.path, _pull(column, mass), moved)
        memory = state.paths.shape[1]
        slow = (m / (d * 4.0 ** torch.arange(memory, dtype=state.x.dtype, device=state.x.device))).clamp(max=0.5)
        rates = rate.unsqueeze(1) * slow
        # The scaled copy is updated in place: the paths are most of the memory.
        paths = (state.paths * (1 - rates).unsqueeze(2)).addcmul_(_pull(rates, mass).unsqueeze(2), moved.unsqueeze(1))
        growth = (decay / 2 * (path.square().mean(1) - 1)).clamp(-1, 1)
        std = state.std
        if self.config.separable:
            # In parts that a processor's cache holds.
            parts = [combine(weights, part.square()) for part in torch.split(queries.directions, _PART, 2)]
            spread = torch.cat(parts, 1) - weights.sum(1, keepdim=True)
            learn = rate * (3 + math.log(d)) / (10 * math.sqrt(d))
            std = std * (0.5 * learn.unsqueeze(1) * spread).clamp(-0.5, 0.5).exp()
            size = std.log().mean(1, keepdim=True).exp()
            std = std / size
            sigma = state.sigma * size.squeeze(1)
        else:
            sigma = state.sigma
        known = weights.abs().sum(1) > 0
        sigma = torch.where(known, sigma * growth.exp(), sigma)
        return state._replace(x=x, key=state.key.next(), sigma=sigma, std=std, path=path, paths=paths)

    def shaped(self, state: MAESState, z: Tensor) -> Tensor:
        """What M transformations make of z (B, m, d): a multiple of it, and a sum of paths.

        Inner products with the paths tell all that happens, so that points are read twice and not M times.
        """
        d, memory = z.shape[2], state.paths.shape[1]
        began = state.key.step.to(z.device) - state.begun
        # Random steps make a path sqrt(d) long. One that is far longer would throw all candidates along itself.
        paths, padded = aligned(state.paths), aligned(z)
        each = torch.bmm(paths, paths.transpose(1, 2))
        long = each.diagonal(dim1=1, dim2=2).unsqueeze(2).sqrt().clamp(min=math.sqrt(2 * d))
        size = math.sqrt(2 * d) / long
        along = torch.bmm(padded, paths.transpose(1, 2)) * size.transpose(1, 2)
        each = each * size * size.transpose(1, 2)
        kept, sums = z.new_ones(z.shape[0]), torch.zeros_like(along)
        j = torch.arange(memory, device=z.device)
        # A path that has hardly begun would shorten candidates along it.
        shares = (began.unsqueeze(1) > j).to(z) / (d * 1.5 ** j.to(z))
        rest, columns = (1 - shares).unbind(1), zip(shares.unbind(1), along.unbind(2), each.unbind(2), strict=True)
        for k, (share, line, products) in enumerate(columns):
            onto = kept.unsqueeze(1) * line + (sums * products.unsqueeze(1)).sum(2)
            kept = rest[k] * kept
            sums.mul_(rest[k][:, None, None])
            sums[:, :, k] += share.unsqueeze(1) * onto
        made = torch.bmm(sums * size.transpose(1, 2), paths)[:, :, :d].contiguous()
        return made.addcmul_(kept[:, None, None], z)


def _pull(rate: Tensor, mass: Tensor) -> Tensor:
    """The factor of a step in a path (B, k), such that random steps leave its distribution as it is."""
    return (mass.unsqueeze(1) * rate * (2 - rate)).sqrt()


def recombination(values: Tensor) -> tuple[Tensor, Tensor]:
    r"""Weights of the better half of m values, and their effective number.

    w_k \propto \max(0, \ln((m + 1) / 2) - \ln k) by rank k, summing to one; equal values share theirs. NaN gets none.

    Args:
        values: (B, m).

    Returns:
        (B, m), and \mu_w = 1 / \sum w_k^2 (B,). Zeros where no value is known or all are equal.

    Source: Hansen and Ostermeier (2001).
    """
    m = values.shape[1]
    ranks = torch.arange(1, m + 1, dtype=torch.float64, device=values.device)
    raw = (math.log((m + 1) / 2) - ranks.log()).clamp(min=0)
    total = torch.nn.functional.pad((raw / raw.sum()).cumsum(0), (1, 0))
    known = values.isfinite()
    order = values.nan_to_num(nan=torch.inf)
    ordered = order.sort(dim=1).values
    first = torch.searchsorted(ordered, order)
    after = torch.searchsorted(ordered, order, right=True)
    weights = ((total[after] - total[first]) / (after - first)).masked_fill(~known, 0.0)
    flat = ordered[:, :1] == ordered[:, -1:]
    weights = weights.masked_fill(flat, 0.0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
    return weights.to(values.dtype), (1 / (raw / raw.sum()).square().sum()).to(values.dtype).expand(len(values))
