"""The oracle of meta-training: it also gives the optimizee's gradient, true or by coordinatewise differences."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.estimators import coordinatewise, coordinatewise_points
from zoracle.objectives.base import Objective
from zoracle.rollout.oracle import Oracle
from zoracle.types import Evaluation, Purpose

GradientKind = Literal["true", "coordinatewise"]
ValueKind = Literal["queries", "directional"]


class _Linearisation(NamedTuple):
    x: Tensor
    problem: Tensor
    step: Tensor | None
    loss: Tensor
    gradient: Tensor


class TrainingOracle(Oracle):
    r"""An oracle that also answers with gradients.

    Args:
        objective: the objective to query.
        gradient: source of the optimizee's gradient: "true" differentiates the objective; "coordinatewise"
            spends 2d queries and never touches autograd of the black box.
        values: source of the optimizer's values: "queries" evaluates every point; "directional" takes the gradient
            g at the first point x_0 and answers f(x_0) + <g, x_i - x_0>, which agrees with the queries to O(mu) for
            smooth f and costs one gradient instead of q values. Training only: evaluation always queries.
        mu: smoothing radius of the coordinatewise estimate.
        chunk: largest number of points in one call of the objective.

    Raises:
        InputError: true gradients are requested of an objective that has none.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        gradient: GradientKind = "true",
        values: ValueKind = "queries",
        mu: float = 1e-4,
        chunk: int | None = None,
    ) -> None:
        super().__init__(objective, chunk=chunk)
        if gradient == "true" and not objective.differentiable:
            raise InputError(
                f"{type(objective).__name__} has no gradient for training; "
                'set gradient = "coordinatewise" in the training config'
            )
        self.kind = gradient
        self.values = values
        self.mu = mu
        # The meta-loss takes the gradient at the point from which the next step starts: remembered,
        # it costs one gradient instead of two. It is found again by its value, so no calling order is assumed.
        self._last: _Linearisation | None = None

    def linearise(self, x: Tensor, problem: Tensor, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Losses (B,) and gradients (B, d) at x (B, d), detached."""
        x = x.detach()
        last = self._last
        if last is not None and _same(last.x, x) and _same(last.problem, problem) and _same(last.step, step):
            return last.loss, last.gradient
        if self.kind == "true":
            loss, gradient = self.gradient(x, problem, step=step)
        else:
            loss, gradient = self.estimate_gradient(x, problem, step)
        self._last = _Linearisation(x.clone(), problem, step, loss, gradient)
        return loss, gradient

    def estimate_gradient(self, x: Tensor, problem: Tensor, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Losses (B,) and coordinatewise gradients (B, d) at x (B, d) from 2d + 1 points each; autograd is not used.

        The points are made block by block, so that memory stays bounded at any dimension.
        """
        purpose = Purpose.META_GRADIENT
        loss = super().evaluate(x.unsqueeze(1), problem, step=step, purpose=purpose).loss[:, 0]
        d = x.shape[1]
        width = max(1, self.chunk // (2 * x.shape[0]))
        parts = []
        for start in range(0, d, width):
            points = coordinatewise_points(x, self.mu, start, min(start + width, d))
            values = super().evaluate(points, problem, step=step, purpose=purpose).loss
            parts.append(coordinatewise(values, self.mu))
        return loss, torch.cat(parts, dim=1)

    def differentiable(self, x: Tensor, problem: Tensor, step: Tensor | None = None) -> Tensor:
        """Losses (B,) whose gradient with respect to x is the optimizee's, however it was computed."""
        loss, gradient = self.linearise(x, problem, step)
        linked: Tensor = _Linked.apply(x, loss, torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0))  # type: ignore[no-untyped-call]
        return linked

    def evaluate(
        self, points: Tensor, problem: Tensor, *, step: Tensor | None = None, purpose: Purpose = Purpose.OPTIMISE
    ) -> Evaluation:
        """Like :meth:`Oracle.evaluate`, or by directional derivatives if configured.

        Directional derivatives keep the graph of the points, which optimizers may use or detach.
        """
        if self.values == "queries" or purpose is not Purpose.OPTIMISE:
            return super().evaluate(points, problem, step=step, purpose=purpose)
        base = points[:, 0]
        loss, gradient = self.linearise(base, problem, step)
        change = torch.bmm(points - base.detach().unsqueeze(1), gradient.unsqueeze(2)).squeeze(2)
        # In float64: the differences are mu times smaller than the values.
        return Evaluation(loss.double().unsqueeze(1) + change.double())


class _Linked(torch.autograd.Function):
    """A value and its gradient, both computed beforehand, as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0].unsqueeze(1) * gradient, None, None


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(a, b)
