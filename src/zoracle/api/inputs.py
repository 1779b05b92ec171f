"""Arguments of the Python interface, checked and converted to tensors before the first query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoracle.errors import BudgetError, InputError, one_line
from zoracle.objectives.threat import is_amount
from zoracle.optimizers.base import Optimizer
from zoracle.settings import beyond

Array = np.ndarray[Any, Any] | Tensor


def as_tensor(name: str, values: Any) -> Tensor:
    """A tensor from a tensor, or from anything that NumPy accepts."""
    if isinstance(values, Tensor):
        if values.layout is not torch.strided or values.is_meta:
            raise InputError(f"{name} are a sparse tensor or one without data; expected a dense tensor")
        return values.detach()
    try:
        # Copied: a view of an array that is read-only, or changed later, must not become ours.
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be read as numbers ({one_line(error)}); expected an array") from error


def framework_of(given: Any) -> Literal["numpy", "torch"]:
    """The framework of an array, "numpy" for anything else."""
    return "torch" if isinstance(given, Tensor) else "numpy"


def check_dtype(name: str, x: Tensor) -> None:
    """Raise an InputError if the type is not float32 or float64."""
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name} are {x.dtype}; expected float32 or float64")


def as_ids(ids: Sequence[int] | Array | None, number: int) -> Tensor:
    """Ids (B,) int64 on the CPU; 0 .. B - 1 by default."""
    if ids is None:
        return torch.arange(number)
    key = as_tensor("ids", ids)
    if key.shape != (number,) or not is_whole(key):
        raise InputError(
            f"ids are {key.dtype} of shape {tuple(key.shape)}; expected {number} integers, one per problem"
        )
    return key.to("cpu", torch.int64)


def whole(name: str, value: Any) -> int:
    """An integer."""
    try:
        number: int = index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}; expected an integer") from None
    if wrong := beyond(number, name):
        raise InputError(wrong)
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
    """A budget that covers at least one step of the optimizer and the given number of points before it.

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
    """A number of at least 0, as a JSON number."""
    if not is_amount(value):
        raise InputError(f"{name} is {value!r}; expected a number of at least 0")
    return float(value)


def is_whole(x: Tensor) -> bool:
    """Whether a tensor holds integers."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
