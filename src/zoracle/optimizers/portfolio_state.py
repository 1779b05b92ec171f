"""State of a portfolio, and operations on it that treat all members alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers.descent.sweep import ZOLBFGSState
from zoracle.optimizers.forecast import History, forgotten, marked
from zoracle.optimizers.learned.guided_state import GuidedLSTMState
from zoracle.optimizers.search.ma_es import MAESState
from zoracle.state import parted
from zoracle.types import Key, Space

Act = Callable[..., Any]

NEWTON, STRATEGY, RECURRENT, LEVEL = range(4)
MEMBERS = 3


class PortfolioState(NamedTuple):
    """State."""

    x: Tensor
    """(B, d) the point to recommend: the lowest evaluated one, under noise the iterate of the member that is lower."""
    key: Key
    mu: Tensor
    """(B,) distance of differences at first."""
    noise: Tensor
    """(B,) standard deviation of f where the run is now, 0 where only rounding is known of."""
    horizon: Tensor
    """(B,) steps of the run."""
    newton: ZOLBFGSState
    strategy: MAESState
    recurrent: GuidedLSTMState
    short: Tensor
    """(B,) bool, whether the budget does not pay for two sweeps, so that the recurrent optimizer leads."""
    looks: Tensor
    """(B,) bool, whether it pays for them, so that slopes are checked before anything else is tried."""
    brief: Tensor
    """(B,) bool, whether it pays for few sweeps."""
    evidence: Tensor
    """(B, 5) what pairs of the strategy's first candidates told (:func:`zoracle.optimizers.portfolio_look.summed`)."""
    agreement: Tensor
    """(B,) how well the first sweep's slopes predict what the strategy found farther off; NaN where unknown."""
    active: Tensor
    """(B,) int64 whose turn it is."""
    turn: Tensor
    """(B,) int64 steps that the turn has taken."""
    spent: Tensor
    """(B, 3) int64 steps of each."""
    value: Tensor
    """(B, 3) what they have reached: their lowest value, under noise a mean; infinite before there is one."""
    point: Tensor
    """(B, 3, d) where."""
    history: History
    """Values that their present runs had reached after each turn, and the strategy's level."""
    level: Tensor
    """(B,) running mean of the better halves of the strategy's populations, which tells more of it than one value."""
    lowest: Tensor
    """(B,) of all runs."""
    before: Tensor
    """(B,) what it was when the present turn began."""
    gained: Tensor
    """(B, 3) by how much it fell in the last turn of each; infinite before the first."""
    sigma: Tensor
    """(B,) of the strategy's next run."""
    polishes: Tensor
    """(B,) int64 quasi-Newton runs that were begun from the strategy's best point since its run began."""
    restarts: Tensor
    """(B,) int64 of the strategy."""
    space: Space


def narrow(space: Space, sigma: Tensor) -> Tensor:
    """Standard deviations (B,) of at most a fifth of the feasible range."""
    width = (space.high - space.low).min(1).values.minimum(2 * space.radius)
    return sigma.minimum(0.2 * width)


def noted(state: PortfolioState, k: int, value: Tensor, point: Tensor) -> PortfolioState:
    """The lowest value that a member has reached, and its point."""
    values, points = state.value.clone(), state.point.clone()
    values[:, k], points[:, k] = value, point
    return state._replace(value=values, point=points)


def rerun(state: PortfolioState, k: int, at: Tensor, value: Tensor) -> PortfolioState:
    """A new run of a member."""
    history = forgotten(state.history, k)
    history = forgotten(history, LEVEL) if k == STRATEGY else history
    return noted(state._replace(history=history), k, value, at)


def found(state: PortfolioState, k: int, points: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """A member's lowest value so far and its point, with the points (B, m, d) and values (B, m) of a step."""
    low, at = values.nan_to_num(nan=torch.inf).min(1)
    rows = torch.arange(len(at), device=at.device)
    lower = (low < state.value[:, k]).unsqueeze(1)
    return low.minimum(state.value[:, k]), torch.where(lower, points[rows, at], state.point[:, k])


def each(newton: Act, strategy: Act, recurrent: Act, state: PortfolioState, *others: Any) -> Any:
    """The members' results, each for the rows whose turn it is."""

    def rest(state: PortfolioState, *others: Any) -> Any:
        return parted(state.active == STRATEGY, strategy, recurrent, state, *others)

    return parted(state.active == NEWTON, newton, rest, state, *others)


def remembered(state: PortfolioState) -> History:
    """The history after a turn of the active member."""

    def newton(state: PortfolioState) -> History:
        return marked(state.history, NEWTON, state.value[:, NEWTON])

    def strategy(state: PortfolioState) -> History:
        return marked(marked(state.history, STRATEGY, state.value[:, STRATEGY]), LEVEL, state.level)

    def recurrent(state: PortfolioState) -> History:
        return marked(state.history, RECURRENT, state.value[:, RECURRENT])

    history: History = each(newton, strategy, recurrent, state)
    return history
