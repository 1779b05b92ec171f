"""Bandits-TD: two queries per step around a prior that persists between steps (Ilyas, Engstrom and Madry, 2019)."""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor

from zoracle.directions import gaussian
from zoracle.errors import InputError
from zoracle.optimizers.ball import Ball, ball_of, unit_step
from zoracle.optimizers.base import Config, Optimizer, Positive, Start
from zoracle.types import Key, Queries
from zoracle.upsampling import Upsampling

#: Cells along the side of an image where no size of theirs is given; smaller images have cells of 2 pixels, as long as
#: that leaves a few.
_CELLS_A_SIDE, _FEWEST_CELLS = 50, 4


class BanditsConfig(Config, frozen=True, kw_only=True):
    """Settings of Bandits-TD. None uses the public code's value for the norm of the ball, linf where there is none.

    Two defaults are not the public code's, which are for attacks on ImageNet and its cross-entropy: ``online_lr``, 100
    there in linf and 0.1 in l2, and ``tile`` on small images. They were chosen on validation images of MNIST in an
    linf ball of 0.3: of ``online_lr`` 10, 1 and 0.1 and ``tile`` 1, 2 and 4, these succeeded first.

    Attributes:
        lr: size of a step, per coordinate, or its length in an l2 ball. None uses a fifth of an linf ball's radius, a
            tenth of an l2 ball's, and 0.01 where there is no ball, as published.
        online_lr: learning rate of the prior, for a loss in nats.
        exploration: length of the random part of a query's direction, delta in the paper; 1 (linf) or 0.01 (l2).
        probe: length of the perturbation that is queried, eta in the paper; 0.1 (linf) or 0.01 (l2).
        tile: pixels along the side of a cell of the prior. None uses a fiftieth of the image's shorter side, 6 of 299
            as published; and at least 2 where that side has 8 pixels or more.
    """

    lr: Positive | None = None
    online_lr: Positive = 0.1
    exploration: Positive | None = None
    probe: Positive | None = None
    tile: Annotated[int, msgspec.Meta(ge=1)] | None = None


class BanditsState(NamedTuple):
    """State of Bandits-TD."""

    x: Tensor
    key: Key
    dual: Tensor
    """(B, C h w) the prior, in an l2 ball; elsewhere what the prior is the tanh of."""
    lr: Tensor
    """(B,)."""
    exploration: Tensor
    """(B,)."""
    probe: Tensor
    """(B,)."""
    ball: Ball
    shape: Tensor
    """(B, 3) int64: channels, height and width of a point as an image."""


class Bandits(Optimizer[BanditsState, BanditsConfig]):
    r"""Gradient estimation as an online problem: the estimate of a step is the prior of the next.

    The prior v, a direction believed to lead down, lives on cells of ``tile`` by ``tile`` pixels; U is constant on each
    of them. With w = \delta z / \sqrt{n}, z ~ N(0, I_n),

    .. math::
        q_\pm = U(v \pm w), \qquad
        g = \frac{f(x + \eta q_- / \|q_-\|) - f(x + \eta q_+ / \|q_+\|)}{\eta\, \delta}\, w

    and v goes along g by exponentiated gradients in an linf ball, v \leftarrow \tanh(\tanh^{-1} v + \lambda g), and
    by v \leftarrow v + \lambda g in an l2 ball. Then x \leftarrow x + h\,\mathrm{sign}(U v), or
    x + h U v / \|U v\|. The iterate is not evaluated: the public code looks whether it
    succeeds without counting that; here one of the two queries has to.

    Source: Ilyas, Engstrom and Madry (2019), "Prior convictions: black-box adversarial attacks with bandits and
    priors", algorithms 1 to 3.
    """

    Config = BanditsConfig

    @property
    def queries_per_step(self) -> int:
        """Two."""
        return 2

    @property
    def evaluates_iterate(self) -> bool:
        """False: both queries lie off the iterate."""
        return False

    def _init(self, start: Start) -> BanditsState:
        b, d = start.x.shape
        shape = torch.tensor([[1, 1, d]]).repeat(b, 1) if start.space is None else start.space.shape.cpu()
        if b and bool((shape != shape[0]).any()):
            raise InputError("points of one batch are images of different shapes; expected one shape")
        ball = ball_of(start.space, start.x)
        n = self._grid(shape, d).dim if b else d

        def setting(given: float | None, cube: float, round_: float) -> Tensor:
            return ball.by_norm(given or cube, given or round_)

        return BanditsState(
            x=start.x,
            key=start.key,
            dual=start.x.new_zeros((b, n)),
            lr=ball.step(self.config.lr),
            exploration=setting(self.config.exploration, 1.0, 0.01),
            probe=setting(self.config.probe, 0.1, 0.01),
            ball=ball,
            shape=shape,
        )

    def _ask(self, state: BanditsState) -> Queries:
        w = gaussian(state.key, 1, state.dual)[:, 0]
        w = w * (state.exploration / math.sqrt(w.shape[1])).unsqueeze(1)
        prior, grid = self._prior(state), self._grid(state.shape, state.x.shape[1])
        directions = torch.stack((grid.up(prior + w), grid.up(prior - w)), dim=1)
        length = torch.linalg.vector_norm(directions, dim=2, keepdim=True)
        directions = directions / length.clamp(min=torch.finfo(length.dtype).tiny)
        points = state.x.unsqueeze(1) + state.probe[:, None, None] * directions
        return Queries(points, directions, w)

    def _tell(self, state: BanditsState, queries: Queries, values: Tensor, gradients: Tensor | None) -> BanditsState:
        slope = (values[:, 1] - values[:, 0]) / (state.probe * state.exploration)
        slope = torch.where(slope.isfinite(), slope, 0.0)
        # Exponentiated gradients are plain steps in the inverse tanh, where nothing rounds to one and stays there.
        dual = state.dual + (self.config.online_lr * slope).unsqueeze(1) * queries.aux
        state = state._replace(dual=dual, key=state.key.next())
        step = unit_step(state.ball, self._grid(state.shape, state.x.shape[1]).up(self._prior(state)))
        return state._replace(x=state.x + state.lr.unsqueeze(1) * step)

    def _prior(self, state: BanditsState) -> Tensor:
        return torch.where(state.ball.round.unsqueeze(1), state.dual, state.dual.tanh())

    def _grid(self, shape: Tensor, d: int) -> Upsampling:
        """The map from the prior to points; where a point is not an image, the prior has its size."""
        image = shape[0].tolist() if shape.shape[0] else [1, 1, d]
        return _tiling(*image, self.config.tile)


@cache
def _tiling(channels: int, height: int, width: int, tile: int | None) -> Upsampling:
    if min(height, width) == 1:
        tile = 1
    elif tile is None:
        side = min(height, width)
        tile = max(1, min(2, side // _FEWEST_CELLS), round(side / _CELLS_A_SIDE))
    return Upsampling("tile", (channels, height, width), (math.ceil(height / tile), math.ceil(width / tile)))
