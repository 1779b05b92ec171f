"""A rollout that survives Ctrl-C and kill -9: what was paid for in queries is on disk."""

from __future__ import annotations

import json
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoracle.errors import BlackBoxError, ChangedTargetWarning, CheckpointError, InputError
from zoracle.optimizers.base import Optimizer, on_device
from zoracle.rollout.journal import Journal
from zoracle.rollout.loop import Queue, Snapshot, Step, blank, rollout, stopped_at
from zoracle.rollout.oracle import Oracle
from zoracle.state import flatten, unflatten
from zoracle.storage.files import read_tensors, sweep, write_tensors
from zoracle.storage.fingerprint import differences
from zoracle.types import Purpose, StopReason, Trajectory

_FORMAT = "zoracle-run-3"
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
    recheck: bool = False,
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
        recheck: where a run goes on, ask for one of its points again and warn where the answer is another one: nobody
            else knows whether the target is still the same. It counts as lost.
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
    trajectory = _room(steps, x0)
    fingerprint = json.loads(json.dumps(fingerprint))
    # What there is to go on from at any moment.
    so_far = Snapshot(torch.arange(0), None, trajectory)
    mine = path is not None and oracle.journal is None
    if path is not None:
        sweep(path.parent, path.name)
        if mine:
            oracle.journal = Journal(journal_path(path))
    try:
        if path is not None and path.is_file():
            so_far = _load(path, fingerprint, begin, trajectory, oracle)
            if recheck:
                _recheck(so_far.trajectory, oracle, x0)
        elif oracle.journal is not None:
            oracle.journal.resume(0, torch.zeros(objective.num_problems, dtype=torch.int64))
        last, cost = time.monotonic(), 0.0
        fresh = finite_start and bool((so_far.trajectory.steps == 0).all())

        def save(failed: bool = False) -> None:
            nonlocal last, cost
            # While answers are left of a process that was killed, its checkpoint and they hold all that was paid for.
            if path is not None and (failed or oracle.journal is None or not oracle.journal.answering):
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
            if oracle.journal is not None:
                oracle.journal.settle()
            save()
            if interrupted() and on_interrupt == "raise":
                raise Interrupted
        return so_far.trajectory
    finally:
        if oracle.journal is not None and oracle.journal.lost.numel():
            oracle.lost = oracle.journal.lost.clone()
        if mine and oracle.journal is not None:
            oracle.journal.close()
            oracle.journal = None


def _room(steps: int, x0: Tensor) -> Trajectory:
    """A trajectory for so many steps, where there is memory for it."""
    try:
        return blank(steps, x0)
    except (RuntimeError, MemoryError):
        raise InputError(
            f"{steps:,} steps of {len(x0):,} problems are more than there is memory to keep a record of; give a "
            "smaller budget, or fewer steps"
        ) from None


def journal_path(checkpoint: Path) -> Path:
    """Where the journal of a checkpoint lies."""
    return checkpoint.with_name(f"{checkpoint.name}.calls")


def _save(path: Path, fingerprint: dict[str, Any], now: Snapshot, oracle: Oracle, failed: bool) -> None:
    """The journal first, then the checkpoint, then the journal is emptied: at any moment one of both holds a point."""
    journal = oracle.journal
    counts = oracle.counts
    epoch = 0
    if journal is not None and failed:
        again = journal.carry()
        epoch = journal.epoch
        counts = {purpose: count - again[purpose] for purpose, count in counts.items()}
    elif journal is not None:
        epoch = journal.epoch + 1
    tensors = {"running": now.running, **flatten(_shorter(now.trajectory), "trajectory")}
    if now.running.numel():
        tensors.update(flatten(now.state))
    tensors.update({f"counts.{purpose}": count for purpose, count in counts.items()})
    metadata: dict[str, Any] = {"format": _FORMAT, "fingerprint": fingerprint, "knows": dict(oracle.knows)}
    if journal is not None:
        tensors["lost"] = journal.lost
        metadata["epoch"] = epoch
    write_tensors(path, tensors, metadata)
    if journal is not None and not failed:
        journal.forget(epoch)


def _load(
    path: Path, fingerprint: dict[str, Any], begin: Callable[[Tensor], Any], trajectory: Trajectory, oracle: Oracle
) -> Snapshot:
    tensors, metadata = read_tensors(path, sealed=True)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not the checkpoint of a run of this version; choose another file")
    if differ := differences(metadata.get("fingerprint") or {}, fingerprint):
        told = "; ".join(differ[:3]) + ("; ..." if len(differ) > 3 else "")
        raise CheckpointError(f"{path} belongs to another run ({told}); choose another file, or the same settings")
    counts = dict(oracle.counts)
    for purpose, count in counts.items():
        counts[purpose] = unflatten(count, tensors, f"counts.{purpose}")
    taken = tensors["trajectory.loss"].shape[0] if "trajectory.loss" in tensors else 0
    kept = _longer(unflatten(_shorter(trajectory, taken), tensors, "trajectory"), trajectory)
    running = tensors["running"]
    state = unflatten(begin(running), tensors) if running.numel() else None
    lost = unflatten(torch.zeros_like(counts[Purpose.OPTIMISE]), tensors, "lost")
    oracle.counts = counts
    oracle.knows = {Purpose(purpose): bool(known) for purpose, known in metadata["knows"].items()}
    if oracle.journal is not None:
        oracle.journal.resume(int(metadata["epoch"]), lost)
    return Snapshot(running, state, _charge(kept, counts[Purpose.OPTIMISE]))


def _shorter(trajectory: Trajectory, rows: int | None = None) -> Trajectory:
    """The trajectory without the rows of steps that nobody took yet, one excepted: it holds what was paid so far."""
    if rows is None:
        rows = int(trajectory.steps.max()) + 1 if trajectory.steps.numel() else 1
    return trajectory._replace(**{name: getattr(trajectory, name)[:rows] for name in _BY_STEP})


def _longer(short: Trajectory, full: Trajectory) -> Trajectory:
    """The inverse: rows of steps that were not taken repeat the last one, but for the loss."""
    room, have = full.loss.shape[0], short.loss.shape[0]
    if have == room:
        return short
    more = {name: getattr(short, name)[-1:].expand(room - have, -1) for name in _BY_STEP}
    more["loss"] = full.loss[have:]
    return short._replace(**{name: torch.cat((getattr(short, name), rows)) for name, rows in more.items()})


#: Fields of a trajectory with a row for each step.
_BY_STEP = ("loss", "best", "queries")


def _recheck(kept: Trajectory, oracle: Oracle, x0: Tensor) -> None:
    """Ask for the best point of one problem again, and warn where the target says something else."""
    known = kept.best_loss.isfinite().nonzero().flatten()
    if oracle.objective.stochastic or not bool((kept.reason == StopReason.RUNNING).any()) or not known.numel():
        return
    row = int(known[0])
    then, now = float(kept.best_loss[row]), oracle.again(kept.best_point[row].to(x0), row)
    if not abs(now - then) <= _SAME * (1 + abs(then)):
        warnings.warn(
            f"the target answers {now:.6g} to a point that it answered {then:.6g} to before the interruption: it is "
            "another one now, or noisy; results are those of neither",
            ChangedTargetWarning,
            stacklevel=3,
        )


#: Values that differ by no more, relatively, may come from the same model: in another batch, or of half precision.
_SAME = 1e-2


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
