"""zoracle's optimizers as a ``method`` of ``scipy.optimize.minimize`` (extra ``scipy``)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from zoracle.api import minimize
from zoracle.api.solutions import Progress
from zoracle.errors import InputError, require
from zoracle.optimizers.base import Optimizer
from zoracle.types import StopReason

require("scipy", "scipy")

from scipy.optimize import OptimizeResult  # noqa: E402

_MESSAGES = {
    StopReason.BUDGET: "the budget is spent",
    StopReason.TARGET: "the target is reached",
    StopReason.NON_FINITE: "every value of a step was NaN or infinite",
    StopReason.CALLBACK: "the callback ended the run",
    StopReason.INTERRUPTED: "interrupted",
    StopReason.TIME: "the time limit is reached",
}


def zeroth_order(
    fun: Callable[..., Any],
    x0: np.ndarray,
    args: tuple[Any, ...] = (),
    *,
    budget: int | None = None,
    optimizer: str | Path | Optimizer[Any, Any] = "zo-lstm",
    scale: float | np.ndarray = 1.0,
    workers: int | Executor = 1,
    target: float | None = None,
    seed: int = 0,
    bounds: Any = None,
    callback: Callable[..., Any] | None = None,
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    constraints: Any = (),
    tol: float | None = None,
    **settings: Any,
) -> OptimizeResult:
    """Minimise by one of zoracle's optimizers: ``scipy.optimize.minimize(fun, x0, method=zeroth_order, options=...)``.

    Everything from ``budget`` to ``seed``, and ``settings``, is given as an option; SciPy fills in the others.

    Args:
        fun: takes one point (d,) and returns its value, as everywhere in SciPy.
        x0: where to start, (d,).
        args: further arguments of ``fun``.
        budget: calls of ``fun``; never passed. It has to be given.
        optimizer: a name, a folder, or an optimizer; "zo-lstm" means "zo-lstm-universal".
        scale: by how much a coordinate typically has to change, the unit in which optimizers step: a number, or (d,).
        target: stop at this value or a lower one.
        seed: keys the random directions.
        bounds: pairs (lowest, highest), or ``scipy.optimize.Bounds``.
        callback: is given the best point so far after each step, or an ``intermediate_result``; ends the run by
            returning True or raising ``StopIteration``.
        workers: evaluate in so many processes, or in an executor of ``concurrent.futures``.
        jac: not used, as ``hess`` and ``hessp``; a warning says so.
        hess: not used.
        hessp: not used.
        constraints: there can be none but bounds.
        tol: there can be none: nothing here converges to a tolerance that could be seen. Give a ``target``.
        settings: settings of the optimizer (``num_directions=50``).

    Returns:
        ``x`` and ``fun``, the best point evaluated and its value; ``nfev`` and ``nit``, calls of ``fun`` and steps;
        ``success``, which is False where the target was not reached, the run was ended early, or no value was finite;
        ``status``, a :class:`StopReason`, or 99 where the callback ended the run, as in SciPy; ``message``.

    Raises:
        InputError: what was given cannot be used; BlackBoxError where ``fun`` failed.
    """
    if budget is None:
        raise InputError(
            'the option budget is missing; pass the maximum number of calls of fun, such as options={"budget": 2000}'
        )
    if tol is not None:
        raise InputError(
            f"tol is {tol}; expected None: the run ends with its budget, or at the value of the option target"
        )
    if not (constraints is None or (isinstance(constraints, Sequence) and not constraints)):
        raise InputError("constraints were given; expected none, this method supports bounds only")
    for name, given in (("jac", jac), ("hess", hess), ("hessp", hessp)):
        if callable(given) or given is True:
            warnings.warn(f"zeroth_order does not use derivatives ({name})", RuntimeWarning, stacklevel=3)
    start = np.asarray(x0)
    if start.ndim != 1 or start.dtype.kind not in "fiu":
        raise InputError(f"x0 is {start.dtype} of shape {start.shape}; expected one point of real numbers (d,)")
    show = _shown(callback)
    found = minimize(
        lambda point: _number(fun(point, *args)),
        start.astype(np.float64),
        budget=budget,
        optimizer=optimizer,
        bounds=bounds,
        scale=scale,
        target=target,
        vectorized=False,
        workers=workers,
        seed=seed,
        framework="numpy",
        callback=show,
        **settings,
    )
    assert isinstance(found.reason, StopReason)
    reached = found.reason is StopReason.TARGET or (found.reason is StopReason.BUDGET and target is None)
    return OptimizeResult(
        x=found.x,
        fun=found.value,
        nfev=found.queries,
        nit=int(found.trajectory.steps[0]),
        success=reached,
        status=99 if found.reason is StopReason.CALLBACK else int(found.reason),
        message=_MESSAGES[found.reason],
    )


def _shown(callback: Callable[..., Any] | None) -> Callable[[Progress], Any] | None:
    """A callback of either form that SciPy knows, distinguished as it does; only its own methods get them wrapped."""
    if callback is None:
        return None
    named = set(inspect.signature(callback).parameters) == {"intermediate_result"}

    def show(now: Progress) -> Any:
        if not named:
            return callback(np.copy(now.x))
        result = OptimizeResult(x=np.copy(now.x), fun=now.value, nfev=now.queries, nit=now.steps)
        return callback(intermediate_result=result)

    return show


def _number(value: Any) -> float:
    """What ``fun`` returned; SciPy takes arrays of one number as well."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise ValueError(f"fun returned {array.dtype} of shape {array.shape}; expected one number")
    return float(array.reshape(()))
