"""A rollout that survives Ctrl-C and kill -9: what was paid for in queries is on disk."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoracle.errors import BlackBoxError, CheckpointError, InputError
from zoracle.files import read_tensors, write_tensors
from zoracle.fingerprint import differences
from zoracle.optimizers.base import Optimizer
from zoracle.oracle import Oracle
from zoracle.rollout import Step, blank, rollout
from zoracle.state import flatten, unflatten
from zoracle.types import Purpose, Trajectory

_FORMAT = "zoracle-run"
_WRITING = 20  # at most one part in so many of the time goes into checkpoints


class Interrupted(KeyboardInterrupt):
    """The run was interrupted; everything up to the last whole step is in its checkpoint."""


def resumable_rollout(
    optimizer: Optimizer[Any, Any],
    oracle: Oracle,
    x0: Tensor,
    steps: int,
    *,
    path: Path | None,
    fingerprint: dict[str, Any],
    seed: int = 0,
    problem: Tensor | None = None,
    every: float = 1.0,
    finite_start: bool = False,
    on_step: Callable[[Step], None] | None = None,
    **options: Any,
) -> tuple[Any, Trajectory]:
    """As :func:`zoracle.rollout.rollout`, going on where an earlier call with the same path stopped.

    Args:
        optimizer: any optimizer.
        oracle: a fresh one; its counts are set to the checkpoint's.
        x0: starting points (B, d).
        steps: how many steps each problem takes at most.
        path: the checkpoint, a safetensors file; None keeps nothing.
        fingerprint: JSON values that say what this run is; a checkpoint with others is refused.
        seed: keys the directions.
        problem: (B,) stable ids of the problems; the objective's rows are 0 .. B - 1.
        every: seconds between two checkpoints; a slow black box's every step is kept.
        finite_start: raise where no value of the first step is finite, instead of an empty result.
        on_step: is shown every step.
        options: passed on.

    Where the black box or ``on_step`` raises, the last whole step is on disk, and so is what the failed call cost:
    its points count for budgets and reports when the same call goes on there.

    Raises:
        InputError: the checkpoint cannot be written; nothing was queried.
        CheckpointError: the checkpoint is truncated, foreign, or of another run.
        BlackBoxError: a call failed, or no value of the first step was finite where one has to be.
        Interrupted: Ctrl-C; the last whole step is on disk.
    """
    objective = oracle.objective
    space = objective.space(torch.arange(x0.shape[0]), x0)
    state = optimizer.init(x0, seed=seed, problem=problem, horizon=steps, scale=objective.scale, space=space)
    trajectory = blank(steps, x0)
    fingerprint = json.loads(json.dumps(fingerprint))
    if path is not None and path.is_file():
        state, trajectory = _load(path, fingerprint, state, trajectory, oracle)
    last, cost = time.monotonic(), 0.0
    # What there is to keep at any moment: the state after the last whole step, and what led to it.
    whole: Callable[[], Any] = lambda: state  # noqa: E731 (it is replaced after each step)
    so_far = trajectory
    fresh = finite_start and bool((trajectory.steps == 0).all())

    def save() -> None:
        nonlocal last, cost
        if path is not None:
            began = time.monotonic()
            tensors = {**flatten(whole()), **flatten(so_far, "trajectory")}
            tensors.update({f"counts.{purpose}": count for purpose, count in oracle.counts.items()})
            write_tensors(path, tensors, {"format": _FORMAT, "fingerprint": fingerprint})
            last = time.monotonic()
            cost = last - began

    if path is not None and not path.is_file():
        save()  # a folder that cannot be written to is told before anything is queried

    with _interruptible() as interrupted:

        def after(step: Step) -> None:
            nonlocal whole, so_far, fresh
            if fresh and not bool(step.trajectory.best_loss.isfinite().any()):
                so_far = blank(steps, x0)  # with what it cost, and from the start once the function is mended
                raise BlackBoxError(
                    f"all {step.evaluation.loss.numel()} values of the first step are NaN or infinite; "
                    "expected finite numbers at the starting point and around it"
                )
            fresh = False
            whole, so_far = step.whole, step.trajectory
            # A large state that takes long to write is written less often.
            if interrupted() or time.monotonic() - last >= max(every, _WRITING * cost if every else 0.0):
                save()
            if on_step is not None:
                on_step(step)
            if interrupted():
                save()
                raise Interrupted

        try:
            state, trajectory = rollout(
                optimizer, oracle, state, steps, trajectory=trajectory, on_step=after, **options
            )
        except Exception:
            # The black box failed, or on_step did. The points of a failed call were paid for, so they are kept too;
            # that the checkpoint cannot be written would be the lesser news.
            with suppress(InputError):
                save()
            raise
        whole, so_far = (lambda: state), trajectory
        save()
        if interrupted():
            raise Interrupted
    return state, trajectory


def _load(
    path: Path, fingerprint: dict[str, Any], state: Any, trajectory: Trajectory, oracle: Oracle
) -> tuple[Any, Trajectory]:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not the checkpoint of a run; choose another file")
    if differ := differences(metadata.get("fingerprint") or {}, fingerprint):
        told = "; ".join(differ[:3]) + ("; ..." if len(differ) > 3 else "")
        raise CheckpointError(f"{path} belongs to another run ({told}); choose another file, or the same settings")
    counts = dict(oracle.counts)
    for purpose, count in counts.items():
        counts[purpose] = unflatten(count, tensors, f"counts.{purpose}")
    kept = unflatten(state, tensors), unflatten(trajectory, tensors, "trajectory")
    oracle.counts = counts
    return kept[0], _charge(kept[1], counts[Purpose.OPTIMISE])


def _charge(trajectory: Trajectory, paid: Tensor) -> Trajectory:
    """The trajectory with all points that were paid for, those of a call that failed included."""
    room = trajectory.queries.shape[0]
    lost = paid - trajectory.total_queries
    if room == 0 or not bool(lost.any()):
        return trajectory
    later = torch.arange(room).unsqueeze(1) >= trajectory.steps.clamp(max=room - 1)
    return trajectory._replace(queries=trajectory.queries + torch.where(later, lost, 0))


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let the step in flight end before Ctrl-C takes effect; a second Ctrl-C does not wait."""
    pressed = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def handler(signum: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        # None: somebody outside Python had set it, and nobody can hand it back.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
