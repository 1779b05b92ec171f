"""What optimizers with steps of one length need to know of the ball that points lie in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.types import Space

#: A box around zero that reaches less far than this is read as an linf ball. Where pixels range over [0, 1] and
#: nothing else limits them, each may move by a half at least, in one direction or the other.
HALF_RANGE = 0.5


class Ball(NamedTuple):
    """The ball around zero of each of B problems. Tensors, so that a state can keep it."""

    radius: Tensor
    """(B,) infinite where there is no ball."""
    round: Tensor
    """(B,) bool: it is an l2 ball; otherwise an linf ball, or none."""


def ball_of(space: Space | None, x: Tensor) -> Ball:
    """The ball that a space says of points like x (B, d): its l2 ball, or the cube that its box lies in.

    The cube is the smallest around zero that holds the box, and counts where it reaches less than
    :data:`HALF_RANGE`: pixel bounds alone are no ball.
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
