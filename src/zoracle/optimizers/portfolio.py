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
from zoracle.optimizers.descent.sweep import FORWARD, ZOLBFGSState
from zoracle.optimizers.descent.zo_lbfgs import ZOLBFGS
from zoracle.optimizers.forecast import FEWEST, History, begun, blank, forecast, marked
from zoracle.optimizers.search.feasible import unbounded, within
from zoracle.optimizers.search.ma_es import MAES, MAESState, recombination
from zoracle.state import parted
from zoracle.types import Key, Queries, Space

NEWTON, STRATEGY = 0, 1
_JUMP = 7  # stream of the draws that restarts are displaced by
_TURNS = 30  # the strategy has at least so many turns
_SETTLED, _LITTLE = 1e-3, 1e-9  # shares of what a run has gained that are little
_LAST = 0.1  # share of the budget that is left when the strategy's best point is polished
_LUCK = 0.8  # standard deviations that the mean of the better half of pure noise is below zero
_PATIENT = 8  # marks without a gain that stands out from the noise before the strategy has settled
_SHARE = 1 / 8  # of the steps that a member has at least under noise, which values foretell little in
_FORGET = 0.1  # rate of the strategy's running mean under noise


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
    """(B, 2) int64 steps of each."""
    value: Tensor
    """(B, 2) what they have reached: their lowest value, under noise a mean; infinite before there is one."""
    point: Tensor
    """(B, 2, d) where."""
    history: History
    """Values that their present runs had reached after each turn."""
    lowest: Tensor
    """(B,) of all runs."""
    sigma: Tensor
    """(B,) of the strategy's next run."""
    polishes: Tensor
    """(B,) int64 quasi-Newton runs that were begun from the strategy's best point since its run began."""
    restarts: Tensor
    """(B,) int64 of the strategy."""
    space: Space


