"""A user's function as an objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from zoracle.calling import frameworks
from zoracle.calling.calls import MOST_WORKERS, Calls, Failure
from zoracle.calling.frameworks import Framework
from zoracle.errors import BlackBoxError, FailedCallWarning, InputError
from zoracle.objectives.base import Bounds, Objective
from zoracle.types import Evaluation

OnError = Literal["raise", "nan"]
_ONE_POINT = " (if f takes one point, give vectorized=False)"


class CallableObjective(Objective):
    """A function of points, minimised from P starting points. A context manager where it starts processes.

    Args:
        f: points (N, *shape) to losses (N,), or with ``vectorized=False`` one point (*shape) to its loss. It is never
            called to probe it, and gets a copy of the points that it may overwrite.
        dim: dimension d.
        num_problems: P, how many runs share it.
        shape: of a point, with d numbers; (d,) by default.
        vectorized: whether ``f`` takes a batch of points.
        workers: evaluate in so many processes at once, or in an executor. A batch that ``f`` takes is cut into as
            many parts as there are workers.
        on_error: "raise" ends the run where ``f`` raises; "nan" takes NaN as the loss of the points of that call.
        retries: further attempts before that; they are not counted as queries, since nothing was answered.
        framework: what the points are given as, "numpy" or "torch"; "auto" reads it from the function's code
            (:func:`zoracle.calling.frameworks.choose`).
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
        shape: tuple[int, ...] | None = None,
        vectorized: bool = True,
        workers: int | Executor = 1,
        on_error: OnError = "raise",
        retries: int = 0,
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
        if on_error not in ("raise", "nan"):
            raise InputError(f"on_error is {on_error!r}; expected raise or nan")
        if isinstance(workers, bool) or not isinstance(workers, int | Executor) or workers == 0:
            raise InputError(
                f"workers is {workers!r}; expected a number of processes, or an executor of concurrent.futures"
            )
        if isinstance(workers, int) and not 1 <= workers <= MOST_WORKERS:
            raise InputError(f"workers is {workers}; expected 1 .. {MOST_WORKERS} processes, for example one per core")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise InputError(f"retries is {retries!r}; expected an integer of at least 0")
        self.shape = (dim,) if shape is None else tuple(shape)
        if prod(self.shape) != dim:
            raise InputError(f"shape is {self.shape}, which has {prod(self.shape)} coordinates; expected {dim}")
        self.framework = frameworks.choose(f, framework)
        self.f = f
        self.dim = dim
        self.num_problems = num_problems
        self.vectorized = vectorized
        self.on_error = on_error
        self.bounds = None if bounds is None else Bounds(*bounds)
        self.scale = scale
        self.differentiable = gradient is not None
        self._gradient_function = gradient
        self._calls = Calls(f, workers, retries)
        self._told = False

    @property
    def slots(self) -> int:
        """How many calls run at once."""
        return self._calls.slots

    def __enter__(self) -> CallableObjective:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._calls.close(now=kind is not None)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        shaped = points.detach().reshape(-1, *self.shape)
        if not self.vectorized:
            parts = list(torch.split(shaped, 1))
            given = [frameworks.copied(part[0], self.framework) for part in parts]
        else:
            parts = list(torch.split(shaped, -(-len(shaped) // self.slots))) if len(shaped) else [shaped]
            given = [frameworks.copied(part, self.framework) for part in parts]
        answers = self._calls(given)
        return Evaluation(torch.cat([self._read(*one, points) for one in zip(parts, given, answers, strict=True)]))

    def _read(self, part: Tensor, given: Any, answer: Any, points: Tensor) -> Tensor:
        """The losses (n,) that a call answered."""
        n = part.shape[0]
        if isinstance(answer, Failure):
            if self.on_error == "raise":
                hint = _ONE_POINT if self.vectorized else ""
                raise BlackBoxError(
                    f"the function raised {answer.text} when given a {frameworks.describe(given)}{hint}"
                ) from answer.error
            if not self._told:  # once a run
                self._told = True
                warnings.warn(f"the function raised {answer.text}; taken as NaN", FailedCallWarning, stacklevel=2)
            return points.new_full((n,), torch.nan)
        loss = frameworks.as_tensor(answer, points, "the function")
        if not self.vectorized:
            if loss.numel() != 1:
                raise BlackBoxError(
                    f"the function returned shape {tuple(loss.shape)} for a point of shape {self.shape}; "
                    "expected one number (if f takes a batch of points, call with vectorized=True, or --vectorized)"
                )
            return loss.reshape(1)
        _check_shape("the function", loss, part, (n,), _ONE_POINT)
        return loss

    def _gradient(self, points: Tensor, problem: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        assert self._gradient_function is not None  # or the base class would have refused
        gradient = frameworks.call(self._gradient_function, points, self.framework, "the gradient")
        _check_shape("the gradient", gradient, points, points.shape)
        return self._evaluate(points, problem, step).loss, gradient


def _check_shape(what: str, result: Tensor, points: Tensor, expected: tuple[int, ...], hint: str = "") -> None:
    if result.shape != expected:
        raise BlackBoxError(
            f"{what} returned shape {tuple(result.shape)} for points {tuple(points.shape)}; "
            f"expected {tuple(expected)}, one row per point{hint}"
        )
