"""RayS: the nearest decision boundary along rays of signs, for targets that tell labels only (Chen and Gu, 2020)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers.base import Config, Positive, Start
from zoracle.optimizers.search.feasible import OneCandidate, bounded_space, within
from zoracle.types import Key, Queries, Space

#: A value below this share of the start's is on the other side of the boundary. Objectives of labels lift the start's
#: side by twice the largest distance that there is (:class:`zoracle.objectives.decision.DecisionAttack`).
_BARRIER = 0.75


class RaySConfig(Config, frozen=True, kw_only=True):
    """Settings of RayS.

    Attributes:
        tolerance: Euclidean length to which the distance of the boundary along a ray is searched.
    """

    tolerance: Positive = 1e-3


class RaySState(NamedTuple):
    """State of RayS."""

    x: Tensor
    """(B, d) the nearest point beyond the boundary; the starting point until one is known."""
    key: Key
    space: Space
    origin: Tensor
    """(B, d) the starting point, where all rays begin."""
    reach: Tensor
    """(B,) the largest distance from the origin to a bound: no ray is followed farther."""
    signs: Tensor
    """(B, d) the ray of x, 1 or -1; all up before one is known."""
    radius: Tensor
    """(B,) distance of the boundary along it, a coordinate; infinite until one is known."""
    barrier: Tensor
    """(B,) what values beyond the boundary lie below; NaN until the starting point's value is known."""
    low: Tensor
    """(B,) the distance along the ray that is tried now up to which the boundary is known not to be."""
    high: Tensor
    """(B,) the distance at which it has been crossed; 0 where nothing is searched."""
    level: Tensor
    """(B,) int64 s: blocks are of d / 2^s coordinates."""
    block: Tensor
    """(B,) int64 the block that is flipped now."""


class RayS(OneCandidate[RaySState, RaySConfig]):
    r"""Flip a block of the signs s where the decision boundary along the flipped ray is nearer.

    With g(s) the smallest r such that the point x_0 + r s, clipped to the bounds, is beyond the boundary, RayS
    minimises g over s in {-1, 1}^d: all signs are flipped, then each half, each quarter, down to single coordinates,
    and then from the start again. For each flip one query at the best r so far tells whether the boundary can be nearer
    at all; only where it is crossed is r searched by halves, between 0 and that r, to the tolerance.

    One query per step. The first is the starting point, whose value tells its side from the other; the paper knows it.
    Beyond the boundary is what has a value below 3/4 of it. There is no randomness: the seed changes nothing.

    Rays are followed to the farthest bound at most, where the paper begins at 1; both clip to the same image.

    Source: Chen and Gu (2020), "RayS: A Ray Searching Method for Hard-label Adversarial Attack", Algorithms 2 and 3;
    the unit of r is a coordinate's change here, where the paper's is the Euclidean length, sqrt(d) times as much.
    """

    Config = RaySConfig

    def _init(self, start: Start) -> RaySState:
        space = bounded_space(start, "RayS")
        x = start.x
        b = x.shape[0]
        zero = x.new_zeros(b)
        return RaySState(
            x=x,
            key=start.key,
            space=space,
            origin=x.clone(),
            reach=torch.maximum(space.high - x, x - space.low).amax(1),
            signs=torch.ones_like(x),
            radius=torch.full_like(zero, torch.inf),
            barrier=torch.full_like(zero, torch.nan),
            low=zero,
            high=zero.clone(),
            level=torch.zeros(b, dtype=torch.int64),
            block=torch.zeros(b, dtype=torch.int64),
        )

    def _ask(self, state: RaySState) -> Queries:
        ray = within(state.space, state.origin + _tried(state).unsqueeze(1) * _flipped(state))
        points = torch.where(state.barrier.isnan().unsqueeze(1), state.origin, ray)
        return Queries(points.unsqueeze(1), points.new_zeros((points.shape[0], 0, points.shape[1])))

    def _tell(self, state: RaySState, queries: Queries, values: Tensor, gradients: Tensor | None) -> RaySState:
        value = values[:, 0]
        begun = ~state.barrier.isnan()
        crossed = begun & (value < state.barrier)
        tried, searching = _tried(state), state.high > 0
        high = torch.where(crossed, tried, state.high)
        low = torch.where(searching & ~crossed, tried, state.low)
        nearer = crossed & (tried < state.radius)
        x = torch.where(nearer.unsqueeze(1), queries.points[:, 0], state.x)
        found = (high > 0) & (high - low <= self.config.tolerance / math.sqrt(x.shape[1]))
        better = found & (high < state.radius)
        done = found | (begun & ~searching & ~crossed)
        level, block = _next(state, done.cpu())
        return state._replace(
            x=x,
            key=state.key.next(),
            signs=torch.where(better.unsqueeze(1), _flipped(state), state.signs),
            radius=torch.where(better, high, state.radius),
            barrier=torch.where(begun, state.barrier, _BARRIER * value),
            low=low.masked_fill(done, 0),
            high=high.masked_fill(done, 0),
            level=level,
            block=block,
        )


def _tried(state: RaySState) -> Tensor:
    """The distance (B,) along the ray that is asked for: where nothing is searched yet the best one."""
    return torch.where(state.high > 0, (state.low + state.high) / 2, state.radius.minimum(state.reach))


def _width(level: Tensor, d: int) -> Tensor:
    """Coordinates in a block, (B,) int64: d / 2^s rounded up."""
    blocks = 2**level
    return (d + blocks - 1).div(blocks, rounding_mode="floor")


def _flipped(state: RaySState) -> Tensor:
    """The signs (B, d) with the block that is tried now flipped."""
    width = _width(state.level, state.x.shape[1]).unsqueeze(1)
    first = state.block.unsqueeze(1) * width
    at = torch.arange(state.x.shape[1])
    return torch.where(((at >= first) & (at < first + width)).to(state.x.device), -state.signs, state.signs)


def _next(state: RaySState, done: Tensor) -> tuple[Tensor, Tensor]:
    """Level and block (B,) of the next flip, where this one is done (B,)."""
    d = state.x.shape[1]
    last = (state.block + 1) * _width(state.level, d) >= d
    level = torch.where(done & last, state.level + 1, state.level)
    block = torch.where(done, torch.where(last, 0, state.block + 1), state.block)
    return torch.where(level > math.ceil(math.log2(d)), 0, level), block
