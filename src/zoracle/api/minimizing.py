"""Minimise a function that can only be called."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from zoracle import __version__
from zoracle.api.loading import chosen_optimizer
from zoracle.errors import InputError, MuTooSmallWarning
from zoracle.inputs import (
    Array,
    affordable,
    as_ids,
    as_limits,
    as_points,
    framework_of,
    real,
    whole,
)
from zoracle.objectives.base import Objective
from zoracle.objectives.callable import CallableObjective
from zoracle.objectives.transform import Rescaled
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Use
from zoracle.rollout import Step
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.resume import resumable_rollout
from zoracle.solutions import Solution, reasons
from zoracle.storage.fingerprint import optimizer_config
from zoracle.storage.hashing import tensor_hash
from zoracle.types import Purpose


def minimize(
    f: Callable[[Any], Any] | Objective,
    x0: Array,
    *,
    budget: int,
    optimizer: str | Path | Optimizer[Any, Any] = "zo-lstm",
    bounds: tuple[float, float] | None = None,
    scale: float = 1.0,
    target: float | None = None,
    seed: int = 0,
    ids: Sequence[int] | Array | None = None,
    framework: Literal["auto", "numpy", "torch"] = "auto",
    checkpoint: Path | str | None = None,
    on_step: Callable[[Step], None] | None = None,
    **settings: Any,
) -> Solution:
    """Minimise a function that can only be called.

    Args:
        f: takes a batch of points (N, d) and returns their values (N,); or an :class:`Objective` of B problems. A
            value that is NaN or infinite is survived and counted; a first step without any other is an error.
        x0: where to start, (d,), or (B, d) for B runs at once; NumPy or torch, float32 or float64.
        budget: points that each run may evaluate; never passed.
        optimizer: a name, a folder, or an optimizer; "zo-lstm" means "zo-lstm-universal" here.
        bounds: lowest and highest value of every coordinate. f sees no point outside: points are clipped, and the
            iterate is brought back after each step.
        scale: by how much a coordinate typically has to change, the unit in which optimizers step; with bounds
            (0, 1) or inputs of size one, 1 is right. "zo-lstm" starts from it and finds its own.
        target: stop at this value or a lower one.
        seed: keys the random directions.
        ids: (B,) ids of the runs, which randomness is keyed by too; 0 .. B - 1 by default. A run gives the same alone
            and among others where its id is the same.
        framework: what f takes; "auto" gives it what x0 is.
        checkpoint: a file that the run is kept in and resumed from, also after f failed. It knows everything that the
            numbers depend on but f itself.
        on_step: is shown every step.
        settings: settings of the optimizer (``num_directions=50``, ``lr=0.01``).

    Returns:
        The best point evaluated, its value, what it cost and why it stopped.

    Raises:
        InputError: what was given cannot be used; BlackBoxError where f failed.

    Examples:
        >>> solution = minimize(lambda x: (x**2).sum(1), torch.ones(20), budget=2100, optimizer="zo-sgd", lr=0.1)
        >>> solution.queries, solution.reason.name, solution.value < 1e-3
        (2100, 'BUDGET', True)
    """
    start, single, to_user = as_points(x0)
    chosen = chosen_optimizer(optimizer, settings, Use(dim=start.shape[1]))
    budget = affordable(budget, chosen)
    limits = as_limits(bounds, start)
    seed = whole("seed", seed)
    scale = real("scale", scale)
    if not 0 < scale < math.inf:
        raise InputError(f"scale is {scale}; expected a positive number")
    target = None if target is None else real("target", target)
    if isinstance(f, Objective):
        objective = f
        if (objective.num_problems, objective.dim) != start.shape:
            raise InputError(
                f"x0 has shape {tuple(start.shape)}; expected ({objective.num_problems}, {objective.dim}), "
                "one row a problem of the objective"
            )
    else:
        kind = framework_of(x0) if framework == "auto" else framework
        objective = CallableObjective(f, start.shape[1], start.shape[0], framework=kind)
    if chosen.order and not objective.differentiable:
        raise InputError(
            f"optimizer {type(chosen).__name__} is fed true gradients, and f has only values; expected one that needs "
            "none, zo-lstm say"
        )
    inner = Rescaled(objective, scale=scale, bounds=limits)
    key = as_ids(ids, start.shape[0])
    trajectory = resumable_rollout(
        chosen,
        Oracle(inner, budget=budget),
        start / scale,
        budget // chosen.queries_per_step,
        path=None if checkpoint is None else Path(checkpoint),
        fingerprint={
            "call": "minimize",
            "zoracle": __version__,
            "x0_sha256": tensor_hash(start),
            "dtype": str(start.dtype),
            "optimizer": optimizer_config(chosen),
            "budget": budget,
            "bounds": None if limits is None else list(limits),
            "scale": float(scale),
            "target": None if target is None else float(target),
            "seed": seed,
            "ids": key.tolist(),
        },
        seed=seed,
        problem=key,
        target=target,
        final=Purpose.OPTIMISE,
        finite_start=True,
        on_step=_watch_resolution(start.dtype, on_step),
    )
    best, last = (to_user(inner.original(x)) for x in (trajectory.best_point, trajectory.final_point))
    why = reasons(trajectory, has_budget=True)
    if single:
        value, queries = float(trajectory.best_loss[0]), int(trajectory.total_queries[0])
        return Solution(best[0], value, queries, why[0], last[0], trajectory)
    return Solution(best, to_user(trajectory.best_loss), to_user(trajectory.total_queries), why, last, trajectory)


def _watch_resolution(dtype: torch.dtype, on_step: Callable[[Step], None] | None) -> Callable[[Step], None]:
    """Warns where a first step's values are all the same: f computes in a coarser type than its points have."""
    first = True

    def watch(step: Step) -> None:
        nonlocal first
        loss = step.evaluation.loss
        if first and loss.shape[1] > 2 and bool((loss == loss[:, :1]).all()):
            warnings.warn(
                f"all values of the first step are the same: f is flat here, or computes in a coarser type than "
                f"its points, which are {dtype}; give float32 points, or a larger smoothing parameter, mu=1e-5 say",
                MuTooSmallWarning,
                stacklevel=2,
            )
        first = False
        if on_step is not None:
            on_step(step)

    return watch
