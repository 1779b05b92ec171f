"""Choice of the portfolio member that gets the next queries."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers.descent.sweep import FORWARD, begun
from zoracle.optimizers.forecast import forecast, marked
from zoracle.optimizers.portfolio_state import LEVEL, MEMBERS, NEWTON, RECURRENT, STRATEGY, PortfolioState, noted, rerun
from zoracle.state import parted

_TURNS = 30  # minimum number of turns of the strategy
_SETTLED, _LITTLE = 1e-3, 1e-9  # shares of a run's gain that count as small
_LAST, _MOST = 0.1, 1 / 3  # shares of the budget left when the strategy's best point is refined, at least and at most
_PATIENT = 8  # turns without a gain above the noise after which the strategy counts as settled
_LONG = 30  # turns of a quasi-Newton run before it can count as stalled
_TRUST = 0.5  # share of noisy line searches that have to gain what slopes promised
LOOKS = 2
"""Steps of the strategy from its start, before it moves, that are for looking."""
_DIRECTED = 0.35  # correlation of slopes with changes of f farther away, from which they predict their sign
_RELAY = 15  # sweeps, at most, of a run in which two members take turns
AGREE, SURE = 0.6, 0.8  # agreement above which slopes likely, and surely, predict f farther away


class Decision(NamedTuple):
    """The decision after a turn, (B,) each."""

    active: Tensor
    """int64 whose turn is next."""
    polish: Tensor
    """Whether the quasi-Newton method continues from the strategy's best point."""
    first: Tensor
    """Whether the strategy sets out on its first run."""
    anew: Tensor
    """Whether the strategy restarts."""


class _Runs(NamedTuple):
    """Status of the members' runs, (B,) each."""

    hope: Tensor
    """(B, 4) what they will reach with all queries that are left."""
    late: Tensor
    """Whether few queries are left."""
    ended: Tensor
    """Whether the quasi-Newton method found nothing lower."""
    stands: Tensor
    """Whether it has gained next to nothing for long."""
    settled: Tensor
    """Whether the strategy is about where it will end."""
    done: Tensor
    """Whether it has ended, or is not expected to improve."""


def decided(state: PortfolioState, m: int) -> Decision:
    """The decision after a turn that is in the history; a step has m points."""
    noisy, history = state.noise > 0, state.history
    runs = _runs(state, m)
    hope, ended, done = runs.hope, runs.ended, runs.done
    over = ended | runs.stands
    own, other, third = state.value[:, :MEMBERS].unbind(1)
    # The strategy looks first, which shows whether slopes predict f farther away.
    looks = state.looks & ~ended & state.agreement.isnan()
    doubt = doubted(state)
    smooth = state.looks & ~runs.stands & _agreed(state) & ~doubt
    rough = state.looks & ~state.agreement.isnan() & (~_agreed(state) | doubt) & (state.brief | ~done)
    # The recurrent optimizer shares with the strategy where slopes predict the sign of changes, if not their size.
    shares = rough & state.brief & ~noisy & _directed(state)
    leads = shares & (third < own.minimum(other))
    # Quadratic convergence may continue from where the strategy currently finds no lower value.
    pause = (other - hope[:, STRATEGY] < _SETTLED * history.gain[:, STRATEGY]) & ~history.young[:, STRATEGY]
    early = torch.where(noisy, runs.settled, pause & ~rough) & (state.polishes < 1)
    ready = early | (runs.late & (state.polishes < 2))
    behind = other < own - 2 * state.noise / math.sqrt(m)
    pays = steps_left(state) * m > state.x.shape[1] + 2 * m
    polish = ready & (over | rough | (hope[:, NEWTON] > other)) & behind & pays & ~leads

    newton, strategy = (torch.where(out, torch.inf, hope[:, k]) for k, out in ((NEWTON, ended), (STRATEGY, done)))
    active = torch.where(newton <= strategy, NEWTON, STRATEGY)
    refined = rough & runs.late & ~leads
    active = torch.where(smooth | refined, NEWTON, active)
    active = torch.where(looks | (rough & ~refined), STRATEGY, active)
    # The mean of the strategy's better candidates tells its progress before its lowest value does.
    rival = hope[:, STRATEGY].minimum(hope[:, LEVEL])
    ahead = shares & ~refined & ~history.young[:, STRATEGY] & (hope[:, RECURRENT] < rival)
    active = torch.where(ahead, RECURRENT, active)
    # Turns of a sweep each go to the one whose last gained more; what pays for none is the recurrent optimizer's.
    ahead = smooth & relayed(state, m) & ((state.gained[:, RECURRENT] >= state.gained[:, NEWTON]) | ~pays)
    active = torch.where(ahead, RECURRENT, active)
    active = torch.where(ended, STRATEGY, active)
    # Without a gradient to follow, all queries are the recurrent optimizer's, whose steps shrink towards the end.
    active = torch.where(state.short, RECURRENT, active)

    few = runs.stands & (state.spent[:, STRATEGY] < 0.5 * state.spent.sum(1))
    due = few & ~ended & ~done & ~history.young[:, :RECURRENT].any(1)
    active = torch.where(due, STRATEGY, active)
    active = torch.where(polish, NEWTON, active)
    looked = LOOKS * state.looks.to(torch.int64)  # the steps that it had before
    first = (active == STRATEGY) & (state.spent[:, STRATEGY] <= looked) & ~looks & (~rough | doubt)
    return Decision(active, polish, first, (over | noisy) & done & ~polish)