class Portfolio(Optimizer[PortfolioState, PortfolioConfig]):
    """ZO-L-BFGS and LM-MA-ES on one budget, as this module says."""

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
            noise=noise,
            mu=newton.mu,
            newton=newton,
            strategy=state.strategy._replace(rate=rate),
            lowest=loss,
            history=marked(state.history, NEWTON, loss),
        )

    def _init(self, start: Start) -> PortfolioState:
        x = start.x
        b, _ = x.shape
        space = start.space if start.space is not None else unbounded(x)
        start = start._replace(space=space)
        newton, strategy = self.quasi_newton._init(start), self.evolution._init(start)
        sigma = _narrow(space, x.new_full((b,), self.config.sigma * start.scale))
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
            spent=torch.zeros((b, 2), dtype=torch.int64, device=x.device),
            value=x.new_full((b, 2), torch.inf),
            point=x.unsqueeze(1).repeat(1, 2, 1),
            history=begun(x[:, 0], 2),
            lowest=x.new_full((b,), torch.inf),
            sigma=sigma,
            polishes=count,
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
        one = torch.nn.functional.one_hot(state.active, 2)
        state = state._replace(key=state.key.next(), turn=state.turn + 1, spent=state.spent + one)
        state = self._recommended(state)
        whole = torch.where(state.active == NEWTON, _between(state.newton), state.turn >= self._turn(state))
        decided: PortfolioState = parted(whole, self._decided, lambda s: s, state)
        return decided

    def _turn(self, state: PortfolioState) -> Tensor:
        """Steps (B,) of a turn of the strategy: as many as a sweep takes, but no more than a thirtieth of the run."""
        sweep = math.ceil((state.x.shape[1] + self.queries_per_step) / self.queries_per_step)
        return (state.horizon // _TURNS).clamp(max=sweep).clamp(min=2)

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
        # The mean of the better half, and what it is too low by where all differences are noise.
        weights, _ = recombination(values)
        mean = torch.where(weights > 0, weights * values, 0.0).sum(1) + _LUCK * state.noise
        mean = torch.where(weights.sum(1) > 0, mean, values.nanmean(1).nan_to_num(nan=torch.inf))
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
        m, d = self.queries_per_step, state.x.shape[1]
        history = parted(
            state.active == NEWTON,
            lambda s: marked(s.history, NEWTON, s.value[:, NEWTON]),
            lambda s: marked(s.history, STRATEGY, s.value[:, STRATEGY]),
            state,
        )
        state = state._replace(history=history, turn=torch.zeros_like(state.turn))
        left = (state.horizon - state.key.step.to(state.x.device)).clamp(min=0)
        single = state.newton.mode == FORWARD
        sweep = torch.where(single, math.ceil((d + 1) / m), math.ceil(d / (m // 2))) + 1
        turns = left.unsqueeze(1) / torch.stack((sweep, self._turn(state)), 1)
        hope = forecast(history, turns, 2 * state.noise / math.sqrt(m))
        own, other = state.value[:, NEWTON], state.value[:, STRATEGY]
        noisy, error = state.noise > 0, 2 * state.noise / math.sqrt(m)
        ended, settled = state.newton.ended, self._settled(state, hope[:, STRATEGY])
        # From where the strategy has settled, quadratic convergence may lead on.
        late = left * m < torch.clamp(_LAST * state.horizon * m, min=3.0 * (d + m))
        ready = (settled & (state.polishes < 1)) | (late & (state.polishes < 2) & ~noisy)
        polish = ready & (ended | (hope[:, NEWTON] > other)) & (other < own - error) & (left * m > d + 2 * m)
        stuck = settled & (hope[:, STRATEGY] >= own.minimum(other) - _LITTLE * state.history.gain[:, STRATEGY])
        done = self._converged(state) | torch.where(noisy, settled, stuck)
        anew = (ended | noisy) & done & ~polish
        hope = torch.where(torch.stack((ended, done), 1), torch.inf, hope)
        active = torch.where(hope[:, NEWTON] <= hope[:, STRATEGY], NEWTON, STRATEGY)
        active = torch.where(ended, STRATEGY, active)
        few = state.spent < _SHARE * state.spent.sum(1, keepdim=True)
        due = few.any(1) & (state.noise > 0) & ~ended & ~done & ~state.history.young.any(1)
        active = torch.where(due, torch.where(few[:, NEWTON], NEWTON, STRATEGY), active)
        state = state._replace(active=torch.where(polish, NEWTON, active))
        state = parted(polish, self._polished, lambda s: s, state)
        first = (state.active == STRATEGY) & (state.spent[:, STRATEGY] == 0)
        state = parted(first, self._informed_sigma, lambda s: s, state)
        begun_anew: PortfolioState = parted(anew, self._anew, lambda s: s, state)
        return begun_anew

    def _settled(self, state: PortfolioState, hope: Tensor) -> Tensor:
        """Whether the strategy is about where it will end, (B,)."""
        value = state.value[:, STRATEGY]
        few = torch.where(state.noise > 0, _PATIENT, FEWEST)
        known = state.history.marks[:, STRATEGY] >= few
        return known & (value - hope <= _SETTLED * state.history.gain[:, STRATEGY])

    def _converged(self, state: PortfolioState) -> Tensor:
        """Whether the strategy has nowhere to go, (B,)."""
        size = state.strategy.sigma
        far = state.strategy.x.abs().amax(1).maximum(state.sigma)
        return size < 64 * torch.finfo(size.dtype).eps * far

    def _informed_sigma(self, state: PortfolioState) -> PortfolioState:
        """The strategy's first run is as wide as the way that the other has come, if that is more than it would be."""
        way = (state.newton.x - state.strategy.x).square().mean(1).sqrt() / 2
        sigma = _narrow(state.space, state.sigma.maximum(way))
        return state._replace(sigma=sigma, strategy=state.strategy._replace(sigma=sigma))

    def _polished(self, state: PortfolioState) -> PortfolioState:
        """The quasi-Newton method goes on from the strategy's best point."""
        at, value = state.point[:, STRATEGY], state.value[:, STRATEGY]
        newton = self.quasi_newton.restarted(state.newton, at, value)
        state = state._replace(newton=newton, polishes=state.polishes + 1)
        state = _blank(state, NEWTON, at, value)
        return state._replace(history=marked(state.history, NEWTON, value))

    def _anew(self, state: PortfolioState) -> PortfolioState:
        """The strategy begins again around the best point."""
        d = state.x.shape[1]
        jump = normal(state.key, (d,), _JUMP, state.x.dtype).to(state.x.device)
        at = within(state.space, state.x + state.sigma.unsqueeze(1) * jump)
        strategy = self.evolution.restarted(state.strategy, at, state.sigma, 0.5)
        state = state._replace(
            strategy=strategy,
            restarts=state.restarts + 1,
            polishes=torch.zeros_like(state.polishes),
            active=torch.full_like(state.active, STRATEGY),
        )
        return _blank(state, STRATEGY, at, torch.full_like(state.lowest, torch.inf))


def _between(state: ZOLBFGSState) -> Tensor:
    """Whether the next step begins a sweep."""
    return (state.done == 0) & ~state.searching


def _narrow(space: Space, sigma: Tensor) -> Tensor:
    """Standard deviations (B,) of at most a fifth of where points may lie."""
    width = (space.high - space.low).min(1).values.minimum(2 * space.radius)
    return sigma.minimum(0.2 * width)


def _noted(state: PortfolioState, k: int, value: Tensor, point: Tensor) -> PortfolioState:
    """What a member has reached, and where."""
    values, points = state.value.clone(), state.point.clone()
    values[:, k], points[:, k] = value, point
    return state._replace(value=values, point=points)


def _blank(state: PortfolioState, k: int, at: Tensor, value: Tensor) -> PortfolioState:
    """A new run of a member."""
    return _noted(state._replace(history=blank(state.history, k)), k, value, at)
