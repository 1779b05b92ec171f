"""What optimizers with steps of one length need to know of the ball that points lie in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.types import Space

#: A box around zero that reaches less far than this is read as an linf ball. Where pixels range over [0, 1] and
#: nothing else limits them, each may move by a half at least, in one direction or the other.
HALF_RANGE = 0.5


#: Step size over the radius of the ball: 0.01 at linf 0.05 in the public code of Ilyas et al. (2018), 0.5 at l2 5 in
#: that of Ilyas, Engstrom and Madry (2019).
CUBE_SHARE, ROUND_SHARE = 0.2, 0.1
#: Step size of a coordinate where there is no ball: the published 0.01.
FREE_STEP = 0.01


class Ball(NamedTuple):
    """The ball around zero of each of B problems. Tensors, so that a state can keep it."""

    radius: Tensor
    """(B,) infinite where there is no ball."""
    round: Tensor
    """(B,) bool: it is an l2 ball; otherwise an linf ball, or none."""

    def step(self, lr: float | None) -> Tensor:
        """The step size (B,) that is given, or the published share of the radius."""
        if lr is not None:
            return torch.full_like(self.radius, lr)
        share = self.radius * self.by_norm(CUBE_SHARE, ROUND_SHARE)
        return share.masked_fill(share.isinf(), FREE_STEP)

    def by_norm(self, cube: float, round_: float) -> Tensor:
        """One value for cubes, and where there is no ball, another for l2 balls: (B,)."""
        return torch.full_like(self.radius, cube).masked_fill(self.round, round_)


def ball_of(space: Space | None, x: Tensor) -> Ball:
    """The ball that a space says of points like x (B, d): its l2 ball, or the cube that its box lies in.

    The cube is the smallest around zero that holds the box, and counts where it reaches less than
    :data:`HALF_RANGE`: pixel bounds alone are not a ball.
    """
    b = x.shape[0]
    if space is None:
        return Ball(x.new_full((b,), torch.inf), torch.zeros(b, dtype=torch.bool, device=x.device))
    reach = torch.maximum(-space.low, space.high).amax(1)
    cube = torch.where(reach < HALF_RANGE, reach, torch.inf)
    is_round = space.radius.isfinite()
    return Ball(torch.where(is_round, space.radius, cube).to(x), is_round.to(x.device))


def unit_step(ball: Ball, gradient: Tensor) -> Tensor:
    """The steepest direction (B, d) of size one in the ball's norm: the gradient over its length, or its signs."""
    length = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    along = gradient / length.clamp(min=torch.finfo(gradient.dtype).tiny)
    return torch.where(ball.round.unsqueeze(1), along, gradient.sign())
