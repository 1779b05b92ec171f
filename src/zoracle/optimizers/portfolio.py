"""A quasi-Newton method, an evolution strategy and a learned optimizer that share one budget.

Each member continues from its own state when it has a turn. After a turn (a sweep and a line search, or as many
queries for the others), the value that each member will reach by the end of the budget is forecast from its history
(:mod:`zoracle.optimizers.forecast`), and the lowest gets the next turn. A run too short for a forecast goes first.

After the first sweep the strategy takes two steps to look around (:mod:`zoracle.optimizers.portfolio_look`), and the
sweep's slopes are compared with its values farther away. If they agree, the quasi-Newton method gets all queries as
long as it finds lower values and, under noise, as long as line searches gain what slopes promise; in a run of few
sweeps without noise it takes turns with the learned optimizer, a
:class:`~zoracle.optimizers.learned.guided_lstm.GuidedLSTM`, unless slopes agree very well. If they disagree, by local
minima, noise or outliers, the strategy leads until it has converged, below thirty sweeps until the last sweeps, which
continue from the lowest point; in such a run without noise it shares, by forecasts, with the learned optimizer if
slopes predict at least the sign of changes. The look also tells how widely the strategy has to search; how slowly it
learns follows from the queries that are left. The noise is estimated anew from line searches, and is at most the spread
of a population. A budget below two sweeps is all for the learned optimizer, which needs no whole gradient.

If the strategy leads but currently finds no lower value, the quasi-Newton method continues from its best point. When
both have ended, the strategy restarts around the best point, wider and more slowly.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from zoracle.directions import gaussian
from zoracle.keyed import normal
from zoracle.optimizers.base import Config, Optimizer, Positive, Start, with_directions
from zoracle.optimizers.descent.sweep import ZOLBFGSState
from zoracle.optimizers.descent.zo_lbfgs import ZOLBFGS
from zoracle.optimizers.forecast import begun, marked
from zoracle.optimizers.learned.universal import universal
from zoracle.optimizers.portfolio_look import limited, looked, mirrored, noticed, pace
from zoracle.optimizers.portfolio_state import (
    MEMBERS,
    NEWTON,
    RECURRENT,
    STRATEGY,
    PortfolioState,
    each,
    found,
    narrow,
    noted,
    remembered,
    rerun,
)
from zoracle.optimizers.portfolio_turns import LOOKS, decided, doubted, handed, looks_around, relayed, rescheduled, turn
from zoracle.optimizers.search.feasible import unbounded, within
from zoracle.optimizers.search.ma_es import MAES, MAESState, recombination
from zoracle.state import parted
from zoracle.types import Queries

_JUMP = 7  # stream of the draws that displace restarts
_LUCK = 0.8  # how far the mean of the better half of pure noise is below zero, in standard deviations
_CYCLE = 4  # restarts after which the strategy returns to its first width
_FORGET = 0.1  # rate of running means under noise
_GUESSES = 4  # directions that the recurrent optimizer needs
_BRIEF = 30  # most sweeps that the budget of a brief run allows
_STEPS, _FEW, _TRAINED = 30, 13, 21  # steps of a short run, at least so many points each, at most as in training
_WIDE = 0.5  # standard deviation, in units of the scale, of the step that tests slopes


class PortfolioConfig(Config, frozen=True, kw_only=True):
    """Settings.

    Attributes:
        num_directions: number of points per step, less one. ``minimize`` chooses it by dimension and budget.
        sigma: standard deviation of the evolution strategy's first candidates, in units of ``scale``; at most a fifth
            of the range of a bounded coordinate.
        mu: smoothing radius of differences; None follows the measured noise.
        horizon: planned number of steps if the run does not specify it.
    """

    num_directions: int = 20
    sigma: Positive = 0.3
    mu: float | None = None
    horizon: Annotated[int, msgspec.Meta(ge=1)] = 1000


class Portfolio(Optimizer[PortfolioState, PortfolioConfig]):
    """ZO-L-BFGS, LM-MA-ES and zo-lstm-universal on one budget; the module's docstring gives the rules."""

    Config = PortfolioConfig
    fewest = 3
    follows_noise = True

    def equip(self) -> None:
        """The members."""
        q = self.config.num_directions
        self.quasi_newton = ZOLBFGS(num_directions=q, mu=self.config.mu, memory=30)
        self.evolution = MAES(num_directions=q)
        self.recurrent = with_directions(universal(), max(q, _GUESSES))

    @property
    def queries_per_step(self) -> int:
        """Points per step, the same for all members."""
        return self.config.num_directions + 1

    @property
    def evaluates_iterate(self) -> bool:
        """False."""
        return False

    def planned(self, dim: int, budget: int) -> Portfolio:
        """The optimizer with a number of points per step that suits the dimension, few if the budget is small."""
        usual = 4 + int(3 * math.log(dim))
        m = math.ceil(dim / math.ceil(dim / usual)) if dim > usual else usual
        if budget < 2 * (dim + m):  # for the recurrent optimizer, to which more steps are worth more than more points
            m = min(max(budget // _STEPS, _FEW), _TRAINED)
        m = max(4, min(m, budget // 6))
        return type(self)(msgspec.structs.replace(self.config, num_directions=m - 1))

    def informed(self, state: PortfolioState, noise: Tensor, mu: Tensor, loss: Tensor) -> PortfolioState:
        """The state with the noise, the distance at which differences exceed it, and f at the start, (B,) each."""
        newton = self.quasi_newton.informed(state.newton, noise, mu, loss)
        return state._replace(
            noise=noise,
            mu=newton.mu,
            newton=newton,
            lowest=loss,
            before=loss,
            history=marked(marked(state.history, NEWTON, loss), RECURRENT, loss),
            recurrent=self.recurrent.informed(state.recurrent, noise, mu, loss),
        )

    def account(self, state: PortfolioState) -> dict[str, Tensor]:
        """Queries given to each member, and the number of restarts of the strategy."""
        queries = state.spent * self.queries_per_step
        names = ("zo-lbfgs", "ma-es", "zo-lstm-universal")
        return {**dict(zip(names, queries.unbind(1), strict=True)), "restarts": state.restarts}

    def _init(self, start: Start) -> PortfolioState:
        x = start.x
        b, _ = x.shape
        space = start.space if start.space is not None else unbounded(x)
        start = start._replace(space=space)
        newton, strategy = self.quasi_newton._init(start), self.evolution._init(start)
        recurrent = self.recurrent._init(start)
        sigma = narrow(space, x.new_full((b,), self.config.sigma * start.scale))
        wide = x.new_full((b,), _WIDE * start.scale)
        count = torch.zeros(b, dtype=torch.int64, device=x.device)
        horizon = torch.where(start.horizon > 0, start.horizon, self.config.horizon).to(x.device)
        budget, sweep = horizon * self.queries_per_step, x.shape[1] + self.queries_per_step
        none = budget < 2 * sweep  # this gives no gradient to follow
        looks = ~none
        short = none & (self.config.num_directions >= _GUESSES)
        return PortfolioState(
            x=x,
            key=start.key,
            mu=newton.mu,
            noise=x.new_zeros(b),
            horizon=horizon,
            newton=newton._replace(ended=none),
            strategy=strategy._replace(sigma=torch.where(looks, narrow(space, wide), sigma)),
            recurrent=recurrent,
            short=short,
            looks=looks,
            brief=looks & (budget < _BRIEF * sweep),
            evidence=x.new_zeros((b, 5)),
            agreement=x.new_full((b,), torch.nan),
            active=torch.where(short, RECURRENT, torch.where(none, STRATEGY, NEWTON)),
            turn=count,
            spent=torch.zeros((b, MEMBERS), dtype=torch.int64, device=x.device),
            value=x.new_full((b, MEMBERS), torch.inf),
            point=x.unsqueeze(1).repeat(1, MEMBERS, 1),
            history=begun(x[:, 0], MEMBERS + 1),
            level=x.new_full((b,), torch.inf),
            lowest=x.new_full((b,), torch.inf),
            before=x.new_full((b,), torch.inf),
            gained=x.new_full((b, MEMBERS), torch.inf),
            sigma=sigma,
            polishes=count,
            restarts=count,
            space=space,
        )

    def _ask(self, state: PortfolioState) -> Queries:
        def newton(state: PortfolioState) -> Queries:
            points = self.quasi_newton._ask(state.newton).points
            return Queries(points, torch.zeros_like(points))

        def pairs(state: PortfolioState) -> Queries:
            z = gaussian(state.strategy.key, self.queries_per_step, state.x)
            return self.evolution.candidates(state.strategy, mirrored(z))

        def strategy(state: PortfolioState) -> Queries:
            asked: Queries = parted(looks_around(state), pairs, lambda s: self.evolution._ask(s.strategy), state)
            return asked

        def recurrent(state: PortfolioState) -> Queries:
            asked = self.recurrent._ask(state.recurrent)
            return Queries(asked.points, torch.nn.functional.pad(asked.directions, (0, 0, 0, 1)))

        asked: Queries = each(newton, strategy, recurrent, state)
        return asked

    def _tell(
        self, state: PortfolioState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> PortfolioState:
        values = values.detach()
        state = each(self._newton, self._strategy, self._recurrent, state, queries, values)
        one = torch.nn.functional.one_hot(state.active, MEMBERS)
        state = state._replace(key=state.key.next(), turn=state.turn + 1, spent=state.spent + one)
        state = self._recommended(state)
        once = state.looks & (state.active == STRATEGY) & (state.spent[:, STRATEGY] == LOOKS)
        last = once | (state.turn >= turn(state, self.queries_per_step))
        whole = torch.where(state.active == NEWTON, _between(state.newton), last)
        decided: PortfolioState = parted(whole, self._decided, lambda s: s, state)
        return decided

    def _newton(self, state: PortfolioState, queries: Queries, values: Tensor) -> PortfolioState:
        newton = self.quasi_newton._tell(state.newton, queries, values, None)
        value, point = found(state, NEWTON, queries.points, values)
        noisy = state.noise > 0
        value = torch.where(noisy, newton.loss.nan_to_num(nan=torch.inf), value)
        point = torch.where(noisy.unsqueeze(1), newton.x, point)
        return noted(state._replace(newton=newton, noise=newton.noise), NEWTON, value, point)

    def _strategy(self, state: PortfolioState, queries: Queries, values: Tensor) -> PortfolioState:
        values = values.to(state.x)
        value, point = found(state, STRATEGY, queries.points, values)
        noisy = state.noise > 0
        looking = looks_around(state)
        state = parted(looking, noticed, lambda s, *_: s, state, queries, values)
        last = looking & (state.spent[:, STRATEGY] == LOOKS - 1)
        state = parted(last, lambda s: looked(s, self.queries_per_step), lambda s: s, state)
        strategy = parted(
            looking, lambda s, *_: s._replace(key=s.key.next()), self._moved, state.strategy, queries, values
        )
        # Values differ by their noise at least.
        noise = torch.where(state.noise > 0, limited(state.noise, values), state.noise)
        state = state._replace(noise=noise, newton=state.newton._replace(noise=noise))
        # The mean of the better half, and its bias if all differences are noise.
        weights, _ = recombination(values)
        mean = torch.where(weights > 0, weights * values, 0.0).sum(1) + _LUCK * state.noise
        mean = torch.where(weights.sum(1) > 0, mean, values.nanmean(1).nan_to_num(nan=torch.inf))
        level = _mean(state.level, mean)
        value = torch.where(noisy, level, value)
        point = torch.where(noisy.unsqueeze(1), strategy.x, point)
        return noted(state._replace(strategy=strategy, level=level), STRATEGY, value, point)

    def _moved(self, state: MAESState, queries: Queries, values: Tensor) -> MAESState:
        return self.evolution._tell(state, queries, values, None)

    def _recurrent(self, state: PortfolioState, queries: Queries, values: Tensor) -> PortfolioState:
        queries = queries._replace(directions=queries.directions[:, :-1])
        # Its iterate may leave the box, as when it runs alone: held at a bound, it finds hardly any improvement.
        recurrent = self.recurrent._tell(state.recurrent, queries, values, None)
        value, point = found(state, RECURRENT, queries.points, values.to(state.x))
        noisy = state.noise > 0
        here = values[:, 0].to(state.x).nan_to_num(nan=torch.inf)
        value = torch.where(noisy, _mean(state.value[:, RECURRENT], here), value)
        point = torch.where(noisy.unsqueeze(1), recurrent.x, point)
        return noted(state._replace(recurrent=recurrent), RECURRENT, value, within(state.space, point))

    def _recommended(self, state: PortfolioState) -> PortfolioState:
        value, k = state.value.min(1)
        rows = torch.arange(len(k), device=k.device)
        lower = torch.where(state.noise > 0, value.isfinite(), value < state.lowest.nan_to_num(nan=torch.inf))
        x = torch.where(lower.unsqueeze(1), state.point[rows, k], state.x)
        return state._replace(x=x, lowest=torch.where(lower, value, state.lowest))

    def _decided(self, state: PortfolioState) -> PortfolioState:
        """The member whose turn is next, and the state from which it continues."""
        state = state._replace(history=remembered(state), turn=torch.zeros_like(state.turn))
        m = self.queries_per_step
        gained = state.gained.scatter(1, state.active.unsqueeze(1), (state.before - state.lowest).unsqueeze(1))
        state = state._replace(gained=gained, before=state.lowest)
        active, polish, first, anew = decided(state, m)
        state = state._replace(active=active)
        state = parted((active == NEWTON) & relayed(state, m), handed, lambda s: s, state)
        state = parted((active == RECURRENT) & ~state.short, lambda s: rescheduled(s, m), lambda s: s, state)
        state = parted(polish, self._polished, lambda s: s, state)
        state = parted(first, self._set_out, lambda s: s, state)
        begun_anew: PortfolioState = parted(anew, self._anew, lambda s: s, state)
        return begun_anew

    def _set_out(self, state: PortfolioState) -> PortfolioState:
        """Begin the strategy's first run, as wide as the distance covered by the quasi-Newton method if it is larger.

        Where slopes led down before they failed, it begins at the point reached.
        """
        strategy = state.strategy
        way = (state.x - strategy.x).square().mean(1).sqrt() / 2
        sigma = narrow(state.space, state.sigma.maximum(way))
        wide = torch.where(state.spent[:, STRATEGY] > 0, sigma.maximum(strategy.sigma), sigma)  # its own after a look
        rate = pace(state, self.queries_per_step)
        row = doubted(state)
        x = torch.where(row.unsqueeze(1), state.x, strategy.x)
        wide = torch.where(row, narrow(state.space, way), wide)
        return state._replace(sigma=sigma, strategy=strategy._replace(x=x, sigma=wide, rate=rate))

    def _polished(self, state: PortfolioState) -> PortfolioState:
        """The quasi-Newton method continues from the strategy's best point."""
        at, value = state.point[:, STRATEGY], state.value[:, STRATEGY]
        newton = self.quasi_newton.restarted(state.newton, at, value)
        state = state._replace(newton=newton, polishes=state.polishes + 1)
        state = rerun(state, NEWTON, at, value)
        return state._replace(history=marked(state.history, NEWTON, value))

    def _anew(self, state: PortfolioState) -> PortfolioState:
        """Restart the strategy around the best point, wider and more slowly each time, up to a limit."""
        d = state.x.shape[1]
        turn = (state.restarts + 1) % _CYCLE
        sigma = narrow(state.space, state.sigma * 2.0**turn)
        jump = normal(state.key, (d,), _JUMP, state.x.dtype).to(state.x.device)
        at = within(state.space, state.x + sigma.unsqueeze(1) * jump)
        rate = pace(state, self.queries_per_step)
        strategy = self.evolution.restarted(state.strategy, at, sigma, rate.to(sigma))
        state = state._replace(
            strategy=strategy,
            level=torch.full_like(state.level, torch.inf),
            restarts=state.restarts + 1,
            polishes=torch.zeros_like(state.polishes),
            active=torch.full_like(state.active, STRATEGY),
        )
        return rerun(state, STRATEGY, at, torch.full_like(state.lowest, torch.inf))


def _mean(mean: Tensor, value: Tensor) -> Tensor:
    """A running mean (B,) after one more value; the value itself if there was none."""
    return torch.where(mean.isfinite(), mean + _FORGET * (value - mean), value)


def _between(state: ZOLBFGSState) -> Tensor:
    """Whether the next step begins a sweep."""
    return (state.done == 0) & ~state.searching
