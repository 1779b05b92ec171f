"""Quadratics: everything about them is known, so everything can be checked against them."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Objective
from zoracle.objectives.rowwise import groups, matvec
from zoracle.types import Evaluation


class Quadratic(Objective):
    r"""P quadratics with known optimum and gradient.

    .. math:: f(x) = \tfrac12 (x - x^*)^T A (x - x^*) + f^*, \qquad A = R^T \operatorname{diag}(a) R

    Args:
        curvatures: a, (P, d), the eigenvalues; at least 0.
        optimum: x*, (P, d).
        optimum_value: f*, (P,); None for 0.
        rotation: R, (P, d, d), orthogonal; None for the identity.

    Raises:
        InputError: shapes that disagree, or a negative curvature.
    """

    differentiable = True

    def __init__(
        self,
        curvatures: Tensor,
        optimum: Tensor,
        *,
        optimum_value: Tensor | None = None,
        rotation: Tensor | None = None,
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
        self.curvatures = curvatures
        self.optimum = optimum
        self.optimum_value = curvatures.new_zeros(self.num_problems) if optimum_value is None else optimum_value
        self.rotation = rotation

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        loss, _ = self._along_axes(points, problem)
        return Evaluation(loss)

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        loss, slope = self._along_axes(points.detach(), problem)
        return loss, self._rotated(slope, problem, back=True)

    def _along_axes(self, points: Tensor, problem: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (N,), and gradients (N, d) in the coordinates of the eigenvectors."""
        row = problem.to(self.curvatures.device)
        y = self._rotated(points - self.optimum[row].to(points), problem)
        slope = self.curvatures[row].to(points) * y
        return 0.5 * (slope * y).sum(1) + self.optimum_value[row].to(points), slope

    def _rotated(self, vectors: Tensor, problem: Tensor, *, back: bool = False) -> Tensor:
        if self.rotation is None:
            return vectors
        parts = [vectors.new_empty(0, self.dim)]
        for rows, p, _ in groups(problem, None):
            matrix = self.rotation[p].to(vectors)
            parts.append(matvec(matrix.T if back else matrix, vectors[rows]))
        return torch.cat(parts)
