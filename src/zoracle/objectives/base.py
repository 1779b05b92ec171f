"""What an objective is: points and the problem each belongs to, in; losses, out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.types import Evaluation, Space


class Bounds(NamedTuple):
    """Lowest and highest value of every coordinate."""

    low: float
    high: float


class Box(NamedTuple):
    """Lower and upper bound of each coordinate, (d,) both; infinite if there is none."""

    low: Tensor
    high: Tensor


class Objective(ABC):
    r"""A batch of P problems of one dimension d: f_p(x) for p = 0 .. P - 1.

    Subclasses implement :meth:`_evaluate`, and :meth:`_gradient` if autograd cannot be used.

    Attributes:
        dim: dimension d of every problem.
        num_problems: P.
        bounds: the intended range of the coordinates, or None. Objectives handle points outside it themselves (an
            attack clips them); optimizers only use it for scale.
        differentiable: whether :meth:`gradient` works.
        stochastic: whether the loss depends on the step, for example by its mini-batch.
        scale: typical size of a coordinate; determines the default smoothing radius.
        constrained: whether :meth:`project` does anything. A constrained objective is flat outside its feasible set, so
            the loop projects iterates after each step.
        ends_at_success: whether a first success cannot be improved, so that runs stop there by default.
        remote: whether values come over a network (``BlackBox.remote``).
    """

    dim: int
    num_problems: int
    bounds: Bounds | None = None
    differentiable: bool = False
    stochastic: bool = False
    scale: float = 1.0
    constrained: bool = False
    ends_at_success: bool = False
    remote: bool = False

    def own_part(self, points: Tensor, problem: Tensor) -> Tensor | None:
        """The part of the loss (N,) that depends only on the points (N, d), such as a distance, without any query.

        The rest of the loss comes from the black box. None if there is no such part.
        """
        return None

    def origin(self, problem: Tensor, like: Tensor) -> Tensor | None:
        """The points (B, d) that change nothing, such as a zero perturbation; None if there are none."""
        return None

    @property
    def width(self) -> int:
        """The number of values per point inside the objective, which determines the memory of a call."""
        return self.dim

    def project(self, points: Tensor, problem: Tensor) -> Tensor:
        """The projection of points (N, d) onto the feasible set; the points themselves if there is no constraint."""
        return points

    def space(self, problem: Tensor, like: Tensor) -> Space:
        """The feasible region of these problems (B,), with the type and device of ``like``.

        Without bounds everything is infinite, and a point is not an image.
        """
        b = problem.shape[0]
        low, high = (-torch.inf, torch.inf) if self.bounds is None else self.bounds
        return Space(
            low=like.new_full((b, self.dim), low),
            high=like.new_full((b, self.dim), high),
            radius=like.new_full((b,), torch.inf),
            shape=torch.tensor([[1, 1, self.dim]]).repeat(b, 1),
        )

    def evaluate(
        self,
        points: Tensor,
        problem: Tensor,
        step: Tensor | None = None,
        *,
        checked: bool = False,
        cells: Sequence[int] | None = None,
    ) -> Evaluation:
        """Losses of N points.

        Args:
            points: (N, d).
            problem: (N,) int64, the row of the problem (0 .. P - 1) that each point belongs to.
            step: (N,) int64, which determines the sample of a stochastic objective: all points of one step use the
                same sample. None evaluates the full, noiseless objective.
            checked: skip the checks of shapes and problems.
            cells: sizes of groups of neighbouring points, N in all; each is answered as it is alone, to the last bit.
                None is one group.

        Returns:
            Losses (N,), and whether each point is a success where the objective knows.

        Raises:
            InputError: wrong shapes, or a problem out of range.
        """
        if not checked:
            self.check(points, problem)
        if cells is None or len(cells) < 2:
            return self._evaluate(points, problem, step)
        return self._evaluate_cells(points, problem, step, cells)

    def gradient(
        self, points: Tensor, problem: Tensor, step: Tensor | None = None, *, checked: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Losses (N,) and true gradients (N, d), both detached; the arguments are those of :meth:`evaluate`.

        Raises:
            InputError: the objective is not differentiable, or wrong shapes.
        """
        if not self.differentiable:
            raise InputError(
                f"{type(self).__name__} has no gradient; use the coordinatewise estimator instead "
                '(gradient = "coordinatewise")'
            )
        if not checked:
            self.check(points, problem)
        return self._gradient(points, problem, step)

    @abstractmethod
    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        """Losses of valid points."""

    def _evaluate_cells(self, points: Tensor, problem: Tensor, step: Tensor | None, cells: Sequence[int]) -> Evaluation:
        """Losses of valid points, each cell by itself."""
        sizes = list(cells)
        steps = [None] * len(sizes) if step is None else torch.split(step, sizes)
        cut = zip(torch.split(points, sizes), torch.split(problem, sizes), steps, strict=True)
        parts = [self._evaluate(*one) for one in cut]
        successes = [part.success for part in parts if part.success is not None]
        return Evaluation(torch.cat([part.loss for part in parts]), torch.cat(successes) if successes else None)

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = points.detach().requires_grad_(True)
            loss = self._evaluate(x, problem, step).loss
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        return loss.detach(), gradient

    def check(self, points: Tensor, problem: Tensor) -> None:
        """Raise an InputError where points (N, d) and problems (N,) are not of this objective."""
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise InputError(f"points have shape {tuple(points.shape)}; expected (N, {self.dim})")
        if problem.shape != points.shape[:1]:
            raise InputError(f"problem has shape {tuple(problem.shape)}; expected ({points.shape[0]},), one per point")
        if problem.numel() and (int(problem.min()) < 0 or int(problem.max()) >= self.num_problems):
            raise InputError(f"problem out of range: expected 0 .. {self.num_problems - 1}")
