"""Minimise a function that can only be evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from zoracle.api.inputs import Array, affordable, as_ids, framework_of, real, whole
from zoracle.api.loading import chosen_optimizer
from zoracle.api.points import Points, as_limits, as_points, as_scale
from zoracle.api.solutions import Progress, Solution, reasons
from zoracle.api.watching import Account, all_of, calls_back, doubts, limited, resolution, shown
from zoracle.calling.frameworks import Framework
from zoracle.errors import InputError
from zoracle.objectives.base import Objective
from zoracle.objectives.callable import CallableObjective, OnError
from zoracle.objectives.transform import Rescaled
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Use
from zoracle.rollout import Step
from zoracle.rollout.oracle import CHUNK_NUMBERS, Oracle
from zoracle.rollout.resume import resumable_rollout
from zoracle.storage.fingerprint import optimizer_config, release_series
from zoracle.storage.hashing import tensor_hash
from zoracle.types import Choice, Purpose, StopReason


def minimize(
    f: Callable[[Any], Any] | Objective,
    x0: Array | Sequence[Any] | float,
    *,
    budget: int,
    optimizer: str | Path | Optimizer[Any, Any] = "portfolio",
    bounds: Any = None,
    scale: float | Array | Sequence[Any] = 1.0,
    shape: Sequence[int] | None = None,
    target: float | None = None,
    vectorized: bool = True,
    workers: int | Executor = 1,
    on_error: OnError = "raise",
    retries: int = 0,
    time_limit: float | None = None,
    callback: Callable[[Progress], Any] | None = None,
    progress: bool = False,
    seed: int = 0,
    ids: Sequence[int] | Array | None = None,
    framework: Literal["auto", "numpy", "torch"] = "auto",
    checkpoint: Path | str | None = None,
    on_step: Callable[[Step], StopReason | None] | None = None,
    **settings: Any,
) -> Solution:
    """Minimise a function that can only be evaluated.

    Args:
        f: function of a batch of points (N, d) that returns their values (N,); with ``vectorized=False`` of one point
            that returns its value; or an :class:`Objective` of B problems. NaN and infinite values are counted and
            otherwise ignored; if all values of the first step are, that is an error.
        x0: starting point (d,), or (B, d) for B runs at once; NumPy or torch, float32 or float64. An array with three
            or more axes is one point, and f takes points of that shape.
        budget: maximum number of points evaluated in each run.
        optimizer: a name, a folder, or an optimizer. "portfolio" needs no setting: it measures the noise of f and
            divides the budget between a quasi-Newton method and an evolution strategy according to their progress.
        bounds: (low, high), each a number or an array of x0's shape; or, as in SciPy, a pair for each coordinate or a
            ``scipy.optimize.Bounds``. None or infinity means no bound. f is never evaluated outside.
        scale: typical change of a coordinate, the unit of the optimizers' steps: a number, or an array of x0's shape.
            "portfolio" and "zo-lstm" start from it and adapt.
        shape: shape of one point, if x0 is ambiguous: with ``shape=(28, 28)`` an x0 of that shape is one point.
        target: stop at this value or lower.
        vectorized: whether f takes a batch of points.
        workers: evaluate in this many processes, or in an executor of ``concurrent.futures`` (threads, or a pool of
            Dask, Ray or MPI). Processes must be able to import f.
        on_error: what to do if f raises: "raise" (a BlackBoxError), or "nan", which counts as a lost value.
        retries: number of times to repeat a call that raised. Repeats are not counted as queries.
        time_limit: seconds after which no further step starts.
        callback: called with a :class:`~zoracle.api.solutions.Progress` after each step; ends the run by returning
            True or raising StopIteration.
        progress: show a progress bar on a terminal.
        seed: seed of the random directions.
        ids: (B,) ids of the runs, which also key the random numbers; 0 .. B - 1 by default. A run with the same id
            gives the same result alone and among others.
        framework: arrays passed to f; "auto" uses the type of x0.
        checkpoint: file to which the run is saved and from which it resumes, also after f failed. It identifies
            everything that determines the numbers except f itself; on resuming, one point is evaluated again, with a
            warning if f has changed.
        on_step: called with every :class:`~zoracle.rollout.Step` and its tensors; may return a reason to stop.
        settings: settings of the optimizer (``num_directions=50``, ``lr=0.01``).

    Returns:
        The best evaluated point, its value, the number of queries and why the run stopped. Ctrl-C returns the best
        point so far.

    Raises:
        InputError: an argument cannot be used; BlackBoxError if f failed.

    Examples:
        >>> solution = minimize(lambda x: (x**2).sum(1), torch.ones(20), budget=2100, optimizer="zo-sgd", lr=0.1)
        >>> solution.queries, solution.reason.name, solution.value < 1e-3
        (2100, 'BUDGET', True)
        >>> minimize(lambda x: x[0] ** 2 + x[1] ** 2, [1.0, 2.0], budget=210, vectorized=False).reason.name
        'BUDGET'
    """
    began = time.monotonic()
    points = as_points(x0, shape, vectorized=vectorized)
    chosen = chosen_optimizer(optimizer, settings, Use(dim=points.start.shape[1]), minimize)
    if not isinstance(optimizer, Optimizer) and "num_directions" not in settings:
        chosen = chosen.planned(points.start.shape[1], whole("budget", budget))
    budget = affordable(budget, chosen)
    limits, scale = as_limits(bounds, points), as_scale(scale, points)
    seed = whole("seed", seed)
    target = None if target is None else real("target", target)
    key = as_ids(ids, points.start.shape[0])
    if time_limit is not None and not real("time_limit", time_limit) > 0:
        raise InputError(f"time_limit is {time_limit}; expected a positive number of seconds")
    given = {"vectorized": vectorized, "workers": workers, "on_error": on_error, "retries": retries}
    objective = _objective(f, points, framework_of(x0) if framework == "auto" else framework, given)
    if chosen.order and not objective.differentiable:
        raise InputError(
            f"optimizer {type(chosen).__name__} needs true gradients, but f has only values; expected another one, "
            "such as portfolio"
        )
    inner = Rescaled(objective, scale=scale, bounds=limits)

    fingerprint = {
        "call": "minimize",
        "zoracle": release_series(),
        "x0_sha256": tensor_hash(points.start),
        "dtype": str(points.start.dtype),
        "optimizer": optimizer_config(chosen),
        "budget": budget,
        "bounds": None if limits is None else [_plain(limit) for limit in limits],
        "scale": _plain(scale),
        "target": None if target is None else float(target),
        "seed": seed,
        "ids": key.tolist(),
    }

    # Differences over a distance hide the noise that those at mu later drown in.
    measured = chosen.follows_noise or (chosen.goes_by_mu and bool(getattr(chosen.config, "reach", 0.0)))

    account = Account(chosen, points.start.shape[0])

    def so_far(step: Step) -> Progress:
        record = step.trajectory
        return Progress(
            points.shaped(inner.original(record.best_point)),
            points.per_problem(record.best_loss),
            points.per_problem(record.total_queries),
            points.per_problem(record.steps),
            time.monotonic() - began,
        )

    with objective if isinstance(objective, CallableObjective) else nullcontext(), shown(progress, budget) as bar:
        oracle = Oracle(inner, budget=budget, chunk=_chunk(inner))
        trajectory = resumable_rollout(
            chosen,
            oracle,
            points.start / scale,
            budget // chosen.queries_per_step,
            path=None if checkpoint is None else Path(checkpoint),
            fingerprint=fingerprint,
            seed=seed,
            problem=key,
            target=target,
            measure_noise=measured,
            watch_flat=not measured,
            watch_steep=not measured,
            final=Purpose.OPTIMISE,
            finite_start=True,
            recheck=True,
            on_interrupt="stop",
            on_step=all_of(
                # The others measure the noise first, which tells flatness apart from values that are alike by symmetry.
                None if measured else resolution(points.start.dtype),
                bar,
                account,
                on_step,
                None if callback is None else calls_back(callback, so_far),
                None if time_limit is None else limited(time_limit),
            ),
        )
    doubts(trajectory)
    why, picked = reasons(trajectory, has_budget=True), [Choice(int(choice)) for choice in trajectory.chosen]
    return Solution(
        points.shaped(inner.original(trajectory.best_point)),
        points.per_problem(trajectory.best_loss),
        points.per_problem(trajectory.total_queries),
        why[0] if points.single else why,
        points.shaped(inner.original(trajectory.final_point)),
        trajectory,
        points.per_problem(oracle.lost),
        points.per_problem(trajectory.noise),
        points.per_problem(trajectory.mu),
        points.per_problem(trajectory.signal),
        picked[0] if points.single else picked,
        points.per_problem(trajectory.non_finite / trajectory.total_queries.clamp(min=1)),
        {name: points.per_problem(values) for name, values in account.found.items()},
    )


def _objective(f: Any, points: Points, framework: Framework, given: dict[str, Any]) -> Objective:
    """The objective: the one given, or one that calls the given function."""
    b, d = points.start.shape
    if not isinstance(f, Objective):
        return CallableObjective(f, d, b, shape=points.shape, framework=framework, **given)
    usual = {"vectorized": True, "workers": 1, "on_error": "raise", "retries": 0}
    if others := [name for name, value in given.items() if value != usual[name]]:
        raise InputError(f"{others[0]} was given, but f is an {type(f).__name__} and not a function; leave it out")
    if (f.num_problems, f.dim) != (b, d):
        raise InputError(
            f"x0 has shape {tuple(points.start.shape)}; expected ({f.num_problems}, {f.dim}), "
            "one row per problem of the objective"
        )
    return f


def _chunk(objective: Rescaled) -> int | None:
    """Points in one call: enough for every worker, also where a point is large."""
    inner = objective.inner
    if not isinstance(inner, CallableObjective) or inner.slots == 1:
        return None
    return max(CHUNK_NUMBERS // objective.width, 4 * inner.slots)


def _plain(value: float | Tensor) -> float | str:
    """A number, or the hash of one for each coordinate."""
    return tensor_hash(value) if isinstance(value, Tensor) else float(value)
