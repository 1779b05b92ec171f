"""Objectives seen through a change of coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Bounds, Box, Objective
from zoracle.types import Evaluation, Space


class Rescaled(Objective):
    r"""An objective in units of a typical change: g(y) = f(clip(s y)), with every coordinate clipped to the bounds.

    Every optimizer then steps, and differences, in these units.

    Args:
        inner: the objective f.
        scale: s, positive; or (P,), one for each problem; or (1, d), one for each coordinate.
        bounds: of x = s y, two numbers or tensors (d,); None clips nothing.

    Raises:
        InputError: the scale or the bounds are unusable.
    """

    def __init__(self, inner: Objective, *, scale: float | Tensor = 1.0, bounds: Bounds | Box | None = None) -> None:
        if isinstance(scale, Tensor) and scale.shape not in ((inner.num_problems,), (1, inner.dim)):
            raise InputError(
                f"scale has shape {tuple(scale.shape)}; expected ({inner.num_problems},), one per problem, "
                f"or (1, {inner.dim}), one per coordinate"
            )
        if not bool(torch.as_tensor(scale > 0).all()):
            raise InputError(f"scale is {scale}; expected a positive number")
        if bounds is not None and not bool((torch.as_tensor(bounds.low) < torch.as_tensor(bounds.high)).all()):
            raise InputError(f"bounds are ({bounds.low}, {bounds.high}); expected (low, high) with low < high")
        self.inner = inner
        self.factor = scale
        self.limits = bounds
        self.dim = inner.dim
        self.num_problems = inner.num_problems
        self.differentiable = inner.differentiable
        self.stochastic = inner.stochastic
        self.scale = inner.scale
        self.constrained = bounds is not None or inner.constrained
        self.ends_at_success = inner.ends_at_success

    def origin(self, problem: Tensor, like: Tensor) -> Tensor | None:
        """The y whose x = s y leaves everything as it is."""
        points = self.inner.origin(problem, like)
        return None if points is None else points / self._factor(problem, like)

    @property
    def width(self) -> int:
        """Numbers that a point becomes."""
        return self.inner.width

    def project(self, points: Tensor, problem: Tensor) -> Tensor:
        """Points y (N, d) whose x = s y is feasible."""
        factor = self._factor(problem, points)
        if self.limits is not None:
            low, high = (limit / factor for limit in self._limits(points))
            points = points.clamp(low, high)
        if self.inner.constrained:
            points = self.inner.project(points * factor, problem) / factor
        return points

    def space(self, problem: Tensor, like: Tensor) -> Space:
        """Where y may lie. Where units differ between coordinates, a ball becomes an ellipsoid: its least radius."""
        inner = self.inner.space(problem, like)
        factor = self._factor(problem, like)
        low, high = inner.low / factor, inner.high / factor
        radius = inner.radius / (factor if isinstance(factor, float) else factor.amax(1))
        if self.limits is not None:
            lowest, highest = (limit / factor for limit in self._limits(like))
            low, high = low.maximum(lowest), high.minimum(highest)
        return Space(low, high, radius, inner.shape)

    def original(self, points: Tensor, problem: Tensor | None = None) -> Tensor:
        """The points x (N, d) that points y of these problems stand for; of all problems in their order by default."""
        x = points * self._factor(problem, points)
        return x if self.limits is None else x.clamp(*self._limits(points))

    def _limits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds of x in the type and on the device of points."""
        assert self.limits is not None
        low, high = (torch.as_tensor(limit, dtype=like.dtype, device=like.device) for limit in self.limits)
        return low, high

    def _factor(self, problem: Tensor | None, like: Tensor) -> float | Tensor:
        """S of these problems: a number, (N, 1), or (1, d)."""
        if not isinstance(self.factor, Tensor):
            return self.factor
        if self.factor.ndim == 2:
            return self.factor.to(like)
        own = self.factor if problem is None else self.factor[problem.to(self.factor.device)]
        return own.to(like).unsqueeze(1)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        return self.inner.evaluate(self.original(points, problem), problem, step, checked=True)

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        factor, x = self._factor(problem, points), self.original(points, problem)
        loss, gradient = self.inner.gradient(x, problem, step, checked=True)
        inside = (x == points * factor).to(gradient.dtype)
        return loss, gradient * factor * inside
