"""The path of a rover among obstacles, a trajectory optimisation problem with jumps."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Bounds, Objective
from zoracle.types import Evaluation

_DEGREE = 3


class Rover(Objective):
    r"""P fields of obstacles that a path from a start to a goal has to cross.

    A point is K control points in the unit square, x and y of each in turn, d = 2 K; the path is their clamped cubic
    B-spline p(t). With the cost c, which is ``free`` in the open and ``blocked`` more within an obstacle,

    .. math:: f = \int_0^1 c(p(t))\, \|p'(t)\|\, dt
        + \lambda \left(\|p(0) - s\|_1 + \|p(1) - g\|_1\right),

    the integral by the trapezoidal rule. Coordinates outside [0, 1] count as the nearest inside.

    Args:
        obstacles: (P, O, 4), x and y of the lower left and the upper right corner of each.
        ends: (P, 2, 2) start s and goal g.
        waypoints: K, at least 4.
        samples: points of the path that the integral is taken over.
        penalty: lambda.
        free: cost of a unit of length.
        blocked: what an obstacle adds to it.

    Raises:
        InputError: shapes that disagree, or a number out of range.

    Source: Wang, Gehring, Kohli and Jegelka, "Batched Large-scale Bayesian Optimization in High-dimensional Spaces",
    2018, section 4.4, whose field is one of these.
    """

    bounds = Bounds(0.0, 1.0)

    def __init__(
        self,
        obstacles: Tensor,
        ends: Tensor,
        *,
        waypoints: int = 30,
        samples: int = 500,
        penalty: float = 10.0,
        free: float = 0.05,
        blocked: float = 20.0,
    ) -> None:
        if obstacles.ndim != 3 or obstacles.shape[2] != 4 or ends.shape != (obstacles.shape[0], 2, 2):
            raise InputError(
                f"obstacles have shape {tuple(obstacles.shape)} and ends {tuple(ends.shape)}; "
                "expected (P, O, 4) and (P, 2, 2)"
            )
        if waypoints <= _DEGREE:
            raise InputError(f"waypoints is {waypoints}; expected at least {_DEGREE + 1}")
        if samples < 2:
            raise InputError(f"samples is {samples}; expected at least 2")
        self.obstacles, self.ends = obstacles, ends
        self.num_problems = obstacles.shape[0]
        self.dim = 2 * waypoints
        self.penalty, self.free, self.blocked = penalty, free, blocked
        self._basis = spline_basis(waypoints, samples).to(obstacles)

    @property
    def width(self) -> int:
        """Numbers that a point becomes: whether each sample of its path lies in each obstacle."""
        return max(self.dim, 4 * self._basis.shape[0] * max(1, self.obstacles.shape[1]))

    def path(self, points: Tensor) -> Tensor:
        """The paths (N, samples, 2) of points (N, d)."""
        control = points.clamp(0, 1).view(len(points), self.dim // 2, 2)
        # As a sum, not a matrix product, whose rounding would depend on how many points there are.
        return (self._basis.to(points)[None, :, :, None] * control[:, None]).sum(2)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        path = self.path(points)
        box = self.obstacles[problem].to(points).unsqueeze(1)
        at = path.unsqueeze(2)
        inside = ((at >= box[..., :2]) & (at <= box[..., 2:])).all(3).any(2)
        cost = self.free + self.blocked * inside.to(points)
        length = path.diff(dim=1).square().sum(2).sqrt()
        along = (length * (cost[:, 1:] + cost[:, :-1]) / 2).sum(1)
        missed = (path[:, [0, -1]] - self.ends[problem].to(points)).abs().sum((1, 2))
        return Evaluation(along + self.penalty * missed)


def spline_basis(count: int, samples: int) -> Tensor:
    """Values (samples, count) float64 of the clamped uniform cubic B-splines at evenly spaced t in [0, 1].

    Source: the recursion of Cox and de Boor (1972).
    """
    inner = torch.linspace(0, 1, count - _DEGREE + 1, dtype=torch.float64)
    knots = torch.cat((inner.new_zeros(_DEGREE), inner, inner.new_ones(_DEGREE)))
    t = torch.linspace(0, 1, samples, dtype=torch.float64).unsqueeze(1)
    basis = ((knots[:-1] <= t) & (t < knots[1:])).double()
    basis[-1, count - 1] = 1.0  # the last interval is closed
    for degree in range(1, _DEGREE + 1):
        n = basis.shape[1] - 1
        left, right = knots[:n], knots[degree : n + degree]
        after, last = knots[1 : n + 1], knots[degree + 1 : n + degree + 1]
        rising = torch.where(right > left, (t - left) / (right - left), 0.0)
        falling = torch.where(last > after, (last - t) / (last - after), 0.0)
        basis = rising.nan_to_num() * basis[:, :-1] + falling.nan_to_num() * basis[:, 1:]
    return basis
