"""A user's own function, by name, from several starting points."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from zoracle.blackboxes.function import load_callable
from zoracle.errors import InputError
from zoracle.keyed import START_STREAM, normal
from zoracle.objectives.base import Bounds
from zoracle.objectives.callable import CallableObjective
from zoracle.objectives.transform import Rescaled
from zoracle.tasks.base import Task, TaskDefaults
from zoracle.types import Key

#: Starting points in each split.
_STARTS = 100
_FIRST = {"test": 0, "valid": _STARTS, "train": 2 * _STARTS}


class GivenFunction(Task):
    r"""One function of the user; a problem is a starting point of it, told by its id.

    Optimizers see y = x / scale, clipped to the bounds, and start at y_0 = x_0 / scale + spread N(0, I),
    keyed by seed and id. All splits are of the same function, from other starts (with ``spread=0`` from the same one,
    along other directions): settings that are tuned on it suit this function, and say nothing of another.

    Args:
        function: module:function or my_file.py:function, of NumPy arrays.
        dim: dimension d.
        x0: value of every coordinate at the start.
        spread: standard deviation of starts, in units of the scale.
        low: lowest value of a coordinate; None where there is none.
        high: highest value.
        scale: typical change of a coordinate.
        vectorized: whether it takes a batch (N, d) of points; else one point (d,).

    Raises:
        InputError: the function cannot be imported, or a number is out of range.
    """

    recheck = True
    measures_noise = True

    def __init__(
        self,
        *,
        function: str,
        dim: int,
        x0: float = 0.0,
        spread: float = 0.0,
        low: float | None = None,
        high: float | None = None,
        scale: float = 1.0,
        vectorized: bool = False,
    ) -> None:
        if dim < 1:
            raise InputError(f"dim is {dim}; expected at least 1 coordinate")
        for name, value in (("x0", x0), ("spread", spread)):
            if not math.isfinite(value):
                raise InputError(f"{name} is {value}; expected a finite number")
        if not 0 < scale < math.inf:
            raise InputError(f"scale is {scale}; expected a positive number")
        bounds = (-math.inf if low is None else low, math.inf if high is None else high)
        if not bounds[0] < bounds[1]:
            raise InputError(f"bounds are {bounds}; expected low < high")
        if not bounds[0] <= x0 <= bounds[1]:
            raise InputError(f"x0 is {x0}, outside the bounds {bounds}; start within them")
        self._f = load_callable(function)
        where, _, attribute = function.rpartition(":")
        self.name = attribute
        self.file = Path(where) if where.endswith(".py") else None
        self.function, self.dim, self.x0, self.spread = function, dim, x0, spread
        self.low, self.high, self.scale, self.vectorized = low, high, scale, vectorized
        self._bounds = None if low is None and high is None else Bounds(*bounds)
        self.defaults = TaskDefaults(problems=1)

    def ids(self, split: str) -> tuple[int, ...]:
        """The starts of a split."""
        self.check_split(split)
        return tuple(range(_FIRST[split], _FIRST[split] + _STARTS))

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Rescaled:
        """The function from these starts, in units of the scale.

        Raises:
            InputError: there is no such start.
        """
        self._check(ids)
        inner = CallableObjective(self._f, self.dim, len(ids), vectorized=self.vectorized, framework="numpy")
        return Rescaled(inner, scale=self.scale, bounds=self._bounds)

    def start(
        self,
        ids: tuple[int, ...],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Starting points y (P, d), keyed by seed and id."""
        self._check(ids)
        drawn = normal(Key.start(seed, torch.tensor(ids, dtype=torch.int64)), (self.dim,), START_STREAM, dtype)
        y = self.x0 / self.scale + self.spread * drawn
        if self._bounds is not None:
            y = y.clamp(self._bounds.low / self.scale, self._bounds.high / self.scale)
        return y.to(device)

    def _check(self, ids: tuple[int, ...]) -> None:
        if unknown := [i for i in ids if not 0 <= i < len(_FIRST) * _STARTS]:
            raise InputError(f"{self.name} has no start {unknown[0]}; expected 0 .. {len(_FIRST) * _STARTS - 1}")
