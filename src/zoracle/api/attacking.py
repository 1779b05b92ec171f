"""Attack a model by calling it only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from torch import nn

from zoracle.api.inputs import (
    Array,
    affordable,
    amount,
    as_ids,
    as_tensor,
    check_dtype,
    framework_of,
    whole,
)
from zoracle.api.loading import chosen_optimizer
from zoracle.api.solutions import AttackResult, result_of
from zoracle.blackboxes import PythonFunction, as_black_box
from zoracle.blackboxes.base import BlackBox
from zoracle.errors import InputError
from zoracle.keyed import START_STREAM, normal
from zoracle.objectives.attack import Attack, ImageAttack, Outputs
from zoracle.objectives.decision import DecisionAttack
from zoracle.objectives.reduced import Reduced
from zoracle.objectives.threat import Norm, ThreatModel
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Use
from zoracle.rollout import Step
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.resume import resumable_rollout
from zoracle.storage.fingerprint import optimizer_config, release_series
from zoracle.storage.hashing import tensor_hash
from zoracle.types import Key, Purpose


def attack(
    model: nn.Module | BlackBox | Callable[[Any], Any],
    images: Array,
    labels: Array,
    *,
    budget: int | None = None,
    steps: int | None = None,
    optimizer: str | Path | Optimizer[Any, Any] = "zo-lstm",
    targets: Array | None = None,
    c: float = 0.1,
    norm: Norm = "l1",
    eps: float | None = None,
    confidence: float = 0.0,
    bits: int | None = None,
    outputs: Outputs | None = None,
    stop_on_success: bool | None = None,
    check_start: bool | None = None,
    batch: int | None = None,
    seed: int = 0,
    ids: Sequence[int] | Array | None = None,
    start_std: float | None = None,
    reduce: str | None = None,
    framework: Literal["auto", "numpy", "torch"] = "auto",
    chunk: int | None = None,
    checkpoint: Path | str | None = None,
    on_step: Callable[[Step], None] | None = None,
    **settings: Any,
) -> AttackResult:
    """Look for perturbations that change what a model says, by calling it only: small ones, or any within a ball.

    Minimises max(log p_y - max_j log p_j + confidence, 0) + c * ||clip(x + delta, 0, 1) - x|| for each image; with
    ``eps`` the first term alone, over perturbations of that norm at most.

    Args:
        model: a torch module, a :class:`BlackBox`, or a function of a batch of images. Outputs that are NaN are
            survived and counted; a first step without any other is an error.
        images: (P, ...) in [0, 1].
        labels: (P,) the true classes.
        budget: points that may be evaluated for each image; never passed.
        steps: steps of the optimizer instead, and one query more for the last iterate (and one to check the start);
            one of both is needed.
        optimizer: a name, a folder, or an optimizer; "zo-lstm" means within a ball "spectral-search".
        targets: (P,) classes to reach; None for any other than the label.
        c: weight of the distance.
        norm: "l1" or "l2"; of a ball "l2" or "linf".
        eps: radius of the ball that perturbations stay in; None asks for small ones instead.
        confidence: by how much the wrong class has to lead, in nats.
        bits: every image sent to the model is a picture of so many bits per channel, rounded within the
            ball: 8 makes what succeeds do so as a saved picture. Images have to be such pictures themselves.
        outputs: what the model returns: "logits", "probabilities" or "log-probabilities"; "auto" tells it from the
            first answer; "labels" goes with ``optimizer="rays"``. None uses what the :class:`BlackBox` was declared to
            return, "auto" where it was not.
        stop_on_success: leave an image at its first success instead of making the perturbation smaller; None does
            within a ball.
        check_start: evaluate each image itself first, for one query: one that succeeds as it is gets no more. None
            does where images are left at their first success.
        batch: images under attack at once; another begins as soon as one is done. None uses all.
        seed: keys starting points and directions.
        ids: (P,) stable ids that randomness is keyed by; 0 .. P - 1 by default.
        start_std: standard deviation of the starting perturbations; None uses 1e-4, and 0 within a ball.
        reduce: search among coarse perturbations only, upsampled to the images: "tile:2" (cells of 2 by 2 pixels),
            "tile:14x14" (that many cells) or "bilinear:14" (a grid, interpolated).
        framework: what a model that is a plain function takes; "auto" gives it what images are.
        chunk: images in one call of the model at most.
        checkpoint: a file that the run is kept in and resumed from, also after the model failed. It knows everything
            that the numbers depend on but the model itself; on resuming, it evaluates one point again and warns where
            the model says something else.
        on_step: is shown every step.
        settings: settings of the optimizer.

    Raises:
        InputError: what was given cannot be used; BlackBoxError where the model failed.
    """
    chosen = chosen_optimizer(optimizer, settings, Use(ball=None if eps is None else norm))
    if (budget is None) == (steps is None):
        raise InputError("both or neither of budget and steps were given; expected one of them")
    stop = eps is not None if stop_on_success is None else stop_on_success
    check = stop if check_start is None else check_start
    if budget is not None:
        budget = affordable(budget, chosen, extra=int(check))
        steps = (budget - int(check)) // chosen.queries_per_step
    steps = whole("steps", steps)
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")
    batch = None if batch is None else whole("batch", batch)
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}; expected at least 1 image")
    seed = whole("seed", seed)
    chunk = None if chunk is None else whole("chunk", chunk)
    threat = ThreatModel(norm=norm, eps=eps, c=c, confidence=confidence, bits=bits).within_pixels()
    start_std = threat.start_std if start_std is None else amount("start_std", start_std)
    x = as_tensor("images", images)
    y = as_tensor("labels", labels)
    wanted = None if targets is None else as_tensor("targets", targets)
    if isinstance(model, BlackBox | nn.Module):
        box = as_black_box(model)
    else:
        taken = framework_of(images) if framework == "auto" else framework
        box = PythonFunction(model, framework=taken, outputs=outputs or "auto")
    outputs = box.outputs if outputs is None else outputs
    if outputs == "labels":
        full: Attack = DecisionAttack(box, x, y, threat, targets=wanted)
    else:
        full = Attack(box, x, y, threat, targets=wanted, outputs=outputs)
    objective: ImageAttack = full if reduce is None else Reduced(full, reduce)
    check_dtype("images", x)
    key = as_ids(ids, x.shape[0])
    start = start_std * normal(Key.start(seed, key), (objective.dim,), START_STREAM, x.dtype)
    oracle = Oracle(objective, budget=budget, chunk=chunk)
    trajectory = resumable_rollout(
        chosen,
        oracle,
        start.to(x.device),
        steps,
        path=None if checkpoint is None else Path(checkpoint),
        fingerprint={
            "call": "attack",
            "zoracle": release_series(),
            "images_sha256": tensor_hash(x),
            "labels_sha256": tensor_hash(objective.labels),
            "targets_sha256": None if objective.targets is None else tensor_hash(objective.targets),
            "dtype": str(x.dtype),
            "optimizer": optimizer_config(chosen),
            "budget": budget,
            "steps": steps,
            **msgspec.to_builtins(threat),
            "outputs": outputs,
            "stop_on_success": stop,
            "check_start": check,
            "start_std": start_std,
            "reduce": reduce,
            "seed": seed,
            "ids": key.tolist(),
        },
        seed=seed,
        problem=key,
        batch=batch,
        stop_on_success=stop,
        check_start=check,
        final=Purpose.OPTIMISE,
        finite_start=True,
        watch_flat=True,
        recheck=True,
        on_step=on_step,
    )
    return result_of(objective, trajectory, oracle.lost, has_budget=budget is not None)
