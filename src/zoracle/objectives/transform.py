"""Objectives seen through a change of coordinates."""

from __future__ import annotations

from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Bounds, Objective
from zoracle.types import Evaluation, Space


class Rescaled(Objective):
    r"""An objective in units of a typical change: g(y) = f(clip(s y)), with every coordinate clipped to the bounds.

    Every optimizer then steps, and differences, in these units.

    Args:
        inner: the objective f.
        scale: s, positive.
        bounds: of x = s y; None clips nothing.

    Raises:
        InputError: the scale or the bounds are unusable.
    """

    def __init__(self, inner: Objective, *, scale: float = 1.0, bounds: Bounds | None = None) -> None:
        if not scale > 0:
            raise InputError(f"scale is {scale}; expected a positive number")
        if bounds is not None and not bounds.low < bounds.high:
            raise InputError(f"bounds are ({bounds.low}, {bounds.high}); expected the lower one first")
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
        return None if points is None else points / self.factor

    @property
    def width(self) -> int:
        """Numbers that a point becomes."""
        return self.inner.width

    def project(self, points: Tensor, problem: Tensor) -> Tensor:
        """Points y (N, d) whose x = s y is feasible."""
        if self.limits is not None:
            points = points.clamp(self.limits.low / self.factor, self.limits.high / self.factor)
        if self.inner.constrained:
            points = self.inner.project(points * self.factor, problem) / self.factor
        return points

    def space(self, problem: Tensor, like: Tensor) -> Space:
        """Where y may lie."""
        inner = self.inner.space(problem, like)
        low, high, radius = (part / self.factor for part in (inner.low, inner.high, inner.radius))
        if self.limits is not None:
            low = low.clamp(min=self.limits.low / self.factor)
            high = high.clamp(max=self.limits.high / self.factor)
        return Space(low, high, radius, inner.shape)

    def original(self, points: Tensor) -> Tensor:
        """The points x (N, d) that points y stand for."""
        x = points * self.factor
        return x if self.limits is None else x.clamp(self.limits.low, self.limits.high)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        return self.inner.evaluate(self.original(points), problem, step)

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.original(points)
        loss, gradient = self.inner.gradient(x, problem, step)
        inside = (x == points * self.factor).to(gradient.dtype)
        return loss, gradient * self.factor * inside
