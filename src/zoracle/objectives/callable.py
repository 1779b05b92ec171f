"""A user's function as an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoracle import frameworks
from zoracle.errors import BlackBoxError, InputError
from zoracle.frameworks import Framework
from zoracle.objectives.base import Bounds, Objective
from zoracle.types import Evaluation


class CallableObjective(Objective):
    """A function of a batch of points, minimised from P starting points.

    Args:
        f: points (N, d) to losses (N,). It is called once for each batch that the oracle asks for, never to probe it,
            and gets a copy of the points that it may overwrite.
        dim: dimension d.
        num_problems: P, how many runs share it.
        framework: what the points are given as, "numpy" or "torch"; "auto" reads it from the function's code
            (:func:`zoracle.frameworks.choose`).
        bounds: lowest and highest value of a coordinate, where there are any. f must accept points outside.
        scale: typical size of a coordinate.
        gradient: points (N, d) to gradients (N, d), where it is known.

    Raises:
        InputError: not a callable, no such framework, or a number out of range.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        dim: int,
        num_problems: int = 1,
        *,
        framework: Framework = "auto",
        bounds: Bounds | tuple[float, float] | None = None,
        scale: float = 1.0,
        gradient: Callable[..., Any] | None = None,
    ) -> None:
        if dim < 1 or num_problems < 1:
            raise InputError(f"dim is {dim} and num_problems {num_problems}; expected at least 1 each")
        if not 0 < scale < float("inf"):
            raise InputError(f"scale is {scale}; expected a positive number")
        if bounds is not None and not bounds[0] < bounds[1]:
            raise InputError(f"bounds are {tuple(bounds)}; expected (low, high) with low < high")
        self.framework = frameworks.choose(f, framework)
        self.f = f
        self.dim = dim
        self.num_problems = num_problems
        self.bounds = None if bounds is None else Bounds(*bounds)
        self.scale = scale
        self.differentiable = gradient is not None
        self._gradient_function = gradient

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        loss = frameworks.call(self.f, points, self.framework, "the function")
        _check_shape(
            "the function",
            loss,
            points,
            points.shape[:1],
            " (if f takes one point, give lambda xs: [f(x) for x in xs])",
        )
        return Evaluation(loss)

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        assert self._gradient_function is not None  # or the base class would have refused
        gradient = frameworks.call(self._gradient_function, points, self.framework, "the gradient")
        _check_shape("the gradient", gradient, points, points.shape)
        return self._evaluate(points, problem, step).loss, gradient


def _check_shape(what: str, result: Tensor, points: Tensor, expected: tuple[int, ...], hint: str = "") -> None:
    if result.shape != expected:
        raise BlackBoxError(
            f"{what} returned shape {tuple(result.shape)} for points {tuple(points.shape)}; "
            f"expected {tuple(expected)}, one row a point{hint}"
        )
