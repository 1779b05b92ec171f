"""SimBA: steps of one size along orthonormal directions, kept where they help (Guo et al., 2019)."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor

from zoracle import keyed
from zoracle.optimizers.base import Config, Positive, Start
from zoracle.optimizers.search.feasible import OneCandidate, check_alike, image_shape, within
from zoracle.types import Key, Queries, Space

Count = Annotated[int, msgspec.Meta(ge=1)]

#: Of the frequencies of each axis, one in so many is among the first block: 28 of 224, as published for ImageNet.
LOWEST = 8


class SimBAConfig(Config, frozen=True, kw_only=True):
    """Settings of SimBA.

    Attributes:
        basis: "pixel", one coordinate a direction; or "dct", one frequency of one channel.
        step: length of a step, the published epsilon for pixels in [0, 1].
        freq_dims: frequencies of each axis in the first, lowest block of "dct"; None uses an eighth of the side.
        stride: by how many frequencies the block grows whenever it has been tried; None uses a quarter of it.
    """

    basis: Literal["pixel", "dct"] = "pixel"
    step: Positive = 0.2
    freq_dims: Count | None = None
    stride: Count | None = None


class SimBAState(NamedTuple):
    """State of SimBA."""

    x: Tensor
    """(B, d) the best point so far."""
    key: Key
    space: Space
    best: Tensor
    """(B,) loss at x, infinite until it is known."""
    order: Tensor
    """(B, d) int32 the order in which directions are tried."""
    position: Tensor
    """(B,) int64 the one that is tried now."""
    sign: Tensor
    """(B,) int64 -1 or 1, along which it is tried; 0 while the starting point itself is asked for."""
    rounds: Tensor
    """(B,) int64 how often all directions have been tried."""


class SimBA(OneCandidate[SimBAState, SimBAConfig]):
    r"""x <- x + s q where that has the lower loss, for s = - epsilon and then + epsilon, q without replacement.

    One query per step. The first is the starting point; the second sign is asked only where the first did not help, and
    a point that the bounds make equal to x is not asked at all. Directions are orthonormal, so that T steps in one
    pass end at most :math:`\sqrt T \epsilon` from the start. Where all have been tried they are tried again, in
    another order. Points are clipped to the box and drawn back into the ball where there is one.

    Source: Guo, Gardner, You, Wilson and Weinberger (2019), "Simple black-box adversarial attacks". Frequencies are
    tried in growing blocks, the lowest first, at random in each, as the public code's "strided" order does.
    """

    Config = SimBAConfig

    def _init(self, start: Start) -> SimBAState:
        x = start.x
        b, d = x.shape
        space = start.space
        if space is None:
            everywhere = x.new_full((b, d), torch.inf)
            space = Space(-everywhere, everywhere, everywhere[:, 0].clone(), torch.tensor([[1, 1, d]]).repeat(b, 1))
        check_alike(space, "SimBA")
        state = SimBAState(
            x=x,
            key=start.key,
            space=space,
            best=x.new_full((b,), torch.inf),
            order=torch.zeros((b, d), dtype=torch.int32),
            position=torch.zeros(b, dtype=torch.int64),
            sign=torch.zeros(b, dtype=torch.int64),
            rounds=torch.zeros(b, dtype=torch.int64),
        )
        return self._shuffled(state, torch.ones(b, dtype=torch.bool))

    def _ask(self, state: SimBAState) -> Queries:
        points = self._candidate(state).unsqueeze(1)
        return Queries(points, points.new_zeros((points.shape[0], 0, points.shape[2])))

    def _tell(self, state: SimBAState, queries: Queries, values: Tensor, gradients: Tensor | None) -> SimBAState:
        better = values[:, 0] < state.best
        told = state._replace(
            x=torch.where(better.unsqueeze(1), queries.points[:, 0], state.x),
            key=state.key.next(),
            best=torch.where(better, values[:, 0], state.best),
        )
        asked = torch.ones(better.shape, dtype=torch.bool)
        state = self._turned(told, asked, helped=better.cpu())
        for _ in range(2 * state.x.shape[1]):
            stuck = (self._candidate(state) == state.x).all(1).cpu()
            if not bool(stuck.any()):
                break
            state = self._turned(state, stuck, helped=~asked)
        return state

    def _turned(self, state: SimBAState, which: Tensor, helped: Tensor) -> SimBAState:
        """The other sign, or the next direction where the first one helped, for these of the problems (B,)."""
        d = state.x.shape[1]
        following = which & ((state.sign == 1) | ((state.sign == -1) & helped))
        position = state.position + following.long()
        over = position == d
        sign = torch.where((state.sign == -1) & ~helped, 1, -1)
        state = state._replace(
            position=position % d,
            sign=torch.where(which, sign, state.sign),
            rounds=state.rounds + over.long(),
        )
        return self._shuffled(state, over) if bool(over.any()) else state

    def _shuffled(self, state: SimBAState, over: Tensor) -> SimBAState:
        """A new order for the problems (B,) that have tried all directions."""
        order = state.order.clone()
        d = order.shape[1]
        blocks = self._blocks(image_shape(state.space)) if self.config.basis == "dct" else None
        for row in over.nonzero().squeeze(1).tolist():
            words = int(state.key.seed[row]), int(state.key.problem[row]), int(state.rounds[row])
            drawn = torch.from_numpy(keyed.permutation(d, *words))
            order[row] = drawn if blocks is None else drawn[blocks[drawn].argsort(stable=True)]
        return state._replace(order=order)

    def _blocks(self, shape: tuple[int, int, int]) -> Tensor:
        """The number (d,) of the block that each frequency belongs to, the lowest first."""
        channels, height, width = shape
        axes = []
        for side in (height, width):
            first = min(side, self.config.freq_dims or max(1, side // LOWEST))
            stride = self.config.stride or max(1, first // 4)
            beyond = torch.arange(side) - first
            axes.append(torch.where(beyond < 0, 0, 1 + beyond.div(stride, rounding_mode="floor")))
        return torch.maximum(axes[0].unsqueeze(1), axes[1]).repeat(channels, 1, 1).flatten()

    def _candidate(self, state: SimBAState) -> Tensor:
        x, shape = state.x, image_shape(state.space)
        index = state.order.gather(1, state.position.unsqueeze(1)).long()
        length = self.config.step * state.sign.to(x).unsqueeze(1)
        if self.config.basis == "pixel":
            moved = x.scatter_add(1, index.to(x.device), length)
        else:
            moved = x + length * frequencies(index[:, 0], shape).to(x)
        return torch.where((state.sign == 0).to(x.device).unsqueeze(1), x, within(state.space, moved))


def frequencies(index: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Vectors (B, d) float64 of the orthonormal cosine basis (DCT-II) of each channel, by their index (B,) below d."""
    channels, height, width = shape
    waves = []
    for number, side in ((index // width % height, height), (index % width, width)):
        angle = math.pi / side * (torch.arange(side, dtype=torch.float64) + 0.5)
        scale = ((1 + (number > 0).double()) / side).sqrt()
        waves.append(scale.unsqueeze(1) * torch.cos(number.unsqueeze(1) * angle))
    plane = waves[0].unsqueeze(2) * waves[1].unsqueeze(1)
    out = torch.zeros((index.shape[0], channels, height, width), dtype=torch.float64)
    out[torch.arange(index.shape[0]), index // (height * width)] = plane
    return out.flatten(1)
