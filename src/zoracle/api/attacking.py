"""Attack a model that can only be queried."""

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
    """Search for adversarial perturbations of images by queries only: small ones, or any within a ball.

    Minimises max(log p_y - max_j log p_j + confidence, 0) + c * ||clip(x + delta, 0, 1) - x|| for each image; with
    ``eps`` only the first term, over perturbations of at most that norm.

    Args:
        model: a torch module, a :class:`BlackBox`, or a function of a batch of images. NaN outputs are tolerated and
            counted; if all outputs of the first step are NaN, that is an error.
        images: (P, ...) in [0, 1].
        labels: (P,) the true classes.
        budget: maximum number of points evaluated for each image.
        steps: number of steps instead of a budget, plus one query for the last iterate (and one for the initial
            check). Exactly one of ``budget`` and ``steps`` is required.
        optimizer: a name, a folder, or an optimizer; within a ball "zo-lstm" means "spectral-search".
        targets: (P,) target classes; None for an untargeted attack.
        c: weight of the distance.
        norm: "l1" or "l2"; with ``eps`` "l2" or "linf".
        eps: radius of the ball of allowed perturbations; None minimises the perturbation instead.
        confidence: margin by which the wrong class has to lead, in nats.
        bits: send only images of this many bits per channel to the model, rounded within the ball: with 8, a success
            is a success as a saved picture. The given images must be such pictures themselves.
        outputs: what the model returns: "logits", "probabilities" or "log-probabilities"; "auto" infers it from the
            first answer; "labels" requires ``optimizer="rays"``. None uses the declaration of the :class:`BlackBox`,
            or "auto" if there is none.
        stop_on_success: stop an image at its first success instead of minimising the perturbation further; None stops
            within a ball.
        check_start: first evaluate each original image, for one query; an image that already succeeds is not attacked.
            None does so if images stop at their first success.
        batch: number of images attacked at once; the next starts when one is finished. None attacks all at once.
        seed: seed of starting points and directions.
        ids: (P,) stable ids that key the random numbers; 0 .. P - 1 by default.
        start_std: standard deviation of the starting perturbations; None uses 1e-4, and 0 within a ball.
        reduce: search only among coarse perturbations, upsampled to the images: "tile:2" (cells of 2 by 2 pixels),
            "tile:14x14" (14 by 14 cells) or "bilinear:14" (an interpolated grid).
        framework: arrays passed to a model that is a plain function; "auto" uses the type of ``images``.
        chunk: maximum number of images in one call of the model.
        checkpoint: file to which the run is saved and from which it resumes, also after the model failed. It identifies
            everything that determines the numbers except the model itself; on resuming, one point is evaluated again,
            with a warning if the model's answer differs.
        on_step: called after every step.
        settings: settings of the optimizer.

    Raises:
        InputError: an argument cannot be used; BlackBoxError if the model failed.
    """
    chosen = chosen_optimizer(optimizer, settings, Use(ball=None if eps is None else norm), attack)
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
