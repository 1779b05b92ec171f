"""The classical test functions, moved at random."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import START_STREAM, integers
from zoracle.objectives.functions import ClassicalFunction, Function, classical
from zoracle.objectives.shifted import ShiftedFunctions
from zoracle.tasks.synthetic import PROBLEM_SEED, DrawnTask
from zoracle.types import Key

_EVERY = "all"
_PARTS = 2**31
_POINTS = 256


class FunctionsTask(DrawnTask):
    """Classical test functions, their usual bounds scaled to [-1, 1], with the optimum at a random place.

    With "all" the functions take turns by id, in this order: sphere, rosenbrock, rastrigin, ackley, styblinski-tang,
    levy. All of them are smooth, but for a cusp of Ackley's at its optimum. The last four have many local minima,
    and a method that follows a gradient ends in one of them.

    One domain for all, as in BBOB, gives every problem the same unit of x: half the width of the usual bounds. In
    units of their own the widest bounds are 6 times the narrowest, and no step size and no smoothing radius could
    suit them all. For the same reason values, less the minimum, are in units of the function's mean over random
    points and optima, so that about 1 is what a search begins with: as they are usually written Rosenbrock's are a
    million times Ackley's, and a mean over problems would be Rosenbrock's alone.

    Args:
        function: one of the names above, or "all".
        dim: dimension d, at least 2 with Rosenbrock's.
        shift: optima are drawn uniformly from [-shift, shift]^d; 0.8 for most functions of BBOB.
        start_range: points start uniformly in [-start_range, start_range]^d, keyed by seed and id.
        scaled: whether values are in that unit; otherwise they are as the function is usually written, less the
            minimum.

    Raises:
        InputError: a setting out of its range.

    References:
        Hansen, Finck, Ros and Auger, "Real-Parameter Black-Box Optimization Benchmarking 2009: Noiseless Functions
        Definitions", INRIA RR-6829, 2009.
    """

    name = "functions"

    def __init__(
        self,
        *,
        function: str = _EVERY,
        dim: int = 100,
        shift: float = 0.8,
        start_range: float = 1.0,
        scaled: bool = True,
    ) -> None:
        super().__init__(dim=dim)
        every = ClassicalFunction.names()
        if function not in (_EVERY, *every):
            close = difflib.get_close_matches(str(function), every, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected {', '.join((_EVERY, *every))}"
            raise InputError(f"function {function!r} is unknown; {hint}")
        for value, of in ((shift, "shift"), (start_range, "start_range")):
            if not 0 <= value <= 1:
                raise InputError(f"{of} is {value}; expected a number in [0, 1]")
        self.function = function
        self.shift = shift
        self.start_range = start_range
        self.scaled = scaled
        self._turn = every if function == _EVERY else (function,)
        units = [_typical(classical(name, dim), dim, shift) if scaled else 1.0 for name in self._turn]
        self._units = torch.tensor(units, dtype=torch.float64)

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> ShiftedFunctions:
        """The functions with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        optimum = self.shift * _uniform(self._key(ids), self.dim, 0)
        turns = [i % len(self._turn) for i in ids]
        return ShiftedFunctions(
            [self._turn[turn] for turn in turns],
            optimum.to(device, dtype),
            unit=self._units[turns].to(device, dtype),
        )

    def start(
        self,
        ids: tuple[int, ...],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Starting points (P, d), keyed by seed and id."""
        key = Key.start(seed, self._checked(ids))
        return (self.start_range * _uniform(key, self.dim, START_STREAM)).to(device, dtype)


def _typical(function: Function, dim: int, shift: float) -> float:
    """The mean value at random points of the domain, over random optima."""
    key = Key.start(PROBLEM_SEED, torch.arange(_POINTS))
    away = _uniform(key, dim, 1) - shift * _uniform(key, dim, 2)
    half = (function.bounds.high - function.bounds.low) / 2
    return float(function.excess(function.optimum + half * away).mean())


def _uniform(key: Key, n: int, stream: int) -> Tensor:
    """Uniform draws from (-1, 1), (B, n) float64."""
    return (2 * integers(key, _PARTS, n, stream).double() + 1) / _PARTS - 1
