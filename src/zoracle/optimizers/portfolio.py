r"""A quasi-Newton method and an evolution strategy that share one budget: queries go to the one that promises more.

Each of the two goes on from its own state whenever it is its turn. After a turn of about d + m queries it is decided
who gets the next. With v_k the value that member k has reached after n_k queries, and its slope taken over the last
part of its run,

.. math:: p_k = v_k - r \frac{v_k(n') - v_k(n_k)}{n_k - n'}

is what it would reach with all of the r queries that are left if it went on as steeply as it does. Values fall ever
more slowly, so p_k is a lower bound of what can be hoped for, and the member with the lowest gets the turn: one whose
tangent ends above the other's value has lost, one that lags but still falls is given a chance.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor

from zoracle.keyed import normal
from zoracle.optimizers.base import Config, Optimizer, Positive, Start
from zoracle.optimizers.descent.zo_lbfgs import ZOLBFGS, ZOLBFGSState
from zoracle.optimizers.search.feasible import unbounded, within
from zoracle.optimizers.search.ma_es import MAES, MAESState
from zoracle.state import parted
from zoracle.types import Key, Queries, Space

NEWTON, STRATEGY = 0, 1
_JUMP = 7  # stream of the draws that restarts are displaced by
_LAST = 0.1  # share of the budget that is left when the strategy's best point is polished
_FORGET = 0.1  # rate of the strategy's running mean under noise
_TINY = 1e-37  # a float32 that is not zero


class PortfolioConfig(Config, frozen=True, kw_only=True):
    """Settings.

    Attributes:
        num_directions: one less than the points of a step. ``minimize`` chooses it by dimension and budget.
        sigma: standard deviation of the evolution strategy's first candidates, in units of ``scale``; at most a fifth
            of the range of a bounded coordinate.
        mu: distance of differences; None follows the noise that was measured.
        horizon: steps that the run is planned for where it does not say so itself.
    """

    num_directions: int = 20
    sigma: Positive = 0.3
    mu: float | None = None
    horizon: Annotated[int, msgspec.Meta(ge=1)] = 1000


class PortfolioState(NamedTuple):
    """State."""

    x: Tensor
    """(B, d) the point to recommend: the lowest evaluated one, under noise the iterate of the member that is lower."""
    key: Key
    mu: Tensor
    """(B,) distance of differences at first."""
    noise: Tensor
    """(B,) standard deviation of f, 0 where only rounding is known of."""
    horizon: Tensor
    """(B,) steps of the run."""
    newton: ZOLBFGSState
    strategy: MAESState
    active: Tensor
    """(B,) int64 whose turn it is."""
    turn: Tensor
    """(B,) int64 steps that the turn has taken."""
    spent: Tensor
    """(B, 2) steps of the members' present runs."""
    value: Tensor
    """(B, 2) what they have reached: their lowest value, under noise a mean; infinite before there is one."""
    point: Tensor
    """(B, 2, d) where."""
    marks: Tensor
    """(B, 2, 2, 2) two earlier pairs of steps and value of each, the older first, that slopes are taken from."""
    lowest: Tensor
    """(B,) of all runs."""
    sigma: Tensor
    """(B,) of the strategy's next run."""
    restarts: Tensor
    """(B,) int64."""
    space: Space


