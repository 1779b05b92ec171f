"""SignHunter: the gradient's signs, by flipping ever smaller parts of them (Al-Dujaili and O'Reilly, 2020)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers.base import Config, Start
from zoracle.optimizers.search.feasible import OneCandidate, bounded_space, is_round, within
from zoracle.types import Key, Queries, Space


class SignHunterConfig(Config, frozen=True, kw_only=True):
    """Settings of SignHunter: there are none."""


class SignHunterState(NamedTuple):
    """State of SignHunter."""

    x: Tensor
    """(B, d) the best point so far; the starting point until a value is known."""
    key: Key
    space: Space
    reach: Tensor
    """(B,) the step: the ball's radius, or the largest distance from the starting point to a bound."""
    best: Tensor
    """(B,) loss at x, infinite until one is known."""
    origin: Tensor
    """(B, d) the point from which signs are followed."""
    signs: Tensor
    """(B, d) the signs found so far, 1 or -1."""
    level: Tensor
    """(B,) loss that they lead to, infinite until it is known."""
    depth: Tensor
    """(B,) int64 h: parts are of d / 2^h coordinates; -1 while the first signs are asked for."""
    part: Tensor
    """(B,) int64 the part of that size that is flipped now."""


class SignHunter(OneCandidate[SignHunterState, SignHunterConfig]):
    r"""Keep the flip of a part of the signs s where f(P(x_0 + \epsilon s)) does not rise, for halves of parts in turn.

    One query per step: all signs up, all flipped, then each half, each quarter, down to single coordinates. In an l2
    ball the step is along s / sqrt(d). Where f is linear the signs are those of its gradient after
    :math:`2^{\lceil \log_2 d \rceil + 1}` queries. Then it begins again around the best point found. The iterate is
    the best point so far. There is no randomness in it: the seed changes nothing.

    Source: Al-Dujaili and O'Reilly (2020), "Sign bits are all you need for black-box attacks". The signs begin as those
    of the public code, which asks for them before it flips; the paper begins with the flip.
    """

    Config = SignHunterConfig

    def _init(self, start: Start) -> SignHunterState:
        space = bounded_space(start, "SignHunter")
        x = start.x
        reach = space.radius.clone() if is_round(space) else torch.maximum(space.high - x, x - space.low).amax(1)
        unknown = x.new_full(x.shape[:1], torch.inf)
        first = torch.full(x.shape[:1], -1)
        return SignHunterState(
            x=x,
            key=start.key,
            space=space,
            reach=reach,
            best=unknown,
            origin=x.clone(),
            signs=torch.ones_like(x),
            level=unknown.clone(),
            depth=first,
            part=torch.zeros_like(first),
        )

    def _ask(self, state: SignHunterState) -> Queries:
        d = state.x.shape[1]
        step = state.reach / math.sqrt(d) if is_round(state.space) else state.reach
        points = within(state.space, state.origin + step.unsqueeze(1) * _flipped(state)).unsqueeze(1)
        return Queries(points, points.new_zeros((points.shape[0], 0, d)))

    def _tell(
        self, state: SignHunterState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> SignHunterState:
        value = values[:, 0]
        kept = value <= state.level
        better = value < state.best
        x = torch.where(better.unsqueeze(1), queries.points[:, 0], state.x)
        d = x.shape[1]
        done = (state.part + 1) * _width(state.depth, d) >= d
        depth = torch.where(done, state.depth + 1, state.depth)
        # Single coordinates are done: begin again around the best point.
        again = depth > math.ceil(math.log2(d))
        restart = again.to(x.device)
        return state._replace(
            x=x,
            key=state.key.next(),
            best=torch.where(better, value, state.best),
            origin=torch.where(restart.unsqueeze(1), x, state.origin),
            signs=torch.where((kept & ~restart).unsqueeze(1), _flipped(state), state.signs).masked_fill(
                restart.unsqueeze(1), 1
            ),
            level=torch.where(kept, value, state.level).masked_fill(restart, torch.inf),
            depth=torch.where(again, -1, depth),
            part=torch.where(done, 0, state.part + 1),
        )


def _width(depth: Tensor, d: int) -> Tensor:
    """Coordinates in a part, (B,) int64: d / 2^h rounded up, and all of them before the first flip."""
    parts = 2 ** depth.clamp(min=0)
    return (d + parts - 1).div(parts, rounding_mode="floor")


def _flipped(state: SignHunterState) -> Tensor:
    """The signs (B, d) with the part that is tried now flipped."""
    d = state.x.shape[1]
    width = _width(state.depth, d).unsqueeze(1)
    first = state.part.unsqueeze(1) * width
    at = torch.arange(d)
    flip = (at >= first) & (at < first + width) & (state.depth >= 0).unsqueeze(1)
    return torch.where(flip.to(state.x.device), -state.signs, state.signs)
