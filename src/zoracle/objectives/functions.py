"""The classical test functions, each with its optimum, its value there, and the bounds that it is usually given."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.base import Bounds, Objective
from zoracle.types import Evaluation


class _Function(NamedTuple):
    value: Callable[[Tensor], Tensor]
    """Points (N, d) to values (N,)."""
    bounds: Bounds
    optimum: float
    """Every coordinate of the minimiser."""
    value_per_coordinate: float = 0.0
    """Of the minimum."""
    lowest_dim: int = 1


class ClassicalFunction(Objective):
    """A test function of any dimension, started from P points.

    Args:
        name: one of :meth:`names`.
        dim: dimension d.
        num_problems: P, how many runs share it.

    Attributes:
        optimum: (P, d) float64, the minimiser.
        optimum_value: (P,) float64, the minimum.

    Raises:
        InputError: no such function, or a dimension that it does not have.

    References:
        Surjanovic and Bingham, "Virtual Library of Simulation Experiments: Test Functions and Datasets", 2013.
    """

    differentiable = True

    def __init__(self, name: str, dim: int, num_problems: int = 1) -> None:
        if name not in _FUNCTIONS:
            close = difflib.get_close_matches(name, _FUNCTIONS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"function {name!r} is unknown; expected one of {', '.join(_FUNCTIONS)}{hint}")
        function = _FUNCTIONS[name]
        if dim < function.lowest_dim:
            raise InputError(f"dim is {dim}; expected at least {function.lowest_dim} for {name}")
        if num_problems < 1:
            raise InputError(f"num_problems is {num_problems}; expected at least 1")
        self.name = name
        self.dim = dim
        self.num_problems = num_problems
        self.bounds = function.bounds
        self.optimum = torch.full((num_problems, dim), function.optimum, dtype=torch.float64)
        self.optimum_value = torch.full((num_problems,), function.value_per_coordinate * dim, dtype=torch.float64)
        self._value = function.value

    @staticmethod
    def names() -> tuple[str, ...]:
        """The names of all functions."""
        return tuple(_FUNCTIONS)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        return Evaluation(self._value(points))


def _sphere(x: Tensor) -> Tensor:
    """Sum x_i^2."""
    return x.square().sum(1)


def _rosenbrock(x: Tensor) -> Tensor:
    """Sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2 (Rosenbrock, 1960)."""
    here, following = x[:, :-1], x[:, 1:]
    valley, slope = following - here.square(), 1 - here
    return (100 * valley.square() + slope.square()).sum(1)


def _rastrigin(x: Tensor) -> Tensor:
    """Sum 10 + x_i^2 - 10 cos(2 pi x_i) (Rastrigin, 1974)."""
    waves = (2 * math.pi * x).cos()
    return (x.square() + 10 * (1 - waves)).sum(1)


def _ackley(x: Tensor) -> Tensor:
    """20 + e - 20 exp(-0.2 rms(x)) - exp(mean cos(2 pi x_i)) (Ackley, 1987)."""
    # As a norm, since the derivative of a square root at the optimum would be NaN.
    rms: Tensor = torch.linalg.vector_norm(x, dim=1) / math.sqrt(x.shape[1])
    waves = (2 * math.pi * x).cos().mean(1)
    bowl = 20 * (1 - (-0.2 * rms).exp())
    return bowl + (math.e - waves.exp())


def _styblinski_tang(x: Tensor) -> Tensor:
    """Half the sum of x_i^4 - 16 x_i^2 + 5 x_i (Styblinski and Tang, 1990)."""
    return 0.5 * (x.pow(4) - 16 * x.square() + 5 * x).sum(1)


def _levy(x: Tensor) -> Tensor:
    """Levy's function, with w = 1 + (x - 1) / 4.

    sin^2(pi w_1) + sum_{i<d} (w_i - 1)^2 (1 + 10 sin^2(pi w_i + 1)) + (w_d - 1)^2 (1 + sin^2(2 pi w_d))
    """
    w = 1 + (x - 1) / 4
    first, inner, last = w[:, 0], w[:, :-1], w[:, -1]
    middle = ((inner - 1).square() * (1 + 10 * (math.pi * inner + 1).sin().square())).sum(1)
    end = (last - 1).square() * (1 + (2 * math.pi * last).sin().square())
    return (math.pi * first).sin().square() + middle + end


_FUNCTIONS = {
    "sphere": _Function(_sphere, Bounds(-5.12, 5.12), 0.0),
    "rosenbrock": _Function(_rosenbrock, Bounds(-5.0, 10.0), 1.0, lowest_dim=2),
    "rastrigin": _Function(_rastrigin, Bounds(-5.12, 5.12), 0.0),
    "ackley": _Function(_ackley, Bounds(-32.768, 32.768), 0.0),
    # The lowest root of 4 x^3 - 32 x + 5, and half the polynomial there.
    "styblinski-tang": _Function(_styblinski_tang, Bounds(-5.0, 5.0), -2.903534027771177, -39.16616570377142),
    "levy": _Function(_levy, Bounds(-10.0, 10.0), 1.0),
}
