"""One call each: minimise a function, attack a model, load a trained optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zoracle.blackboxes import as_black_box
from zoracle.blackboxes.base import BlackBox
from zoracle.checkpoint import resolve
from zoracle.errors import InputError
from zoracle.keyed import START_STREAM, normal
from zoracle.objectives.attack import Attack, Outputs
from zoracle.objectives.base import Bounds, Objective
from zoracle.objectives.callable import CallableObjective
from zoracle.objectives.transform import Rescaled
from zoracle.optimizers.base import Optimizer
from zoracle.oracle import Oracle
from zoracle.resumable import resumable_rollout
from zoracle.rollout import Step
from zoracle.types import Key, Purpose, StopReason, Trajectory

Array = np.ndarray[Any, Any] | Tensor


class Solution(NamedTuple):
    """What :func:`minimize` found. With one starting point (d,) the leading B is dropped everywhere."""

    x: Array
    """(B, d) the best point evaluated, of the type that x0 had."""
    value: Array | float
    """(B,) its value."""
    queries: Array | int
    """(B,) points evaluated."""
    reason: list[StopReason] | StopReason
    """Why each problem stopped."""
    last: Array
    """(B, d) the last iterate."""
    trajectory: Trajectory
    """Step by step; always with its B, on the CPU."""


class AttackResult(NamedTuple):
    """What :func:`attack` found for P images."""

    adversarial: Tensor
    """(P, *shape) the successful image with the lowest loss, and the image with the lowest loss where none was."""
    success: Tensor
    """(P,) bool, whether any evaluated point succeeded."""
    misclassified: Tensor
    """(P,) bool, whether the starting point succeeded already: the image had not been classified as labelled."""
    queries: Tensor
    """(P,) points evaluated."""
    queries_to_success: Tensor
    """(P,) points evaluated up to and including the first that succeeded; -1 where none did."""
    loss: Tensor
    """(P,) loss of ``adversarial``."""
    distances: dict[str, Tensor]
    """l1, l2 and linf of ``adversarial`` to the image, (P,) each."""
    reason: list[StopReason]
    """Why each image's attack stopped."""
    trajectory: Trajectory
    """Step by step."""


def load(name: str = "zo-lstm", **settings: Any) -> Optimizer[Any, Any]:
    """A ready optimizer by name, or a learned one from its folder.

    Args:
        name: what ``zoracle optimizers`` lists, or a folder that ``zoracle train`` wrote.
        settings: settings changed on top of the optimizer's own (``num_directions=50``).

    Raises:
        InputError: nothing has this name, or a setting is unknown.
        CheckpointError: the folder's weights cannot be used.
    """
    return resolve(name, **settings).optimizer


def minimize(
    f: Callable[[Any], Any] | Objective,
    x0: Array,
    *,
    budget: int,
    optimizer: str | Optimizer[Any, Any] = "zo-lstm",
    bounds: tuple[float, float] | None = None,
    scale: float = 1.0,
    target: float | None = None,
    seed: int = 0,
    framework: Literal["auto", "numpy", "torch"] = "auto",
    checkpoint: Path | str | None = None,
    on_step: Callable[[Step], None] | None = None,
    **settings: Any,
) -> Solution:
    """Minimise a function that can only be called.

    Args:
        f: takes a batch of points (N, d) and returns their values (N,); or an :class:`Objective`.
        x0: where to start, (d,), or (B, d) for B runs at once; NumPy or torch, float32 or float64.
        budget: points that each run may evaluate; never passed.
        optimizer: a name, a folder, or an optimizer.
        bounds: lowest and highest value of every coordinate; points outside are clipped before f sees them.
        scale: by how much a coordinate typically has to change, the unit in which optimizers step; with bounds
            (0, 1) or inputs of size one, 1 is right.
        target: stop at this value or a lower one.
        seed: keys the random directions.
        framework: what f takes; "auto" gives it what x0 is.
        checkpoint: a file that the run is kept in and resumed from.
        on_step: is shown every step.
        settings: settings of the optimizer (``num_directions=50``, ``lr=0.01``).

    Returns:
        The best point evaluated, its value, what it cost and why it stopped.

    Raises:
        InputError: what was given cannot be used; BlackBoxError where f failed.

    Examples:
        >>> solution = minimize(lambda x: (x**2).sum(1), torch.ones(20), budget=2100)
        >>> int(solution.queries) <= 2100
        True
    """
    start, single, to_user = _points(x0)
    chosen = _optimizer(optimizer, settings)
    _check_budget(budget, chosen)
    if not scale > 0:
        raise InputError(f"scale is {scale}; expected a positive number")
    if isinstance(f, Objective):
        objective = f
    else:
        kind = framework if framework != "auto" else ("torch" if isinstance(x0, Tensor) else "numpy")
        limits = None if bounds is None else Bounds(*bounds)
        objective = CallableObjective(f, start.shape[1], start.shape[0], framework=kind, bounds=limits)
    inner = Rescaled(objective, scale=scale, bounds=None if bounds is None else Bounds(*bounds))
    state, trajectory = resumable_rollout(
        chosen,
        Oracle(inner, budget=budget),
        start / scale,
        budget // chosen.queries_per_step,
        path=None if checkpoint is None else Path(checkpoint),
        fingerprint={"budget": budget, "seed": seed, "scale": scale, "optimizer": type(chosen).__name__},
        seed=seed,
        target=target,
        final=Purpose.OPTIMISE,
        on_step=on_step,
    )
    best, last = (to_user(inner.original(x)) for x in (trajectory.best_point, state.x.detach().cpu()))
    reasons = [StopReason(int(reason)) for reason in trajectory.reason]
    if single:
        value, queries = float(trajectory.best_loss[0]), int(trajectory.total_queries[0])
        return Solution(best[0], value, queries, reasons[0], last[0], trajectory)
    return Solution(best, to_user(trajectory.best_loss), to_user(trajectory.total_queries), reasons, last, trajectory)


