"""Quadratics: everything about them is known, so everything can be checked against them."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import normal
from zoracle.objectives.base import Objective
from zoracle.objectives.rowwise import groups, matvec
from zoracle.types import Evaluation, Key

_NOISE_STREAM = 1


class Quadratic(Objective):
    r"""P quadratics with known optimum and gradient.

    .. math:: f(x) = \tfrac12 (x - x^*)^T A (x - x^*) + f^*, \qquad A = R^T \operatorname{diag}(a) R

    Args:
        curvatures: a, (P, d), the eigenvalues; at least 0.
        optimum: x*, (P, d).
        optimum_value: f*, (P,); None for 0.
        rotation: R, (P, d, d), orthogonal; None for the identity.
        noise: standard deviation of each coordinate by which a step sees the optimum displaced, in the coordinates of
            the eigenvectors: the same for all points of a step, keyed by (seed, id, step). Without a step there is
            none. Zero for a deterministic objective.
        ids: (P,) integers, the stable ids that the noise is keyed by; None uses the rows.
        seed: keys the noise.

    Raises:
        InputError: shapes that disagree, a negative curvature, or negative noise.
    """

    differentiable = True

    def __init__(
        self,
        curvatures: Tensor,
        optimum: Tensor,
        *,
        optimum_value: Tensor | None = None,
        rotation: Tensor | None = None,
        noise: float = 0.0,
        ids: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        if curvatures.ndim != 2 or curvatures.numel() == 0 or optimum.shape != curvatures.shape:
            raise InputError(
                f"curvatures have shape {tuple(curvatures.shape)} and the optimum {tuple(optimum.shape)}; "
                "expected (P, d) for both"
            )
        self.num_problems, self.dim = curvatures.shape
        if not bool((curvatures >= 0).all()):
            raise InputError("a curvature is negative or NaN; expected at least 0, or there is no minimum")
        if optimum_value is not None and optimum_value.shape != (self.num_problems,):
            raise InputError(f"optimum_value has shape {tuple(optimum_value.shape)}; expected ({self.num_problems},)")
        if rotation is not None and rotation.shape != (self.num_problems, self.dim, self.dim):
            raise InputError(
                f"rotation has shape {tuple(rotation.shape)}; expected ({self.num_problems}, {self.dim}, {self.dim})"
            )
        if not 0 <= noise < float("inf"):
            raise InputError(f"noise is {noise}; expected a number of at least 0")
        if ids is not None and ids.shape != (self.num_problems,):
            raise InputError(f"ids have shape {tuple(ids.shape)}; expected ({self.num_problems},)")
        self.noise = noise
        self.ids = torch.arange(self.num_problems) if ids is None else ids
        self.seed = seed
        self.stochastic = noise > 0
        self.curvatures = curvatures
        self.optimum = optimum
        self.optimum_value = curvatures.new_zeros(self.num_problems) if optimum_value is None else optimum_value
        self.rotation = rotation

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        loss, _ = self._along_axes(points, problem, step)
        return Evaluation(loss)

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        loss, slope = self._along_axes(points.detach(), problem, step)
        return loss, self._rotated(slope, problem, back=True)

    def _along_axes(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        """Losses (N,), and gradients (N, d) in the coordinates of the eigenvectors."""
        row = problem.to(self.curvatures.device)
        y = self._rotated(points - self.optimum[row].to(points), problem)
        if self.noise and step is not None:
            y = y - self._displaced(problem, step).to(points)
        slope = self.curvatures[row].to(points) * y
        return 0.5 * (slope * y).sum(1) + self.optimum_value[row].to(points), slope

    def _displaced(self, problem: Tensor, step: Tensor) -> Tensor:
        """By how much the optimum is displaced (N, d); one draw for all points of a problem's step."""
        parts = [torch.empty(0, self.dim, dtype=torch.float64)]
        for rows, p, s in groups(problem, step):
            key = Key(torch.tensor([self.seed]), self.ids[p : p + 1].cpu(), torch.tensor([s or 0]))
            drawn = normal(key, (self.dim,), _NOISE_STREAM, torch.float64)
            parts.append(drawn.expand(len(range(*rows.indices(problem.numel()))), -1))
        return self.noise * torch.cat(parts)

    def _rotated(self, vectors: Tensor, problem: Tensor, *, back: bool = False) -> Tensor:
        if self.rotation is None:
            return vectors
        parts = [vectors.new_empty(0, self.dim)]
        for rows, p, _ in groups(problem, None):
            matrix = self.rotation[p].to(vectors)
            parts.append(matvec(matrix.T if back else matrix, vectors[rows]))
        return torch.cat(parts)
