"""Small problems to test with: exact, counted, and the same for a problem alone and in a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoracle.objectives.base import Bounds, Objective
from zoracle.types import Evaluation, Space


class Bowls(Objective):
    """f_p(x) = a_p sum_j w_j (x_j - c_pj)^2 / 2 + 0.1, summed coordinate by coordinate so that no batch changes it.

    Args:
        problems: P.
        dim: d.
        dtype: of what it is made of.
        success_at: the loss below which a point is a success; None knows none.
    """

    differentiable = True

    def __init__(
        self, problems: int, dim: int, dtype: torch.dtype = torch.float64, success_at: float | None = None
    ) -> None:
        g = torch.Generator().manual_seed(3)
        self.dim, self.num_problems = dim, problems
        self.center = torch.randn(problems, dim, generator=g, dtype=torch.float64).to(dtype)
        self.weight = torch.rand(dim, generator=g, dtype=torch.float64).to(dtype) + 0.5
        self.factor = (1.0 + torch.arange(problems)).to(dtype)
        self.success_at = success_at
        self.seen: list[Tensor] = []
        self.calls = 0

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        self.calls += 1
        self.seen.append(problem.clone())
        away = points - self.center[problem].to(points)
        loss = 0.1 + 0.5 * self.factor[problem].to(points) * (self.weight.to(points) * away.square()).sum(1)
        return Evaluation(loss, None if self.success_at is None else loss < self.success_at)

    def points_seen(self) -> Tensor:
        """How many points of each problem the objective was called with."""
        return torch.cat(self.seen).bincount(minlength=self.num_problems)


class Fenced(Bowls):
    """Bowls around points outside [-1, 1]^d, flat outside that box or outside a ball around zero, as an attack is.

    Args:
        problems: P.
        dim: d.
        dtype: of what it is made of.
        ball: points lie within a ball of radius 0.8 sqrt(d) as well.
        shape: of the image that a point is; by default none.
    """

    constrained = True
    bounds = Bounds(-1.0, 1.0)

    def __init__(
        self,
        problems: int,
        dim: int,
        dtype: torch.dtype = torch.float64,
        *,
        ball: bool = False,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(problems, dim, dtype)
        self.center = self.center.sign() * (1 + self.center.abs() % 1)
        self.radius = 0.8 * math.sqrt(dim) if ball else math.inf
        self.shape = shape or (1, 1, dim)
        self.asked: list[Tensor] = []

    def project(self, points: Tensor, problem: Tensor) -> Tensor:
        """The nearest points of the box, shrunk into the ball."""
        inside = points.clamp(-1, 1)
        shrink: Tensor = (self.radius / torch.linalg.vector_norm(inside, dim=1, keepdim=True)).clamp(max=1)
        return inside * shrink

    def space(self, problem: Tensor, like: Tensor) -> Space:
        """The box, the ball and the shape."""
        plain = super().space(problem, like)
        b = problem.shape[0]
        return plain._replace(
            radius=like.new_full((b,), self.radius), shape=torch.tensor([list(self.shape)]).repeat(b, 1)
        )

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        self.asked.append(points.detach().clone())
        return super()._evaluate(self.project(points, problem), problem, step)


class Linear(Objective):
    """f(x) = <g, x>: differences are exact, so every estimator's mean is known.

    Args:
        gradient: g, (d,).
    """

    differentiable = True
    num_problems = 1

    def __init__(self, gradient: Tensor) -> None:
        self.g = gradient
        self.dim = gradient.shape[0]

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        return Evaluation(points @ self.g.to(points))
