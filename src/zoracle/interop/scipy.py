"""zoracle's optimizers as a ``method`` of ``scipy.optimize.minimize`` (extra ``scipy``)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoracle.api import minimize
from zoracle.errors import InputError, require
from zoracle.optimizers.base import Optimizer
from zoracle.rollout import Step
from zoracle.types import StopReason

require("scipy", "scipy")

from scipy.optimize import Bounds, OptimizeResult  # noqa: E402

_MESSAGES = {
    StopReason.BUDGET: "the budget is spent",
    StopReason.TARGET: "the target is reached",
    StopReason.NON_FINITE: "every value of a step was NaN or infinite",
}


def zeroth_order(
    fun: Callable[..., Any],
    x0: np.ndarray,
    args: tuple[Any, ...] = (),
    *,
    budget: int | None = None,
    optimizer: str | Path | Optimizer[Any, Any] = "zo-lstm",
    scale: float = 1.0,
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
        scale: by how much a coordinate typically has to change, the unit in which optimizers step.
        target: stop at this value or a lower one.
        seed: keys the random directions.
        bounds: the same (lowest, highest) for every coordinate, as pairs or as ``scipy.optimize.Bounds``.
        callback: is given the best point so far after each step, or an ``intermediate_result``; ends the run by
            raising ``StopIteration``.
        jac: not used, as ``hess`` and ``hessp``; a warning says so.
        hess: not used.
        hessp: not used.
        constraints: there can be none but bounds.
        tol: there can be none: nothing here converges to a tolerance that could be seen. Give a ``target``.
        settings: settings of the optimizer (``num_directions=50``).

    Returns:
        ``x`` and ``fun``, the best point evaluated and its value; ``nfev`` and ``nit``, calls of ``fun`` and steps;
        ``success``, which is False where the target was not reached, the callback ended the run, or no value was
        finite; ``status``, a :class:`StopReason`, or 99 where the callback ended the run; ``message``.

    Raises:
        InputError: what was given cannot be used; BlackBoxError where ``fun`` failed.
    """
    if budget is None:
        raise InputError('there is no budget; give the calls of fun that may be made, options={"budget": 2000} say')
    if tol is not None:
        raise InputError(f"tol is {tol}; expected none: the run ends with its budget, or at a target (an option)")
    if not (constraints is None or (isinstance(constraints, Sequence) and not constraints)):
        raise InputError("constraints were given; expected none, bounds are all that this method keeps")
    for name, given in (("jac", jac), ("hess", hess), ("hessp", hessp)):
        if callable(given) or given is True:
            warnings.warn(f"zeroth_order does not use derivatives ({name})", RuntimeWarning, stacklevel=3)
    start = np.asarray(x0)
    if start.ndim != 1 or start.dtype.kind not in "fiu":
        raise InputError(f"x0 is {start.dtype} of shape {start.shape}; expected one point of real numbers (d,)")
    start = start.astype(np.float64)
    limits = _uniform(bounds, start)
    show = _shown(callback)
    last = OptimizeResult(x=start.copy(), fun=np.inf, nfev=0, nit=0)

    def values(points: np.ndarray) -> np.ndarray:
        return np.array([_number(fun(point.copy(), *args)) for point in points])

    def after(step: Step) -> None:
        record = step.trajectory
        last.update(
            x=(record.best_point[0] * scale).numpy().clip(*(limits or (-np.inf, np.inf))),
            fun=float(record.best_loss[0]),
            nfev=int(record.total_queries[0]),
            nit=int(record.steps[0]),
        )
        if show is not None:
            show(OptimizeResult(last))

    try:
        found = minimize(
            values,
            start,
            budget=budget,
            optimizer=optimizer,
            bounds=limits,
            scale=scale,
            target=target,
            seed=seed,
            framework="numpy",
            on_step=after,
            **settings,
        )
    except StopIteration:
        return OptimizeResult(last, success=False, status=99, message="the callback raised StopIteration")
    assert isinstance(found.reason, StopReason)
    reached = found.reason is StopReason.TARGET or (found.reason is StopReason.BUDGET and target is None)
    return OptimizeResult(
        x=found.x,
        fun=found.value,
        nfev=found.queries,
        nit=int(found.trajectory.steps[0]),
        success=reached,
        status=int(found.reason),
        message=_MESSAGES[found.reason],
    )


def _shown(callback: Callable[..., Any] | None) -> Callable[[OptimizeResult], Any] | None:
    """A callback of either form that SciPy knows, told apart as it does; only its own methods get them wrapped."""
    if callback is None:
        return None
    if set(inspect.signature(callback).parameters) == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(np.copy(result.x))


def _number(value: Any) -> float:
    """What ``fun`` returned; SciPy takes arrays of one number as well."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise ValueError(f"fun returned {array.dtype} of shape {array.shape}; expected one number")
    return float(array.reshape(()))


def _uniform(bounds: Any, start: np.ndarray) -> tuple[float, float] | None:
    """One (low, high) for all coordinates, from what SciPy takes as bounds."""
    if bounds is None:
        return None
    try:
        if isinstance(bounds, Bounds):
            low, high = (np.broadcast_to(limit, start.shape).astype(float) for limit in (bounds.lb, bounds.ub))
        else:
            pairs = [(-np.inf if a is None else a, np.inf if b is None else b) for a, b in bounds]
            low, high = np.array(pairs, dtype=float).T
    except (TypeError, ValueError):
        raise InputError(f"bounds are {bounds!r}; expected a pair (low, high) for each coordinate, or Bounds") from None
    if low.shape != start.shape:
        raise InputError(
            f"there are bounds of {low.size} coordinates, and x0 has {start.size}; expected a pair for each"
        )
    if (low != low[0]).any() or (high != high[0]).any():
        raise InputError(
            "the bounds differ between coordinates; expected the same (low, high) for all, so rescale them"
        )
    return None if np.isinf(low[0]) and np.isinf(high[0]) else (float(low[0]), float(high[0]))
