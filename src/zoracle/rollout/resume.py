"""A rollout that survives Ctrl-C and kill -9: what was paid for in queries is on disk."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoracle.errors import BlackBoxError, CheckpointError, InputError
from zoracle.optimizers.base import Optimizer, on_device
from zoracle.rollout.journal import Journal
from zoracle.rollout.loop import Queue, Snapshot, Step, blank, rollout, stopped_at
from zoracle.rollout.oracle import Oracle
from zoracle.state import flatten, unflatten
from zoracle.storage.files import read_tensors, write_tensors
from zoracle.storage.fingerprint import differences
from zoracle.types import Purpose, StopReason, Trajectory

_FORMAT = "zoracle-run-2"
_WRITING = 20  # at most one part in so many of the time goes into checkpoints


class Interrupted(KeyboardInterrupt):
    """The run was interrupted; everything up to the last whole step is in its checkpoint."""


class _Stopped(Exception):  # noqa: N818  # no error
    """``on_step`` asked to stop."""

    def __init__(self, why: StopReason) -> None:
        super().__init__(why.name)
        self.why = why


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
    batch: int | None = None,
    every: float = 1.0,
    finite_start: bool = False,
    on_interrupt: Literal["raise", "stop"] = "raise",
    on_step: Callable[[Step], StopReason | None] | None = None,
    **options: Any,
) -> Trajectory:
    """As :func:`zoracle.rollout.rollout` from a start, going on where an earlier call with the same path stopped.

    Args:
        optimizer: any optimizer.
        oracle: a fresh one; its counts are set to the checkpoint's. Where it has a journal already, that one is used
            and left open.
        x0: starting points (P, d).
        steps: how many steps each problem takes at most.
        path: the checkpoint, a safetensors file, with a journal beside it; None keeps nothing.
        fingerprint: JSON values that say what this run is; a checkpoint with others is refused.
        seed: keys the directions.
        problem: (P,) stable ids of the problems; the objective's rows are 0 .. P - 1.
        batch: problems that run at once, the others wait for their turn; None runs all at once.
        every: seconds between two checkpoints.
        finite_start: raise where nothing that was evaluated first is finite, instead of an empty result.
        on_interrupt: what Ctrl-C does: "raise" once the step in flight is done, or "stop" the run and return what there
            is, at once unless a checkpoint is kept. A second Ctrl-C never waits.
        on_step: is shown every step. Where it returns a reason, all problems stop for it; the checkpoint does not know
            of that, so that the same call goes on.
        options: passed on.

    A checkpoint is written every so often, and the journal holds the calls since: a process that is killed loses the
    call in flight and no other. Its points are counted apart (``oracle.journal.lost``): they may have been seen, but
    the run goes on as if they had not been asked for, so that it ends as it would have without the interruption.

    Where the black box or ``on_step`` raises, the last whole step is on disk, so are the answers of that step's
    earlier calls, and so is what the failed call cost: its points count for budgets and reports when the run goes on.

    Raises:
        InputError: the checkpoint cannot be written, or another process has it; nothing was queried.
        CheckpointError: the checkpoint is truncated, foreign, or of another run.
        BlackBoxError: a call failed, or nothing that was evaluated first was finite where something has to be.
        Interrupted: Ctrl-C; the last whole step is on disk.
    """
    objective, optimizer = oracle.objective, on_device(optimizer, x0.device)
    number = x0.shape[0]
    ids = torch.arange(number) if problem is None else problem
    if ids.shape != (number,):
        raise InputError(f"problem has shape {tuple(ids.shape)}; expected ({number},), one id a row of x0")

    def begin(rows: Tensor) -> Any:
        start = x0[rows.to(x0.device)]
        space = objective.space(rows, start)
        return optimizer.init(start, seed=seed, problem=ids[rows], horizon=steps, scale=objective.scale, space=space)

    begin(torch.arange(number)[:1])  # what an optimizer cannot take is told before there are files
    trajectory = blank(steps, x0)
    fingerprint = json.loads(json.dumps(fingerprint))
    # What there is to go on from at any moment.
    so_far = Snapshot(torch.arange(0), None, trajectory)
    mine = path is not None and oracle.journal is None
    if mine and path is not None:
        oracle.journal = Journal(journal_path(path))
    try:
        if path is not None and path.is_file():
            so_far = _load(path, fingerprint, begin, trajectory, oracle)
        elif oracle.journal is not None:
            oracle.journal.resume(0, torch.zeros(objective.num_problems, dtype=torch.int64))
        last, cost = time.monotonic(), 0.0
        fresh = finite_start and bool((so_far.trajectory.steps == 0).all())

        def save(failed: bool = False) -> None:
            nonlocal last, cost
            # While answers are left of a process that was killed, its checkpoint and they hold all that was paid for.
            if path is not None and not (oracle.journal is not None and oracle.journal.answering):
                began = time.monotonic()
                _save(path, fingerprint, so_far, oracle, failed)
                last = time.monotonic()
                cost = last - began

        if path is not None and not path.is_file():
            save()  # a folder that cannot be written to is told before anything is queried

        with _interruptible(lambda: on_interrupt == "stop" and path is None and oracle.calling) as interrupted:

            def changed(now: Snapshot) -> None:
                nonlocal so_far, fresh
                if oracle.journal is not None:
                    oracle.journal.mark()
                if fresh and not bool(now.trajectory.best_loss.isfinite().any()):
                    so_far = Snapshot(torch.arange(0), None, blank(steps, x0))  # with what it cost, once it is mended
                    raise BlackBoxError(
                        f"all {int(now.trajectory.non_finite.sum())} values of the first step are NaN or infinite; "
                        "expected finite numbers at the starting point and around it"
                    )
                fresh = False
                so_far = now
                # A large state that takes long to write is written less often.
                if interrupted() or time.monotonic() - last >= max(every, _WRITING * cost if every else 0.0):
                    save()

            def stepped(step: Step) -> None:
                why = None if on_step is None else on_step(step)
                if interrupted():
                    save()
                    raise Interrupted
                if why is not None:
                    save()
                    raise _Stopped(why)

            queue = Queue(begin, batch or max(1, number), so_far.running, x0.device)
            try:
                rollout(
                    optimizer,
                    oracle,
                    so_far.state,
                    steps,
                    trajectory=so_far.trajectory,
                    queue=queue,
                    on_step=stepped,
                    on_change=changed,
                    **options,
                )
            except _Stopped as asked:
                return stopped_at(so_far, asked.why)
            except KeyboardInterrupt:
                if on_interrupt == "raise" or not bool(so_far.trajectory.best_loss.isfinite().any()):
                    raise
                # Points of the call in flight were paid for.
                now = so_far._replace(trajectory=_charge(so_far.trajectory, oracle.counts[Purpose.OPTIMISE]))
                return stopped_at(now, StopReason.INTERRUPTED)
            except Exception:
                # The black box failed, or on_step did. The points of a failed call were paid for, so they are kept
                # too; that the checkpoint cannot be written would be the lesser news.
                with suppress(InputError):
                    save(failed=True)
                raise
            so_far = Snapshot(torch.arange(0), None, so_far.trajectory)
            save()
            if interrupted() and on_interrupt == "raise":
                raise Interrupted
        return so_far.trajectory
    finally:
        if mine and oracle.journal is not None:
            oracle.journal.close()
            oracle.journal = None


def journal_path(checkpoint: Path) -> Path:
    """Where the journal of a checkpoint lies."""
    return checkpoint.with_name(f"{checkpoint.name}.calls")


def _save(path: Path, fingerprint: dict[str, Any], now: Snapshot, oracle: Oracle, failed: bool) -> None:
    journal = oracle.journal
    counts = oracle.counts
    first = 0 if journal is None else journal.number
    if failed and journal is not None:
        first, again = journal.carry()
        counts = {purpose: count - again[purpose] for purpose, count in counts.items()}
    tensors = {"running": now.running, **flatten(now.trajectory, "trajectory")}
    if now.running.numel():
        tensors.update(flatten(now.state))
    tensors.update({f"counts.{purpose}": count for purpose, count in counts.items()})
    metadata: dict[str, Any] = {"format": _FORMAT, "fingerprint": fingerprint, "knows": dict(oracle.knows)}
    if journal is not None:
        tensors["lost"] = journal.lost
        metadata["calls"] = first
    write_tensors(path, tensors, metadata)
    if journal is not None and not failed:
        journal.forget()


def _load(
    path: Path, fingerprint: dict[str, Any], begin: Callable[[Tensor], Any], trajectory: Trajectory, oracle: Oracle
) -> Snapshot:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not the checkpoint of a run of this version; choose another file")
    if differ := differences(metadata.get("fingerprint") or {}, fingerprint):
        told = "; ".join(differ[:3]) + ("; ..." if len(differ) > 3 else "")
        raise CheckpointError(f"{path} belongs to another run ({told}); choose another file, or the same settings")
    counts = dict(oracle.counts)
    for purpose, count in counts.items():
        counts[purpose] = unflatten(count, tensors, f"counts.{purpose}")
    kept = unflatten(trajectory, tensors, "trajectory")
    running = tensors["running"]
    state = unflatten(begin(running), tensors) if running.numel() else None
    lost = unflatten(torch.zeros_like(counts[Purpose.OPTIMISE]), tensors, "lost")
    oracle.counts = counts
    oracle.knows = {Purpose(purpose): bool(known) for purpose, known in metadata["knows"].items()}
    if oracle.journal is not None:
        oracle.journal.resume(int(metadata["calls"]), lost)
    return Snapshot(running, state, _charge(kept, counts[Purpose.OPTIMISE]))


def _charge(trajectory: Trajectory, paid: Tensor) -> Trajectory:
    """The trajectory with all points that were paid for, those of a call that failed included."""
    room = trajectory.queries.shape[0]
    lost = paid - trajectory.total_queries
    if room == 0 or not bool(lost.any()):
        return trajectory
    later = torch.arange(room).unsqueeze(1) >= trajectory.steps.clamp(max=room - 1)
    return trajectory._replace(queries=trajectory.queries + torch.where(later, lost, 0))


@contextmanager
def _interruptible(at_once: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Let the step in flight end before Ctrl-C takes effect, unless it may at once; a second Ctrl-C does not wait."""
    pressed = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def handler(signum: int, frame: Any) -> None:
        nonlocal pressed
        if pressed or at_once():
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        # None: somebody outside Python had set it, and nobody can hand it back.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
