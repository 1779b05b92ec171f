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
    """Lowest and highest value of each coordinate, (d,) both; infinite where there is none."""

    low: Tensor
    high: Tensor


class Objective(ABC):
    r"""A batch of P problems of one dimension d: f_p(x) for p = 0 .. P - 1.

    Subclasses write :meth:`_evaluate`, and :meth:`_gradient` where autograd through it is not the way.

    Attributes:
        dim: dimension d of every problem.
        num_problems: P.
        bounds: the range that coordinates are meant to stay in, or None. Objectives handle points outside it
            themselves (an attack clips them); optimizers use it for scale only.
        differentiable: whether :meth:`gradient` works.
        stochastic: whether the loss depends on the step (a mini-batch, say).
        scale: typical size of a coordinate; the smoothing radius follows it.
        constrained: whether :meth:`project` does anything. A constrained objective is flat outside its set, so the
            loop brings iterates back into it after each step.
        ends_at_success: whether nothing is left to win after a first success, so that runs stop there unless they
            are asked to continue.
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
        """The part of the loss (N,) that follows from points (N, d) alone, a distance say, without any query.

        What is left of the loss then comes from the black box. None where there is no such part.
        """
        return None

    def origin(self, problem: Tensor, like: Tensor) -> Tensor | None:
        """The points (B, d) that leave everything as it is, an image unchanged say; None where there are none."""
        return None

    @property
    def width(self) -> int:
        """Numbers that a point becomes on its way through, which is what a call's memory depends on."""
        return self.dim

    def project(self, points: Tensor, problem: Tensor) -> Tensor:
        """The feasible points (N, d) that points stand for; the points themselves where there is no constraint."""
        return points

    def space(self, problem: Tensor, like: Tensor) -> Space:
        """Where points of these problems (B,) may lie, in the type and on the device of ``like``.

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
            step: (N,) int64, what a stochastic objective draws its sample by: all points of one step see the
                same sample. None asks for the full, noiseless objective.
            checked: shapes and problems are known to be right, and not looked at again.
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
