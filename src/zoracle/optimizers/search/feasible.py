"""What optimizers that search a ball share: its shape, the way back into it, and one candidate a step."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.optimizers.base import C, Optimizer, S, Start
from zoracle.types import Space


class OneCandidate(Optimizer[S, C]):
    """An optimizer that asks for one candidate a step, and keeps it where it is better."""

    @property
    def queries_per_step(self) -> int:
        """One candidate."""
        return 1

    @property
    def evaluates_iterate(self) -> bool:
        """Whether the first point of each step is the iterate: it is the candidate."""
        return False


def within(space: Space, points: Tensor) -> Tensor:
    """The feasible points (B, d) that points (B, d) stand for.

    The coordinates are clipped to their range; what is outside the Euclidean ball then moves straight to zero.
    """
    inside = torch.clamp(points, space.low, space.high)
    return inside if bool(space.radius.isinf().all()) else in_ball(space.radius, inside)


def in_ball(radius: Tensor, points: Tensor) -> Tensor:
    """Points (B, d), those outside the Euclidean balls of these radii (B,) moved straight to zero.

    Points that are all inside come back as the same tensor.
    """
    length = torch.linalg.vector_norm(points, dim=1)
    if bool((length <= radius).all()):
        return points
    share = torch.where(radius.isinf(), 1.0, radius / length.maximum(radius))
    return points * share.unsqueeze(1)


def unbounded(x: Tensor) -> Space:
    """The space of all points, of x's (B, d) shape."""
    b, d = x.shape
    return Space(
        low=torch.full_like(x, -torch.inf),
        high=torch.full_like(x, torch.inf),
        radius=x.new_full((b,), torch.inf),
        shape=torch.tensor([[1, 1, d]]).repeat(b, 1),
    )


def reflected(space: Space, points: Tensor) -> Tensor:
    """Points (B, m, d) with what is beyond a bound folded back into the box, and then into the ball.

    A point that is farther outside than the box is wide is clipped. Points that are all feasible come back as the
    same tensor.
    """
    b, i = crossed(space, points).nonzero(as_tuple=True)
    if b.numel():
        points = points.clone()
        points[b, :, i] = folded(space, points, b, i)
    if bool(space.radius.isinf().all()):
        return points
    length = torch.linalg.vector_norm(points, dim=2, keepdim=True)
    radius = space.radius[:, None, None]
    return points * torch.where(radius.isinf(), 1.0, radius / length.maximum(radius))


def folded(space: Space, points: Tensor, b: Tensor, i: Tensor) -> Tensor:
    """The coordinates i of the problems b, (n,) each, of points (B, m, d), folded back into the box, (n, m)."""
    low, high = space.low[b, i].unsqueeze(1), space.high[b, i].unsqueeze(1)
    there = points[b, :, i]
    inside = torch.clamp(there, low, high)
    return torch.clamp(inside + (inside - there), low, high)


def crossed(space: Space, points: Tensor) -> Tensor:
    """The coordinates (B, d) in which any of the points (B, m, d) is outside the box."""
    if bool(space.low.isneginf().all()) and bool(space.high.isposinf().all()):
        return torch.zeros_like(space.low, dtype=torch.bool)  # (B, d) numbers are read for this and not (B, m, d)
    return (points.amin(1) < space.low) | (points.amax(1) > space.high)


def is_round(space: Space) -> bool:
    """Whether the space is a Euclidean ball (in a box, maybe) and not a box alone."""
    return bool(space.radius.isfinite().all())


def image_shape(space: Space) -> tuple[int, int, int]:
    """Channels, height and width of a point; (1, 1, d) where it is not an image."""
    channels, height, width = space.shape[0].tolist()
    return channels, height, width


def bounded_space(start: Start, name: str) -> Space:
    """The space of a start, which has to be bounded, the same for all problems in kind and shape.

    Args:
        start: what the run begins with.
        name: of the optimizer, for the error.

    Raises:
        InputError: there is no space, or it is unbounded, or it differs in kind from problem to problem.
    """
    space = start.space
    if space is not None:
        check_alike(space, name)
    if space is None or not (is_round(space) or bool((space.low.isfinite() & space.high.isfinite()).all())):
        raise InputError(
            f"{name} searches a ball or a box, but points are unbounded; pass the attack a norm and an eps "
            "(--threat linf --eps 0.3), or minimize its bounds"
        )
    return space


def check_alike(space: Space, name: str) -> None:
    """See that the problems differ in size at most.

    Raises:
        InputError: they do not.
    """
    d = space.low.shape[1]
    finite = space.radius.isfinite()
    if bool((space.shape != space.shape[:1]).any()) or bool((finite != finite[:1]).any()):
        raise InputError(f"{name}: the problems' spaces are of several shapes or kinds; run each kind by itself")
    if space.shape.shape[0] and int(space.shape[0].prod()) != d:
        raise InputError(f"{name}: space says images of {tuple(space.shape[0].tolist())}, and points have {d} numbers")