def attack(
    model: nn.Module | BlackBox | Callable[[Any], Any],
    images: Array,
    labels: Array,
    *,
    budget: int | None = None,
    steps: int | None = None,
    optimizer: str | Optimizer[Any, Any] = "zo-lstm",
    targets: Array | None = None,
    c: float = 0.1,
    norm: Literal["l1", "l2"] = "l1",
    confidence: float = 0.0,
    outputs: Outputs = "logits",
    stop_on_success: bool = False,
    seed: int = 0,
    ids: Tensor | None = None,
    start_std: float = 1e-4,
    chunk: int | None = None,
    checkpoint: Path | str | None = None,
    on_step: Callable[[Step], None] | None = None,
    **settings: Any,
) -> AttackResult:
    """Look for small perturbations that change what a model says, by calling it only.

    Minimises max(log p_y - max_j log p_j + confidence, 0) + c * ||clip(x + delta, 0, 1) - x|| for each image.

    Args:
        model: a torch module, a :class:`BlackBox`, or a function of a batch of images.
        images: (P, ...) in [0, 1].
        labels: (P,) the true classes.
        budget: points that may be evaluated for each image; never passed.
        steps: steps of the optimizer instead; one of both is needed.
        optimizer: a name, a folder, or an optimizer.
        targets: (P,) classes to reach; None for any other than the label.
        c: weight of the distance.
        norm: "l1" or "l2".
        confidence: by how much the wrong class has to lead, in nats.
        outputs: what the model returns: "logits", "probabilities" or "log-probabilities".
        stop_on_success: leave an image at its first success instead of making the perturbation smaller.
        seed: keys starting points and directions.
        ids: (P,) stable ids that randomness is keyed by; 0 .. P - 1 by default.
        start_std: standard deviation of the starting perturbations.
        chunk: images in one call of the model at most.
        checkpoint: a file that the run is kept in and resumed from.
        on_step: is shown every step.
        settings: settings of the optimizer.

    Raises:
        InputError: what was given cannot be used; BlackBoxError where the model failed.
    """
    chosen = _optimizer(optimizer, settings)
    if (budget is None) == (steps is None):
        raise InputError("give either a budget of queries an image or a number of steps")
    if budget is not None:
        _check_budget(budget, chosen)
    x = torch.as_tensor(images)
    y = torch.as_tensor(labels)
    wanted = None if targets is None else torch.as_tensor(targets)
    objective = Attack(
        as_black_box(model), x, y, c=c, norm=norm, targets=wanted, confidence=confidence, outputs=outputs
    )
    key = torch.arange(x.shape[0]) if ids is None else ids
    start = start_std * normal(Key.start(seed, key), (objective.dim,), START_STREAM, x.dtype)
    state, trajectory = resumable_rollout(
        chosen,
        Oracle(objective, budget=budget, chunk=chunk),
        start,
        steps if steps is not None else (budget or 0) // chosen.queries_per_step,
        path=None if checkpoint is None else Path(checkpoint),
        fingerprint={
            "budget": budget,
            "steps": steps,
            "seed": seed,
            "c": c,
            "norm": norm,
            "confidence": confidence,
            "optimizer": type(chosen).__name__,
            "ids": key.tolist(),
        },
        seed=seed,
        problem=key,
        stop_on_success=stop_on_success,
        final=Purpose.OPTIMISE,
        on_step=on_step,
    )
    del state
    return result_of(objective, trajectory)


def result_of(objective: Attack, trajectory: Trajectory) -> AttackResult:
    """The adversarial images of a trajectory and what they cost."""
    rows = torch.arange(objective.num_problems)
    success = trajectory.first_success > 0
    points = torch.where(success.unsqueeze(1), trajectory.success_point, trajectory.best_point)
    return AttackResult(
        adversarial=objective.adversarial(points, rows),
        success=success,
        misclassified=trajectory.first_success == 1,
        queries=trajectory.total_queries,
        queries_to_success=trajectory.first_success,
        loss=torch.where(success, trajectory.success_loss, trajectory.best_loss),
        distances=objective.distances(points, rows),
        reason=[StopReason(int(reason)) for reason in trajectory.reason],
        trajectory=trajectory,
    )


def _points(x0: Array) -> tuple[Tensor, bool, Callable[[Tensor], Any]]:
    device = x0.device if isinstance(x0, Tensor) else None
    x = x0.detach() if isinstance(x0, Tensor) else torch.as_tensor(np.asarray(x0))
    if not x.is_floating_point():
        x = x.to(torch.float64 if device is None else torch.float32)
    if x.ndim not in (1, 2):
        raise InputError(f"x0 has shape {tuple(x.shape)}; expected (d,), or (B, d) for B runs")
    single = x.ndim == 1
    x = x.unsqueeze(0) if single else x

    def to_user(value: Tensor) -> Any:
        return value.numpy() if device is None else value.to(device)

    return x, single, to_user


def _optimizer(optimizer: str | Optimizer[Any, Any], settings: dict[str, Any]) -> Optimizer[Any, Any]:
    if isinstance(optimizer, Optimizer):
        if settings:
            raise InputError(f"settings {', '.join(settings)} go with an optimizer's name; this is a made optimizer")
        return optimizer
    return resolve(optimizer, **settings).optimizer


def _check_budget(budget: int, optimizer: Optimizer[Any, Any]) -> None:
    need = optimizer.queries_per_step
    if budget < need:
        raise InputError(
            f"budget is {budget} queries, and one step of this optimizer costs {need}; "
            f"give at least {need}, or fewer directions (num_directions)"
        )
