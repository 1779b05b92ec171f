"""The classical test functions, moved at random."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.keyed import START_STREAM, integers
from zoracle.objectives.functions import ClassicalFunction, classical
from zoracle.objectives.shifted import ShiftedFunctions
from zoracle.tasks.synthetic import DrawnTask
from zoracle.types import Key

_EVERY = "all"
_PARTS = 2**31


class FunctionsTask(DrawnTask):
    """Classical test functions, their usual bounds scaled to [-1, 1], with the optimum at a random place.

    With "all" the functions take turns by id, in this order: sphere, rosenbrock, rastrigin, ackley, styblinski-tang,
    levy. All of them are smooth, but for a cusp of Ackley's at its optimum. The last four have many local minima,
    and a method that follows a gradient ends in one of them.

    One domain for all, as in BBOB, gives every problem the same unit: half the width of the usual bounds. In units of
    their own the widest bounds are 6 times the narrowest, and neither one step size nor one smoothing parameter could
    suit them all. Values are not scaled: they are those of the function as it is usually written, less the
    minimum, and differ by orders of magnitude from function to function.

    Args:
        function: one of the names above, or "all".
        dim: dimension d, at least 2 with Rosenbrock's.
        shift: optima are drawn uniformly from [-shift, shift]^d; 0.8 in BBOB.
        start_range: points start uniformly in [-start_range, start_range]^d, keyed by seed and id.

    Raises:
        InputError: a setting out of its range.

    References:
        Hansen, Finck, Ros and Auger, "Real-Parameter Black-Box Optimization Benchmarking 2009: Noiseless Functions
        Definitions", INRIA RR-6829, 2009.
    """

    name = "functions"

    def __init__(self, *, function: str = _EVERY, dim: int = 100, shift: float = 0.8, start_range: float = 1.0) -> None:
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
        self._turn = every if function == _EVERY else (function,)
        for name in self._turn:
            classical(name, dim)

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> ShiftedFunctions:
        """The functions with these ids, in this order.

        Raises:
            InputError: an id below 0.
        """
        optimum = self.shift * _uniform(self._key(ids), self.dim, 0)
        return ShiftedFunctions([self._turn[i % len(self._turn)] for i in ids], optimum.to(device, dtype))

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


def _uniform(key: Key, n: int, stream: int) -> Tensor:
    """Uniform draws from (-1, 1), (B, n) float64."""
    return (2 * integers(key, _PARTS, n, stream).double() + 1) / _PARTS - 1