def doubted(state: PortfolioState) -> Tensor:
    """Whether slopes agreed at first, but most of the last line searches did not gain what they promised, (B,)."""
    return _agreed(state) & (state.newton.trust < _TRUST)


def _directed(state: PortfolioState) -> Tensor:
    r"""Whether slopes predict the sign of changes of f farther away, if not their size, (B,).

    That is a correlation about zero, \sum_k s_k o_k / \sqrt{\sum_k s_k^2 \sum_k o_k^2}, that is not small, and changes
    that are smaller than predicted: f saturates, as the loss of a network does.
    """
    slopes, odd, both = state.evidence[:, :3].unbind(1)
    size = (slopes * odd).sqrt().clamp(min=torch.finfo(odd.dtype).tiny)
    return (both > _DIRECTED * size) & (odd < slopes)


def _agreed(state: PortfolioState) -> Tensor:
    return state.agreement >= torch.where(state.brief, AGREE, SURE)


def relayed(state: PortfolioState, m: int) -> Tensor:
    """Whether the quasi-Newton method and the recurrent optimizer take turns from the lowest point, (B,).

    That is in runs of few sweeps without noise whose slopes are likely, but not surely, those of f farther away: losses
    of networks and other functions that saturate.
    """
    few = state.horizon * m < _RELAY * (state.x.shape[1] + m)
    return few & _agreed(state) & (state.agreement < SURE) & (state.noise == 0)


def handed(state: PortfolioState) -> PortfolioState:
    """The quasi-Newton method continues from the lower point that the recurrent optimizer has found, if it has.

    Its pairs are of sweeps, wherever these were made, and remain valid.
    """

    def moved(state: PortfolioState) -> PortfolioState:
        newton = begun(state.newton._replace(x=state.x, loss=state.lowest))
        return noted(state._replace(newton=newton), NEWTON, state.lowest, state.x)

    lower = state.value[:, RECURRENT] < state.value[:, NEWTON]
    after: PortfolioState = parted(lower, moved, lambda s: s, state)
    return after


def rescheduled(state: PortfolioState, m: int) -> PortfolioState:
    """The recurrent optimizer plans for all steps that are left.

    Its run begins at the lowest point, and continues from there where members take turns.
    """

    def moved(state: PortfolioState) -> PortfolioState:
        return noted(state._replace(recurrent=state.recurrent._replace(x=state.x)), RECURRENT, state.lowest, state.x)

    state = parted(state.spent[:, RECURRENT] == 0, _joined, lambda s: s, state)
    lower = relayed(state, m) & (state.value[:, NEWTON] < state.value[:, RECURRENT])
    state = parted(lower, moved, lambda s: s, state)
    recurrent = state.recurrent
    horizon = recurrent.key.step.to(state.x.device) + steps_left(state) - recurrent.scouting
    return state._replace(recurrent=recurrent._replace(radius=recurrent.radius._replace(horizon=horizon)))


