"""Calling a user's function with NumPy arrays or torch tensors, whichever it was written for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoracle.errors import BlackBoxError, InputError, failure

Framework = Literal["auto", "numpy", "torch"]


def choose(fn: Callable[..., Any], framework: Framework) -> Literal["numpy", "torch"]:
    """The framework to call a function with, found without calling it.

    "auto" reads what the function's code refers to: where it names numpy and not torch it gets arrays, otherwise
    tensors. A function that only uses methods which both have, such as ``(x**2).sum(1)``, works either way.

    Raises:
        InputError: not a callable, or no such framework.
    """
    if not callable(fn):
        raise InputError(f"a {type(fn).__name__} was given; expected a function of a batch")
    if framework not in ("auto", "numpy", "torch"):
        raise InputError(f"framework is {framework!r}; expected one of auto, numpy, torch")
    if framework != "auto":
        return framework
    named = _named_packages(fn)
    return "numpy" if "numpy" in named and "torch" not in named else "torch"


def call(fn: Callable[..., Any], inputs: Tensor, framework: Literal["numpy", "torch"], what: str) -> Tensor:
    """Call a function once with a copy of the inputs, which it may overwrite; its result as a tensor like them.

    Args:
        fn: takes an array or a tensor, returns an array, a tensor or a sequence of numbers.
        inputs: (N, ...).
        framework: what the function gets.
        what: what it is called in an error.

    Raises:
        BlackBoxError: the function raised, or its result holds no numbers.
    """
    return as_tensor(run(fn, inputs, framework, what), inputs, what)


def run(fn: Callable[..., Any], inputs: Tensor, framework: Literal["numpy", "torch"], what: str) -> Any:
    """As :func:`call`; the result as the function returned it.

    Raises:
        BlackBoxError: the function raised.
    """
    given = copied(inputs, framework)
    try:
        return fn(given)
    except BaseException as error:
        raise BlackBoxError(f"{what} raised {failure(error)} when given a {describe(given)}") from error


def copied(inputs: Tensor, framework: Literal["numpy", "torch"]) -> Any:
    """The inputs as a function gets them: a copy, so that one that works in place changes no point of an optimizer."""
    return inputs.detach().clone() if framework == "torch" else np.array(inputs.detach().cpu().numpy())


def as_tensor(result: Any, like: Tensor, what: str) -> Tensor:
    """A function's result as a detached tensor with the type and device of another.

    Raises:
        BlackBoxError: the result holds no real numbers.
    """
    try:
        tensor = result if isinstance(result, Tensor) else torch.as_tensor(np.asarray(result, order="C"))
    except BaseException as error:  # of somebody else's __array__, say
        raise BlackBoxError(
            f"{what} returned a {type(result).__name__}; expected numbers ({failure(error)})"
        ) from error
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise BlackBoxError(
            f"{what} returned a sparse or quantised tensor, or one without data; expected a dense tensor"
        )
    if tensor.is_complex():
        raise BlackBoxError(f"{what} returned complex numbers; expected real ones")
    return tensor.detach().to(like)


def describe(given: Any) -> str:
    """What a function was given, in words: "torch.float32 tensor of shape (4, 2)"."""
    kind = "tensor" if isinstance(given, Tensor) else "numpy array"
    return f"{given.dtype} {kind} of shape {tuple(given.shape)}"


def _named_packages(fn: Callable[..., Any]) -> set[str]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    original = fn
    if not inspect.isroutine(fn):
        fn = type(fn).__call__
    function = inspect.unwrap(getattr(fn, "__func__", fn))
    code = getattr(function, "__code__", None)
    if code is None:  # compiled: a ufunc, say
        return {str(getattr(owner, "__module__", "")).partition(".")[0] for owner in (original, type(original))}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    known = {**function.__globals__, **{name: cell.cell_contents for name, cell in cells if not _is_empty(cell)}}
    used = [known[name] for name in (*code.co_names, *code.co_freevars) if name in known]
    # Names imported inside the body are not globals; the import itself leaves the package's name in the code.
    named = {name.partition(".")[0] for name in code.co_names} & {"numpy", "torch"}
    for value in used:
        module = (
            value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) or type(value).__module__
        )
        named.add(str(module).partition(".")[0])
    return named


def _is_empty(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False
