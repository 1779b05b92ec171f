"""A sweep over all directions of a space by differences, a few points per step, and its state within a run."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.estimators import combine
from zoracle.keyed import signs
from zoracle.optimizers.search.feasible import reflected
from zoracle.state import parted
from zoracle.types import Key, Space

FORWARD, CENTRAL, DENSE = 0, 1, 2


class ZOLBFGSState(NamedTuple):
    """State."""

    x: Tensor
    key: Key
    mu: Tensor
    """(B,) distance of a difference, a coordinate."""
    scale: Tensor
    """(B,) typical size of a coordinate."""
    noise: Tensor
    """(B,) standard deviation of f; 0 where only rounding is known of."""
    first: Tensor
    """(B,) f where the run began; NaN as long as it is unknown."""
    loss: Tensor
    """(B,) f at x, NaN where unknown; under noise an estimate."""
    mode: Tensor
    """(B,) int64: forward differences along coordinates, central ones, or central ones along dense directions."""
    searching: Tensor
    """(B,) bool: the next step is a line search, and no part of a sweep."""
    base: Tensor
    """(B,) int64: 1 where the sweep has to evaluate x first."""
    done: Tensor
    """(B,) int64: how much of the sweep is done."""
    sums: Tensor
    """(B, d) sum of differences times displacements."""
    weights: Tensor
    """(B, d) sum of squared displacements."""
    odd: Tensor
    """(B,) sum of the squared differences of pairs."""
    even: Tensor
    """(B,) sum of the means of pairs."""
    pairs: Tensor
    """(B,) how many pairs these are."""
    bend: Tensor
    """(B,) by how much the mean of a dense pair is higher than f between, over its squared length; 0 where unknown."""
    bent: Tensor
    """(B,) that squared length."""
    earlier: Tensor
    """(B, d) ``sums`` of the sweeps before this one that told nothing but noise."""
    heavier: Tensor
    """(B, d) their ``weights``."""
    centre: Tensor
    """(B, d) the mean of where they were made, by weight."""
    floor: Tensor
    """(B,) the least distance of dense pairs: slopes over less have led nowhere."""
    ceiling: Tensor
    """(B,) the largest: over more f is not a quadratic."""
    gradient: Tensor
    """(B, d) at ``origin``."""
    origin: Tensor
    """(B, d) where the last sweep was made."""
    swept: Tensor
    """(B,) bool: there was one."""
    steps: Tensor
    """(B, K, d) the last steps, the newest last."""
    changes: Tensor
    """(B, K, d) what the gradient changed by over them; zero where there is no pair."""
    direction: Tensor
    """(B, d) of the line search."""
    length: Tensor
    """(B,) what its steps are multiplied by."""
    tries: Tensor
    """(B,) int64: line searches along it."""
    trust: Tensor
    """(B,) share of the last noisy line searches that gained a part of what slopes promised, a running mean."""
    calm: Tensor
    """(B,) int64: sweeps in a row that told nothing but noise."""
    ended: Tensor
    """(B,) bool: nothing lower was found."""
    space: Space


def begun(state: ZOLBFGSState) -> ZOLBFGSState:
    """A new sweep at x."""
    blank, zero = torch.zeros_like(state.x), torch.zeros_like(state.odd)
    return state._replace(
        searching=state.searching & False,
        base=state.loss.isnan().to(torch.int64),
        done=torch.zeros_like(state.done),
        sums=blank,
        weights=blank,
        odd=zero,
        even=zero,
        pairs=zero,
    )


def sweep_points(state: ZOLBFGSState, m: int) -> Tensor:
    """The next m points (B, m, d) of a sweep."""
    made: Tensor = parted(state.mode == FORWARD, lambda s: _single(s, m), lambda s: _mirrored(s, m), state)
    return made


def _single(state: ZOLBFGSState, m: int) -> Tensor:
    """One point per coordinate, after x itself where f is not known there."""
    d = state.x.shape[1]
    at = state.done.unsqueeze(1) + torch.arange(m, device=state.x.device) - state.base.unsqueeze(1)
    real = (at >= 0) & (at < d)
    at = at.clamp(0, d - 1)
    x, high = state.x.gather(1, at), state.space.high.gather(1, at)
    # Numbers that are far from zero are farther apart.
    h = torch.maximum(state.mu.unsqueeze(1), 8 * torch.finfo(x.dtype).eps * x.abs())
    h = torch.where(x + h > high, -h, h)
    points = state.x.unsqueeze(1).repeat(1, m, 1)
    return points.scatter_(2, at.unsqueeze(2), torch.where(real, x + h, x).unsqueeze(2))


def _mirrored(state: ZOLBFGSState, m: int) -> Tensor:
    """Pairs x + mu u and x - mu u, u a coordinate or dense."""
    d = state.x.shape[1]
    k = state.done.unsqueeze(1) + torch.arange(m // 2, device=state.x.device)
    inside = (k < d).unsqueeze(2)
    dense = (state.mode == DENSE)[:, None, None]
    j = torch.arange(d, device=state.x.device)
    u = torch.where(inside & ~dense, (j == k.unsqueeze(2)).to(state.x.dtype), 0.0)
    if bool(dense.any()):
        turn = (math.pi / d) * (k.unsqueeze(2).to(state.x.dtype) * (j + 0.5))
        wave = torch.where((k == 0).unsqueeze(2), 1.0, math.sqrt(2) * turn.cos())
        sweep = state.key._replace(step=state.key.step - (state.done // (m // 2)).cpu())
        sign = signs(sweep, d, dtype=state.x.dtype).to(state.x.device)
        u = torch.where(inside & dense, wave * sign.unsqueeze(1), u)
    away = state.mu[:, None, None] * u
    x = state.x.unsqueeze(1)
    sides = [
        torch.minimum(torch.maximum(side, state.space.low.unsqueeze(1)), state.space.high.unsqueeze(1))
        for side in (x + away, x - away)
    ]
    points = torch.stack(sides, 2).flatten(1, 2)
    points = reflected(state.space, points)
    return torch.cat((points, x), 1) if m % 2 else points


def measured(state: ZOLBFGSState, points: Tensor, values: Tensor) -> tuple[ZOLBFGSState, Tensor]:
    """The sweep with what these points (B, m, d) say, and whether it is whole, (B,)."""
    _, m, d = points.shape
    forward = state.mode == FORWARD
    new = (state.base == 1) & (state.done == 0) & forward
    loss = torch.where(new, values[:, 0], state.loss)
    if m % 2:
        loss = torch.where(~forward & loss.isnan(), values[:, -1], loss)
    even = state.even
    odd, pairs = state.odd, state.pairs
    if bool(forward.all()):
        v, o = points - state.x.unsqueeze(1), values - loss.unsqueeze(1)
    else:
        half = m // 2
        near, far = points[:, 0 : 2 * half : 2], points[:, 1 : 2 * half : 2]
        up, down = values[:, 0 : 2 * half : 2], values[:, 1 : 2 * half : 2]
        v, o = (near - far) / 2, (up - down) / 2
        if bool(forward.any()):
            pad = m - half
            v = torch.cat((v, v.new_zeros((len(v), pad, d))), 1)
            o = torch.cat((o, o.new_zeros((len(o), pad))), 1)
            v = torch.where(forward[:, None, None], points - state.x.unsqueeze(1), v)
            o = torch.where(forward.unsqueeze(1), values - loss.unsqueeze(1), o)
        real = (state.done.unsqueeze(1) + torch.arange(half, device=v.device) < d) & up.isfinite() & down.isfinite()
        real = real & ~forward.unsqueeze(1)
        odd = odd + torch.where(real, (up - down) / 2, 0.0).square().sum(1)
        even = even + torch.where(real, (up + down) / 2, 0.0).sum(1)
        pairs = pairs + real.sum(1)
    known = o.isfinite()
    o, v = torch.where(known, o, 0.0), torch.where(known.unsqueeze(2), v, 0.0)
    total = torch.where(forward, d + state.base, d)
    after = state._replace(
        loss=loss,
        first=torch.where(state.first.isnan(), loss, state.first),
        sums=state.sums + combine(o, v),
        weights=state.weights + v.square().sum(1),
        done=state.done + torch.where(forward, m, m // 2),
        odd=odd,
        even=even,
        pairs=pairs,
    )
    return after, after.done >= total


def norm(v: Tensor) -> Tensor:
    """Euclidean length of rows (B, d), (B,)."""
    made: Tensor = torch.linalg.vector_norm(v, dim=1)
    return made