def _joined(state: PortfolioState) -> PortfolioState:
    recurrent = state.recurrent._replace(x=state.x, origin=state.x)
    state = rerun(state._replace(recurrent=recurrent), RECURRENT, state.x, state.lowest)
    return state._replace(history=marked(state.history, RECURRENT, state.lowest))


def looks_around(state: PortfolioState) -> Tensor:
    """Whether the strategy's next step is one of its first, (B,): it looks around before it moves."""
    return state.spent[:, STRATEGY] < LOOKS


def turn(state: PortfolioState, m: int) -> Tensor:
    """Steps (B,) of a turn of the strategy or the recurrent optimizer.

    As many as a sweep takes, but no more than a thirtieth of the run unless it is one of few sweeps.
    """
    sweep = math.ceil((state.x.shape[1] + m) / m)
    return torch.where(relayed(state, m), sweep, (state.horizon // _TURNS).clamp(max=sweep)).clamp(min=2)


def steps_left(state: PortfolioState) -> Tensor:
    """Steps (B,) that the budget still pays for."""
    return (state.horizon - state.key.step.to(state.x.device)).clamp(min=0)


def _runs(state: PortfolioState, m: int) -> _Runs:
    d, left, history, noisy = state.x.shape[1], steps_left(state), state.history, state.noise > 0
    sweep = torch.where(state.newton.mode == FORWARD, math.ceil((d + 1) / m), math.ceil(d / (m // 2))) + 1
    steps = turn(state, m)
    turns = left.unsqueeze(1) / torch.stack((sweep, steps, steps, steps), 1)
    now = torch.cat((state.value, state.level.unsqueeze(1)), 1)
    gains = history.last - forecast(history, turns, 2 * state.noise / math.sqrt(m))
    hope = torch.where(history.young, -torch.inf, now - gains)
    own, other = state.value[:, NEWTON], state.value[:, STRATEGY]
    # A quasi-Newton run that has hardly gained for a long time has to share with the strategy.
    stands = (own - hope[:, NEWTON] < _LITTLE * history.gain[:, NEWTON]) & (history.long[:, NEWTON] >= _LONG) & ~noisy
    settled = _settled(state, hope[:, LEVEL], m)
    stuck = settled & (hope[:, STRATEGY] >= own.minimum(other) - _LITTLE * history.gain[:, STRATEGY])
    return _Runs(
        hope=hope,
        late=left * m < _reserve(state, m),
        ended=state.newton.ended,
        stands=stands,
        settled=settled,
        done=_converged(state) | stuck,
    )


def _reserve(state: PortfolioState, m: int) -> Tensor:
    """Queries (B,) that are kept for refining the strategy's best point: those of three sweeps, within limits.

    Where the upper limit would not pay for one sweep and its line search, there is no time for two members, and the
    quasi-Newton method goes on.
    """
    d, budget = state.x.shape[1], (state.horizon * m).to(state.x)
    sweeps = torch.full_like(budget, 3.0 * (d + m))
    sweeps = torch.where(_MOST * budget > d + 2 * m, sweeps.minimum(_MOST * budget), sweeps)
    return sweeps.maximum(_LAST * budget)


def _settled(state: PortfolioState, hope: Tensor, m: int) -> Tensor:
    """Whether the strategy is close to its final value, (B,)."""
    steps = state.strategy.key.step.to(hope.device) - state.strategy.begun
    needed = 3 * (state.x.shape[1] / m + 10) / state.strategy.rate
    little = state.level - hope <= _SETTLED * state.history.gain[:, LEVEL]
    return little & (steps > needed) & (state.history.long[:, LEVEL] >= _PATIENT)


def _converged(state: PortfolioState) -> Tensor:
    """Whether the strategy cannot make further progress, (B,)."""
    size = state.strategy.sigma
    far = state.strategy.x.abs().amax(1).maximum(state.sigma)
    return size < 64 * torch.finfo(size.dtype).eps * far
