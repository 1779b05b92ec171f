"""What callers of the Python interface give, checked and turned into tensors before anything is queried."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import index
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoracle.errors import BudgetError, InputError
from zoracle.frameworks import one_line
from zoracle.objectives.base import Bounds
from zoracle.objectives.threat import is_amount
from zoracle.optimizers.base import Optimizer

Array = np.ndarray[Any, Any] | Tensor

#: Whole numbers lie below this, and not below minus this: they are kept in tensors.
_WHOLE = 2**63


def as_tensor(name: str, values: Any) -> Tensor:
    """A tensor of what is one, or of what NumPy takes."""
    if isinstance(values, Tensor):
        if values.layout is not torch.strided or values.is_meta:
            raise InputError(f"{name} are a tensor that is sparse or without data; expected an ordinary one")
        return values.detach()
    try:
        # Copied: a view of an array that is read-only, or changed later, must not become ours.
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be read as numbers ({one_line(error)}); expected an array") from error


def framework_of(given: Any) -> Literal["numpy", "torch"]:
    """The framework that something given belongs to; NumPy for what is neither."""
    return "torch" if isinstance(given, Tensor) else "numpy"


def check_dtype(name: str, x: Tensor) -> None:
    """Raise an InputError where the type is none to optimise in."""
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name} are {x.dtype}; expected float32 or float64")


def as_points(x0: Any) -> tuple[Tensor, bool, Callable[[Tensor], Any]]:
    """Starting points (B, d), whether there was one without a B, and what turns results into the type of x0."""
    device = x0.device if isinstance(x0, Tensor) else None
    x = as_tensor("x0", x0)
    if _is_whole(x):
        x = x.to(torch.float64 if device is None else torch.float32)
    check_dtype("values of x0", x)
    if x.ndim not in (1, 2) or x.numel() == 0:
        raise InputError(f"x0 has shape {tuple(x.shape)}; expected (d,), or (B, d) for B runs")
    if not bool(x.isfinite().all()):
        raise InputError("x0 has values that are NaN or infinite; expected finite numbers")
    single = x.ndim == 1

    def to_user(value: Tensor) -> Any:
        return value.numpy() if device is None else value.to(device)

    return x.unsqueeze(0) if single else x, single, to_user


def as_limits(bounds: Any, start: Tensor) -> Bounds | None:
    """The bounds, which the starting points have to lie in."""
    if bounds is None:
        return None
    try:
        low, high = (float(limit) for limit in bounds)
    except (TypeError, ValueError):
        raise InputError(f"bounds are {bounds!r}; expected (low, high), two numbers for all coordinates") from None
    if not low < high:
        raise InputError(f"bounds are ({low:g}, {high:g}); expected (low, high) with low < high")
    lowest, highest = float(start.min()), float(start.max())
    if lowest < low or highest > high:
        raise InputError(
            f"x0 ranges over [{lowest:g}, {highest:g}], outside the bounds ({low:g}, {high:g}); start within them"
        )
    return Bounds(low, high)


def as_ids(ids: Sequence[int] | Array | None, number: int) -> Tensor:
    """Ids (B,) int64 on the CPU; 0 .. B - 1 where none are given."""
    if ids is None:
        return torch.arange(number)
    key = as_tensor("ids", ids)
    if key.shape != (number,) or not _is_whole(key):
        raise InputError(f"ids are {key.dtype} of shape {tuple(key.shape)}; expected {number} integers, one a problem")
    return key.to("cpu", torch.int64)


def whole(name: str, value: Any) -> int:
    """A whole number."""
    try:
        number: int = index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}; expected a whole number") from None
    if not -_WHOLE <= number < _WHOLE:
        raise InputError(f"{name} has {len(str(abs(number)))} digits; expected a whole number of 64 bits")
    return number


def real(name: str, value: Any) -> float:
    """A number that is not NaN."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise InputError(f"{name} is {value!r}; expected a number")
    return number


def affordable(budget: Any, optimizer: Optimizer[Any, Any], extra: int = 0) -> int:
    """A budget that pays for one step of the optimizer at least, and so many points before it.

    Raises:
        BudgetError: it does not.
    """
    number = whole("budget", budget)
    need = optimizer.queries_per_step + extra
    if number < need:
        before = f" and the look at its start {extra}" if extra else ""
        raise BudgetError(
            f"budget is {number} queries, and one step of this optimizer costs {need - extra}{before}; "
            f"give at least {need}, or fewer directions (num_directions)"
        )
    return number


def amount(name: str, value: Any) -> float:
    """A number of at least 0, as one that JSON knows."""
    if not is_amount(value):
        raise InputError(f"{name} is {value!r}; expected a number of at least 0")
    return float(value)


def _is_whole(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
