"""How far apart the pairs of a noisy sweep are.

The noise of a slope falls with the distance that it is taken over, so pairs are as long as makes differences clear,
as long as f is a quadratic over this much: twice the distance then lifts the mean of a pair four times as high. And
slopes are to be those of f over about as much of it as a step goes, since over less they may be those of ripples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoracle.optimizers.descent.sweep import ZOLBFGSState, norm

_TINY = 1e-37  # a float32 that is not zero
_SHRINK, _GROW = 0.25, 4.0
_FAR = 16.0  # growth where it is known how fast f rises
_STEEPER, _RELAX = 1.5, 1.1
_KEPT = 0.1  # share of what slopes promised that a step has to gain
_FORGET = 0.25  # rate of the running mean over line searches
_LINE = 4  # values that a third difference takes
_MEDIAN = 0.6745  # of the size of a normal number, in standard deviations
_CLEAR = 10.0  # how many times its noise a difference of a dense pair should be


def curved(state: ZOLBFGSState, rise: Tensor, length: Tensor) -> ZOLBFGSState:
    """How f bends over dense pairs; where that is more than over shorter ones, f is not a quadratic over this much."""
    bend = rise / length.clamp(min=_TINY)
    error = 3 * state.noise * (2 / state.pairs.clamp(min=1)).sqrt() / length.clamp(min=_TINY)
    steep = (state.bend > 0) & (length > state.bent) & (bend > _STEEPER * state.bend + error)
    # It is let rise again, since f may be one elsewhere.
    ceiling = torch.where(steep, state.mu * (state.bent / length.clamp(min=_TINY)).sqrt(), state.ceiling)
    return state._replace(
        ceiling=_RELAX * ceiling,
        floor=torch.where(steep, 0.0, state.floor),
        bend=torch.where(steep, state.bend, bend),
        bent=torch.where(steep, state.bent, length),
    )


def next_distance(state: ZOLBFGSState, loss: Tensor, rise: Tensor) -> Tensor:
    """The distance (B,) of the next dense pairs."""
    noise = state.noise / math.sqrt(2)
    signal = (state.odd / state.pairs.clamp(min=1) - noise.square()).clamp(min=0).sqrt()
    wanted = _CLEAR * noise / signal.clamp(min=_TINY)
    allowed = torch.maximum(state.first - loss, 10 * state.noise) / rise.clamp(min=_TINY)
    most = torch.where(rise > 10 * noise * (2 / state.pairs.clamp(min=1)).sqrt(), _FAR, _GROW)
    change = torch.minimum(wanted, allowed.sqrt()).nan_to_num(nan=1.0).clamp(min=_SHRINK).minimum(most)
    return torch.maximum(state.mu * change, state.floor).minimum(state.ceiling).minimum(state.scale)


def searched(state: ZOLBFGSState, gained: Tensor, moved: Tensor) -> ZOLBFGSState:
    """The distances that a line search recommends: where f does not fall as slopes told, those of the step.

    Args:
        state: with the direction and the gradient that it was along.
        gained: (B,) by how much f fell.
        moved: (B,) whether there was one.
    """
    promised = (state.direction * state.gradient).sum(1).abs() / 2
    failed = moved & (gained < _KEPT * promised) & (promised > 4 * state.noise)
    reach = (rms(state.direction) * state.length).minimum(state.scale)
    near, far = failed & (state.mu < reach), failed & (state.mu > reach)
    floor = torch.where(near, reach.minimum(2 * state.mu), state.floor / 2)
    ceiling = torch.where(far, reach.maximum(state.mu / 2), state.ceiling)
    trust = torch.where(moved, state.trust + _FORGET * ((~failed).to(state.trust) - state.trust), state.trust)
    return state._replace(floor=floor, ceiling=ceiling, mu=state.mu.maximum(floor).minimum(ceiling), trust=trust)


def heard(state: ZOLBFGSState, values: Tensor) -> Tensor:
    r"""The noise (B,) after a line search with values (B, m) at equal distances.

    Third differences of these hardly contain f, and those of normal noise have the variance 20 \sigma^2; their median
    size is little affected by outliers. Half of the logarithm is that of the estimate before, so that noise may grow or
    fall along the run, as f does.

    Source: Moré and Wild (2011), as in :mod:`zoracle.estimators.noise`.
    """
    if values.shape[1] < _LINE:
        return state.noise
    third = values[:, 3:] - 3 * values[:, 2:-1] + 3 * values[:, 1:-2] - values[:, :-3]
    fresh = torch.nanquantile(third.abs(), 0.5, 1) / (_MEDIAN * math.sqrt(20))
    known = fresh.isfinite() & (fresh > 0) & (state.noise > 0)
    return torch.where(known, (state.noise * fresh).sqrt(), state.noise)


def rms(v: Tensor) -> Tensor:
    """Root mean square of rows (B, d), (B,)."""
    return norm(v) / math.sqrt(v.shape[1])