class Portfolio(Optimizer[PortfolioState, PortfolioConfig]):
    """ZO-L-BFGS and LM-MA-ES on one budget, as this module says.

    A quasi-Newton run that finds nothing lower has ended. The strategy then gets the queries until it has converged, or
    until a tenth of the budget is left; from its best point the quasi-Newton method goes on where that is lower than
    what it had. When both have ended, the strategy begins anew around the best point, wider and more slowly.
    """

    Config = PortfolioConfig
    fewest = 3
    follows_noise = True

    def __init__(self, config: PortfolioConfig | None = None, **settings: object) -> None:
        super().__init__(config, **settings)
        q = self.config.num_directions
        self.quasi_newton = ZOLBFGS(num_directions=q, mu=self.config.mu, memory=30)
        self.evolution = MAES(num_directions=q)

    @property
    def queries_per_step(self) -> int:
        """What a step of either costs."""
        return self.config.num_directions + 1

    @property
    def evaluates_iterate(self) -> bool:
        """False."""
        return False

    def planned(self, dim: int, budget: int) -> Portfolio:
        """With as many points a step as suits the dimension, few where the budget is small."""
        usual = 4 + int(3 * math.log(dim))
        m = math.ceil(dim / math.ceil(dim / usual)) if dim > usual else usual
        m = max(4, min(m, budget // 6))
        return type(self)(msgspec.structs.replace(self.config, num_directions=m - 1))

    def informed(self, state: PortfolioState, noise: Tensor, mu: Tensor, loss: Tensor) -> PortfolioState:
        """The state that knows the noise, the distance that stands out from it, and f at the start, (B,) each."""
        newton = self.quasi_newton.informed(state.newton, noise, mu, loss)
        rate = torch.where(noise > 0, 0.5, 1.0).to(state.strategy.rate)
        return state._replace(
            noise=noise, mu=newton.mu, newton=newton, strategy=state.strategy._replace(rate=rate), lowest=loss
        )

    def _init(self, start: Start) -> PortfolioState:
        x = start.x
        b, _ = x.shape
        space = start.space if start.space is not None else unbounded(x)
        start = start._replace(space=space)
        newton, strategy = self.quasi_newton._init(start), self.evolution._init(start)
        width = (space.high - space.low).min(1).values.minimum(2 * space.radius)
        sigma = (x.new_full((b,), self.config.sigma * start.scale)).minimum(0.2 * width)
        count = torch.zeros(b, dtype=torch.int64, device=x.device)
        horizon = torch.where(start.horizon > 0, start.horizon, self.config.horizon).to(x.device)
        # Where the budget does not pay for two sweeps, there is no gradient to follow.
        short = horizon * self.queries_per_step < 2 * (x.shape[1] + self.queries_per_step)
        return PortfolioState(
            x=x,
            key=start.key,
            mu=newton.mu,
            noise=x.new_zeros(b),
            horizon=horizon,
            newton=newton._replace(ended=short),
            strategy=strategy._replace(sigma=sigma),
            active=torch.where(short, STRATEGY, NEWTON),
            turn=count,
            spent=x.new_zeros((b, 2)),
            value=x.new_full((b, 2), torch.inf),
            point=x.unsqueeze(1).repeat(1, 2, 1),
            marks=x.new_full((b, 2, 2, 2), torch.inf).index_fill(3, torch.tensor([0], device=x.device), 0.0),
            lowest=x.new_full((b,), torch.inf),
            sigma=sigma,
            restarts=count,
            space=space,
        )

    def _ask(self, state: PortfolioState) -> Queries:
        def newton(state: PortfolioState) -> Queries:
            points = self.quasi_newton._ask(state.newton).points
            return Queries(points, torch.zeros_like(points))

        def strategy(state: PortfolioState) -> Queries:
            return self.evolution._ask(state.strategy)

        asked: Queries = parted(state.active == NEWTON, newton, strategy, state)
        return asked

    def _tell(
        self, state: PortfolioState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> PortfolioState:
        values = values.detach().to(state.x.dtype)
        state = parted(state.active == NEWTON, self._newton, self._strategy, state, queries, values)
        state = state._replace(key=state.key.next(), turn=state.turn + 1)
        state = self._recommended(state)
        whole = torch.where(state.active == NEWTON, _between(state.newton), state.turn >= self._turn(state))
        decided: PortfolioState = parted(whole, self._decided, lambda s: s, state)
        return decided

    def _turn(self, state: PortfolioState) -> int:
        return max(2, math.ceil((state.x.shape[1] + self.queries_per_step) / self.queries_per_step))

    def _newton(self, state: PortfolioState, queries: Queries, values: Tensor) -> PortfolioState:
        newton = self.quasi_newton._tell(state.newton, queries, values, None)
        low, at = values.nan_to_num(nan=torch.inf).min(1)
        noisy = state.noise > 0
        value = torch.where(noisy, newton.loss.nan_to_num(nan=torch.inf), low.minimum(state.value[:, NEWTON]))
        lower = low < state.value[:, NEWTON]
        rows = torch.arange(len(at), device=at.device)
        found = torch.where(lower.unsqueeze(1), queries.points[rows, at], state.point[:, NEWTON])
        point = torch.where(noisy.unsqueeze(1), newton.x, found)
        return _noted(state._replace(newton=newton), NEWTON, value, point)

    def _strategy(self, state: PortfolioState, queries: Queries, values: Tensor) -> PortfolioState:
        strategy = self.evolution._tell(state.strategy, queries, values, None)
        low, at = values.nan_to_num(nan=torch.inf).min(1)
        old = state.value[:, STRATEGY]
        noisy = state.noise > 0
        mean = values.nanmean(1).nan_to_num(nan=torch.inf)
        kept = torch.where(old.isfinite(), old + _FORGET * (mean - old), mean)
        value = torch.where(noisy, kept, low.minimum(old))
        rows = torch.arange(len(at), device=at.device)
        found = torch.where((low < old).unsqueeze(1), queries.points[rows, at], state.point[:, STRATEGY])
        point = torch.where(noisy.unsqueeze(1), strategy.x, found)
        return _noted(state._replace(strategy=strategy), STRATEGY, value, point)

    def _recommended(self, state: PortfolioState) -> PortfolioState:
        value, k = state.value.min(1)
        rows = torch.arange(len(k), device=k.device)
        lower = torch.where(state.noise > 0, value.isfinite(), value < state.lowest.nan_to_num(nan=torch.inf))
        x = torch.where(lower.unsqueeze(1), state.point[rows, k], state.x)
        return state._replace(x=x, lowest=torch.where(lower, value, state.lowest))

    def _decided(self, state: PortfolioState) -> PortfolioState:
        """Whose turn is next."""
        m = self.queries_per_step
        left = (state.horizon - state.key.step.to(state.x.device)).clamp(min=0).to(state.x)
        older = state.marks[:, :, 0]
        slope = (older[..., 1] - state.value) / (state.spent - older[..., 0]).clamp(min=1)
        hope = state.value - left.unsqueeze(1) * slope
        # Everybody has some turns first; nothing is known of a run without two marks.
        young = (state.spent < 3 * self._turn(state)) | ~older[..., 1].isfinite()
        hope = torch.where(young, -torch.inf, hope).nan_to_num(nan=torch.inf)
        newton, strategy = state.newton.ended, self._converged(state)
        hope = torch.where(torch.stack((newton, strategy), 1), torch.inf, hope)
        active = torch.where(hope[:, NEWTON] <= hope[:, STRATEGY], NEWTON, STRATEGY)
        late = left * m < torch.clamp(_LAST * state.horizon * m, min=3.0 * (state.x.shape[1] + m))
        better = state.value[:, STRATEGY] < state.value[:, NEWTON]
        polish = newton & better & (strategy | late) & (state.noise <= 0) & (left * m > state.x.shape[1] + 2 * m)
        anew = newton & strategy & ~polish
        state = state._replace(active=torch.where(polish, NEWTON, active), turn=torch.zeros_like(state.turn))
        state = parted(polish, self._polished, lambda s: s, state)
        begun: PortfolioState = parted(anew, self._anew, lambda s: s, state)
        return begun

    def _converged(self, state: PortfolioState) -> Tensor:
        """Whether the strategy has nowhere to go, (B,)."""
        size = state.strategy.sigma
        far = state.strategy.x.abs().amax(1).maximum(state.sigma)
        return size < 64 * torch.finfo(size.dtype).eps * far

    def _polished(self, state: PortfolioState) -> PortfolioState:
        """The quasi-Newton method goes on from the strategy's best point."""
        at, value = state.point[:, STRATEGY], state.value[:, STRATEGY]
        newton = self.quasi_newton.restarted(state.newton, at, value)
        return _blank(state._replace(newton=newton, restarts=state.restarts + 1), NEWTON, at, value)

    def _anew(self, state: PortfolioState) -> PortfolioState:
        """The strategy begins again around the best point."""
        d = state.x.shape[1]
        jump = normal(state.key, (d,), _JUMP, state.x.dtype).to(state.x.device)
        at = within(state.space, state.x + state.sigma.unsqueeze(1) * jump)
        strategy = self.evolution.restarted(state.strategy, at, state.sigma, 0.5)
        state = state._replace(
            strategy=strategy, restarts=state.restarts + 1, active=torch.full_like(state.active, STRATEGY)
        )
        return _blank(state, STRATEGY, at, torch.full_like(state.lowest, torch.inf))


def _between(state: ZOLBFGSState) -> Tensor:
    """Whether the next step begins a sweep."""
    return (state.done == 0) & ~state.searching


def _noted(state: PortfolioState, k: int, value: Tensor, point: Tensor) -> PortfolioState:
    """The member's value and point, and marks of its run that lie at growing distances."""
    values, points, spent, marks = state.value.clone(), state.point.clone(), state.spent.clone(), state.marks.clone()
    values[:, k], points[:, k] = value, point
    spent[:, k] += 1
    later = spent[:, k] >= 1.5 * marks[:, k, 1, 0] + 1
    now = torch.stack((spent[:, k], value), 1)
    marks[:, k, 0] = torch.where(later.unsqueeze(1), marks[:, k, 1], marks[:, k, 0])
    marks[:, k, 1] = torch.where(later.unsqueeze(1), now, marks[:, k, 1])
    return state._replace(value=values, point=points, spent=spent, marks=marks)


def _blank(state: PortfolioState, k: int, at: Tensor, value: Tensor) -> PortfolioState:
    """A new run of a member."""
    values, points, spent, marks = state.value.clone(), state.point.clone(), state.spent.clone(), state.marks.clone()
    values[:, k], points[:, k], spent[:, k] = value, at, 0.0
    marks[:, k, :, 0], marks[:, k, :, 1] = 0.0, torch.inf
    return state._replace(value=values, point=points, spent=spent, marks=marks)
