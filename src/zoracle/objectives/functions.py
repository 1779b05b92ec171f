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


class Function(NamedTuple):
    """A test function of any dimension."""

    excess: Callable[[Tensor], Tensor]
    """Points (N, d) to what their values lie above the minimum, (N,)."""
    bounds: Bounds
    """The usual ones."""
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
        function = classical(name, dim)
        if num_problems < 1:
            raise InputError(f"num_problems is {num_problems}; expected at least 1")
        self.name = name
        self.dim = dim
        self.num_problems = num_problems
        self.bounds = function.bounds
        self.optimum = torch.full((num_problems, dim), function.optimum, dtype=torch.float64)
        self.optimum_value = torch.full((num_problems,), function.value_per_coordinate * dim, dtype=torch.float64)
        self._excess = function.excess

    @staticmethod
    def names() -> tuple[str, ...]:
        """The names of all functions."""
        return tuple(_FUNCTIONS)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        return Evaluation(self._excess(points) + self.optimum_value[0].to(points))


def classical(name: str, dim: int) -> Function:
    """A test function by name.

    Raises:
        InputError: no such function, or a dimension that it does not have.
    """
    if name not in _FUNCTIONS:
        close = difflib.get_close_matches(name, _FUNCTIONS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"function {name!r} is unknown; expected one of {', '.join(_FUNCTIONS)}{hint}")
    function = _FUNCTIONS[name]
    if dim < function.lowest_dim:
        raise InputError(f"dim is {dim}; expected at least {function.lowest_dim} for {name}")
    return function


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
    """Half the sum of x_i^4 - 16 x_i^2 + 5 x_i (Styblinski and Tang, 1990), less its minimum.

    Written around the minimiser, or little but rounding would be left near it: with y = x - x* it is half the sum of
    y_i^2 (y_i^2 + 4 x* y_i + 6 x*^2 - 16).
    """
    y = x - _STYBLINSKI_TANG
    return 0.5 * (y.square() * (y.square() + 4 * _STYBLINSKI_TANG * y + (6 * _STYBLINSKI_TANG**2 - 16))).sum(1)


def _levy(x: Tensor) -> Tensor:
    """Levy's function, with w = 1 + (x - 1) / 4.

    sin^2(pi w_1) + sum_{i<d} (w_i - 1)^2 (1 + 10 sin^2(pi w_i + 1)) + (w_d - 1)^2 (1 + sin^2(2 pi w_d))
    """
    w = 1 + (x - 1) / 4
    first, inner, last = w[:, 0], w[:, :-1], w[:, -1]
    middle = ((inner - 1).square() * (1 + 10 * (math.pi * inner + 1).sin().square())).sum(1)
    end = (last - 1).square() * (1 + (2 * math.pi * last).sin().square())
    return (math.pi * first).sin().square() + middle + end


#: The lowest root of 4 x^3 - 32 x + 5.
_STYBLINSKI_TANG = -2.903534027771177

_FUNCTIONS = {
    "sphere": Function(_sphere, Bounds(-5.12, 5.12), 0.0),
    "rosenbrock": Function(_rosenbrock, Bounds(-5.0, 10.0), 1.0, lowest_dim=2),
    "rastrigin": Function(_rastrigin, Bounds(-5.12, 5.12), 0.0),
    "ackley": Function(_ackley, Bounds(-32.768, 32.768), 0.0),
    "styblinski-tang": Function(_styblinski_tang, Bounds(-5.0, 5.0), _STYBLINSKI_TANG, -39.16616570377142),
    "levy": Function(_levy, Bounds(-10.0, 10.0), 1.0),
}
