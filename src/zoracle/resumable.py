"""A rollout that survives Ctrl-C and kill -9: what was paid for in queries is on disk."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from zoracle.errors import CheckpointError
from zoracle.files import read_tensors, write_tensors
from zoracle.optimizers.base import Optimizer
from zoracle.oracle import Oracle
from zoracle.rollout import Step, blank, rollout
from zoracle.state import flatten, unflatten
from zoracle.types import Purpose, Trajectory

_FORMAT = "zoracle-run"


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
        on_step: is shown every step.
        options: passed on.

    Raises:
        CheckpointError: the checkpoint is truncated, foreign, or of another run.
        Interrupted: Ctrl-C; the last whole step is on disk.
    """
    state = optimizer.init(x0, seed=seed, problem=problem, horizon=steps, scale=oracle.objective.scale)
    trajectory = blank(steps, x0)
    if path is not None and path.is_file():
        state, trajectory = _load(path, fingerprint, state, trajectory, oracle)

    last = time.monotonic()

    def save(whole: Any, so_far: Trajectory) -> None:
        if path is not None:
            tensors = {**flatten(whole), **flatten(so_far, "trajectory")}
            tensors.update({f"counts.{purpose}": count for purpose, count in oracle.counts.items()})
            write_tensors(path, tensors, {"format": _FORMAT, "fingerprint": fingerprint})

    with _interruptible() as interrupted:

        def after(step: Step) -> None:
            nonlocal last
            stop = interrupted()
            if stop or time.monotonic() - last >= every:
                save(step.whole(), step.trajectory)
                last = time.monotonic()
            if on_step is not None:
                on_step(step)
            if stop:
                raise Interrupted

        state, trajectory = rollout(optimizer, oracle, state, steps, trajectory=trajectory, on_step=after, **options)
    save(state, trajectory)
    return state, trajectory


def _load(
    path: Path, fingerprint: dict[str, Any], state: Any, trajectory: Trajectory, oracle: Oracle
) -> tuple[Any, Trajectory]:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not the checkpoint of a run; choose another folder")
    if metadata.get("fingerprint") != fingerprint:
        theirs = metadata.get("fingerprint") or {}
        changed = [k for k in {**theirs, **fingerprint} if theirs.get(k) != fingerprint.get(k)]
        raise CheckpointError(
            f"{path} belongs to another run ({', '.join(sorted(changed))} differ); "
            "choose another folder, or the same settings"
        )
    counts = {str(purpose): count for purpose, count in oracle.counts.items()}
    restored = unflatten(tuple(counts.values()), {f"c.{i}": tensors[f"counts.{p}"] for i, p in enumerate(counts)}, "c")
    oracle.counts = dict(zip(Purpose, restored, strict=True))
    return unflatten(state, tensors), unflatten(trajectory, tensors, "trajectory")


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
        signal.signal(signal.SIGINT, before)
