"""A quasi-Newton method and an evolution strategy that share one budget: queries go to the one that promises more.

Each goes on from its own state whenever it is its turn. After a turn, a sweep and a line search or as many queries for
the strategy, each is told by its own history what it will have reached at the end of the budget
(:mod:`zoracle.optimizers.forecast`), and the lower one gets the next turn. A run too young for a forecast comes first.

Where the strategy leads and finds nothing lower for the time being, the quasi-Newton method goes on from its best
point. When both have ended the strategy begins anew around the best point, wider and more slowly.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from zoracle.keyed import normal
from zoracle.optimizers.base import Config, Optimizer, Positive, Start
from zoracle.optimizers.descent.sweep import FORWARD, ZOLBFGSState
from zoracle.optimizers.descent.zo_lbfgs import ZOLBFGS
from zoracle.optimizers.forecast import begun, forecast, marked
from zoracle.optimizers.portfolio_state import LEVEL, NEWTON, STRATEGY, PortfolioState, narrow, noted, rerun
from zoracle.optimizers.search.feasible import unbounded, within
from zoracle.optimizers.search.ma_es import MAES, recombination
from zoracle.state import parted
from zoracle.types import Queries

_JUMP = 7  # stream of the draws that restarts are displaced by
_TURNS = 30  # the strategy has at least so many turns
_SETTLED, _LITTLE = 1e-3, 1e-9  # shares of what a run has gained that are little
_LAST = 0.1  # share of the budget that is left when the strategy's best point is polished
_LUCK = 0.8  # standard deviations that the mean of the better half of pure noise is below zero
_PATIENT = 8  # turns without a gain that stands out from the noise before the strategy has settled
_CYCLE = 4  # restarts after which the strategy is as wide as at first
_LONG = 30  # turns of a quasi-Newton run before it is said to stand
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

    def account(self, state: PortfolioState) -> dict[str, Tensor]:
        """Queries that each member was given, and how often the strategy began anew."""
        queries = state.spent * self.queries_per_step
        return {"zo-lbfgs": queries[:, NEWTON], "ma-es": queries[:, STRATEGY], "restarts": state.restarts}

    def _init(self, start: Start) -> PortfolioState:
        x = start.x
        b, _ = x.shape
        space = start.space if start.space is not None else unbounded(x)
        start = start._replace(space=space)
        newton, strategy = self.quasi_newton._init(start), self.evolution._init(start)
        sigma = narrow(space, x.new_full((b,), self.config.sigma * start.scale))
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
            history=begun(x[:, 0], 3),
            level=x.new_full((b,), torch.inf),
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
        return noted(state._replace(newton=newton), NEWTON, value, point)

    def _strategy(self, state: PortfolioState, queries: Queries, values: Tensor) -> PortfolioState:
        strategy = self.evolution._tell(state.strategy, queries, values, None)
        low, at = values.nan_to_num(nan=torch.inf).min(1)
        old = state.value[:, STRATEGY]
        noisy = state.noise > 0
        # The mean of the better half, and what it is too low by where all differences are noise.
        weights, _ = recombination(values)
        mean = torch.where(weights > 0, weights * values, 0.0).sum(1) + _LUCK * state.noise
        mean = torch.where(weights.sum(1) > 0, mean, values.nanmean(1).nan_to_num(nan=torch.inf))
        level = torch.where(state.level.isfinite(), state.level + _FORGET * (mean - state.level), mean)
        value = torch.where(noisy, level, low.minimum(old))
        rows = torch.arange(len(at), device=at.device)
        found = torch.where((low < old).unsqueeze(1), queries.points[rows, at], state.point[:, STRATEGY])
        point = torch.where(noisy.unsqueeze(1), strategy.x, found)
        return noted(state._replace(strategy=strategy, level=level), STRATEGY, value, point)

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
            lambda s: marked(marked(s.history, STRATEGY, s.value[:, STRATEGY]), LEVEL, s.level),
            state,
        )
        state = state._replace(history=history, turn=torch.zeros_like(state.turn))
        left = (state.horizon - state.key.step.to(state.x.device)).clamp(min=0)
        single = state.newton.mode == FORWARD
        sweep = torch.where(single, math.ceil((d + 1) / m), math.ceil(d / (m // 2))) + 1
        turn = self._turn(state)
        turns = left.unsqueeze(1) / torch.stack((sweep, turn, turn), 1)
        hope = forecast(history, turns, 2 * state.noise / math.sqrt(m))
        own, other = state.value[:, NEWTON], state.value[:, STRATEGY]
        noisy, error = state.noise > 0, 2 * state.noise / math.sqrt(m)
        ended, settled = state.newton.ended, self._settled(state, hope[:, LEVEL])
        # A quasi-Newton run that has gained next to nothing for long has to share with the strategy.
        gains = own - hope[:, NEWTON]
        stands = (gains < _LITTLE * history.gain[:, NEWTON]) & (history.long[:, NEWTON] >= _LONG) & ~noisy
        over = ended | stands
        # From where the strategy finds nothing lower for the time being, quadratic convergence may lead on.
        late = left * m < torch.clamp(_LAST * state.horizon * m, min=3.0 * (d + m))
        pause = (other - hope[:, STRATEGY] < _SETTLED * history.gain[:, STRATEGY]) & ~history.young[:, STRATEGY]
        ready = (torch.where(noisy, settled, pause) & (state.polishes < 1)) | (late & (state.polishes < 2) & ~noisy)
        polish = ready & (over | (hope[:, NEWTON] > other)) & (other < own - error) & (left * m > d + 2 * m)
        stuck = settled & (hope[:, STRATEGY] >= own.minimum(other) - _LITTLE * state.history.gain[:, STRATEGY])
        done = self._converged(state) | torch.where(noisy, settled, stuck)
        anew = (over | noisy) & done & ~polish
        hope = torch.where(torch.stack((ended, done), 1), torch.inf, hope[:, :LEVEL])
        active = torch.where(hope[:, NEWTON] <= hope[:, STRATEGY], NEWTON, STRATEGY)
        active = torch.where(ended, STRATEGY, active)
        usual = torch.where(noisy, _SHARE, 0.0)
        least = torch.stack((usual, torch.where(stands, 0.5, usual)), 1)
        few = state.spent < least * state.spent.sum(1, keepdim=True)
        due = few.any(1) & ~ended & ~done & ~history.young.any(1)
        active = torch.where(due, torch.where(few[:, NEWTON], NEWTON, STRATEGY), active)
        state = state._replace(active=torch.where(polish, NEWTON, active))
        state = parted(polish, self._polished, lambda s: s, state)
        first = (state.active == STRATEGY) & (state.spent[:, STRATEGY] == 0)
        state = parted(first, self._informed_sigma, lambda s: s, state)
        begun_anew: PortfolioState = parted(anew, self._anew, lambda s: s, state)
        return begun_anew

    def _settled(self, state: PortfolioState, hope: Tensor) -> Tensor:
        """Whether the strategy is about where it will end, (B,)."""
        steps = state.strategy.key.step.to(hope.device) - state.strategy.begun
        needed = 3 * (state.x.shape[1] / self.queries_per_step + 10) / state.strategy.rate
        little = state.level - hope <= _SETTLED * state.history.gain[:, LEVEL]
        return little & (steps > needed) & (state.history.long[:, LEVEL] >= _PATIENT)

    def _converged(self, state: PortfolioState) -> Tensor:
        """Whether the strategy has nowhere to go, (B,)."""
        size = state.strategy.sigma
        far = state.strategy.x.abs().amax(1).maximum(state.sigma)
        return size < 64 * torch.finfo(size.dtype).eps * far

    def _informed_sigma(self, state: PortfolioState) -> PortfolioState:
        """The strategy's first run is as wide as the way that the other has come, if that is more than it would be."""
        way = (state.newton.x - state.strategy.x).square().mean(1).sqrt() / 2
        sigma = narrow(state.space, state.sigma.maximum(way))
        return state._replace(sigma=sigma, strategy=state.strategy._replace(sigma=sigma))

    def _polished(self, state: PortfolioState) -> PortfolioState:
        """The quasi-Newton method goes on from the strategy's best point."""
        at, value = state.point[:, STRATEGY], state.value[:, STRATEGY]
        newton = self.quasi_newton.restarted(state.newton, at, value)
        state = state._replace(newton=newton, polishes=state.polishes + 1)
        state = rerun(state, NEWTON, at, value)
        return state._replace(history=marked(state.history, NEWTON, value))

    def _anew(self, state: PortfolioState) -> PortfolioState:
        """The strategy begins again around the best point, wider and more slowly each time, up to a limit."""
        d = state.x.shape[1]
        turn = (state.restarts + 1) % _CYCLE
        sigma = narrow(state.space, state.sigma * 2.0**turn)
        jump = normal(state.key, (d,), _JUMP, state.x.dtype).to(state.x.device)
        at = within(state.space, state.x + sigma.unsqueeze(1) * jump)
        rate = torch.where(state.noise > 0, 0.5, 1.0) * 0.5**turn
        strategy = self.evolution.restarted(state.strategy, at, sigma, rate.to(sigma))
        state = state._replace(
            strategy=strategy,
            level=torch.full_like(state.level, torch.inf),
            restarts=state.restarts + 1,
            polishes=torch.zeros_like(state.polishes),
            active=torch.full_like(state.active, STRATEGY),
        )
        return rerun(state, STRATEGY, at, torch.full_like(state.lowest, torch.inf))


def _between(state: ZOLBFGSState) -> Tensor:
    """Whether the next step begins a sweep."""
    return (state.done == 0) & ~state.searching
