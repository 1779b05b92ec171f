"""A rollout that survives Ctrl-C and kill -9: every query paid for is on disk."""

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

from zoracle.errors import BlackBoxError, ChangedTargetWarning, InputError
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.devices import on_device
from zoracle.rollout import checkpoint
from zoracle.rollout.journal import Journal
from zoracle.rollout.loop import Queue, Snapshot, Step, rollout, stopped_at
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.record import blank
from zoracle.storage.files import check_writable, sweep
from zoracle.types import Purpose, StopReason, Trajectory

_WRITING = 20  # at most one part in this many of the time is spent on checkpoints


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
    """Like :func:`zoracle.rollout.rollout` from a start, but resumes an earlier call with the same path.

    Args:
        optimizer: any optimizer.
        oracle: a fresh oracle; its counts are set to the checkpoint's. If it already has a journal, that one is used
            and left open.
        x0: starting points (P, d).
        steps: maximum number of steps per problem.
        path: the checkpoint, a safetensors file, with its journal next to it; None keeps nothing.
        fingerprint: JSON values that identify this run; a checkpoint with other values raises an error.
        seed: keys the directions.
        problem: (P,) stable ids of the problems; the objective's rows are 0 .. P - 1.
        batch: number of problems run at once while the others wait; None runs all at once.
        every: seconds between two checkpoints.
        finite_start: raise an error if none of the first values is finite, instead of returning an empty result.
        recheck: when a run resumes, query one of its points again and warn if the answer differs, since nothing
            else reveals a changed target. The query counts as lost.
        on_interrupt: effect of Ctrl-C: "raise" once the current step is done, or "stop" the run and return the result
            so far, at once unless a checkpoint is kept. A second Ctrl-C never waits.
        on_step: called after every step. If it returns a reason, all problems stop for it; the checkpoint does not
            record this, so the same call continues.
        options: passed on.

    A checkpoint is written at intervals, and the journal holds the calls since then: a killed process loses only the
    current call. Its points are counted separately (``oracle.journal.lost``): the target may have seen them, but
    the run continues as if they had not been queried, so it ends as it would have without the interruption.

    If the black box or ``on_step`` raises, the disk holds the last complete step, the answers of the current step's
    earlier calls, and the cost of the failed call, whose points count for budgets and reports when the run continues.

    Raises:
        InputError: the checkpoint cannot be written, or another process has it; nothing was queried.
        CheckpointError: the checkpoint is truncated, foreign, or belongs to another run.
        BlackBoxError: a call failed, or with ``finite_start`` none of the first values was finite.
        Interrupted: Ctrl-C; the last complete step is on disk.
    """
    objective, optimizer = oracle.objective, on_device(optimizer, x0.device)
    number = x0.shape[0]
    ids = torch.arange(number) if problem is None else problem
    if ids.shape != (number,):
        raise InputError(f"problem has shape {tuple(ids.shape)}; expected ({number},), one id per row of x0")

    def begin(rows: Tensor) -> Any:
        start = x0[rows.to(x0.device)]
        space = objective.space(rows, start)
        return optimizer.init(start, seed=seed, problem=ids[rows], horizon=steps, scale=objective.scale, space=space)

    begin(torch.arange(number)[:1])  # an optimizer's errors should come before files are created
    kept = _Kept(oracle, path, json.loads(json.dumps(fingerprint)), every, blank_run=lambda: _room(steps, x0))
    kept.on_step = on_step
    with kept.journal():
        kept.open(begin)
        if recheck and kept.resumed:
            _recheck(kept.so_far.trajectory, oracle, x0)
        kept.wants_finite = finite_start and bool((kept.so_far.trajectory.steps == 0).all())
        with _interruptible(lambda: on_interrupt == "stop" and path is None and oracle.calling) as interrupted:
            kept.interrupted = interrupted
            queue = Queue(begin, batch or max(1, number), kept.so_far.running, x0.device)
            try:
                kept.run(optimizer, steps, queue, options)
            except _Stopped as asked:
                return stopped_at(kept.so_far, asked.why)
            except KeyboardInterrupt:
                now = kept.so_far
                if on_interrupt == "raise" or not bool(now.trajectory.best_loss.isfinite().any()):
                    raise
                # Points of the current call were paid for.
                paid = checkpoint.charged(now.trajectory, oracle.counts[Purpose.OPTIMISE])
                return stopped_at(now._replace(trajectory=paid), StopReason.INTERRUPTED)
            except Exception:
                # The black box failed, or on_step did. The points of a failed call were paid for, so they are kept
                # too; an error of the checkpoint would be less important.
                with suppress(InputError):
                    kept.save(failed=True)
                raise
            kept.end()
            if interrupted() and on_interrupt == "raise":
                raise Interrupted
        return kept.so_far.trajectory


class _Kept:
    """A run with a snapshot to continue from, kept in memory and at intervals on disk."""

    def __init__(
        self,
        oracle: Oracle,
        path: Path | None,
        fingerprint: dict[str, Any],
        every: float,
        blank_run: Callable[[], Trajectory],
    ) -> None:
        self.oracle = oracle
        self.path = path
        self.fingerprint = fingerprint
        self.every = every
        self.blank_run = blank_run
        self.so_far = Snapshot(torch.arange(0), None, blank_run())
        self.resumed = False
        self.wants_finite = False
        self.on_step: Callable[[Step], StopReason | None] | None = None
        self.interrupted: Callable[[], bool] = lambda: False
        self.last, self.cost = time.monotonic(), 0.0

    @contextmanager
    def journal(self) -> Iterator[None]:
        """Record every call within the context in a journal, if a checkpoint is kept or the caller has a journal."""
        oracle, mine = self.oracle, self.path is not None and self.oracle.journal is None
        if self.path is not None:
            check_writable(self.path)
            sweep(self.path.parent, self.path.name)
            if mine:
                oracle.journal = Journal(checkpoint.journal_path(self.path))
        try:
            yield
        finally:
            if oracle.journal is not None and oracle.journal.lost.numel():
                oracle.lost = oracle.journal.lost.clone()
            if mine and oracle.journal is not None:
                oracle.journal.close()
                oracle.journal = None

    def open(self, begin: Callable[[Tensor], Any]) -> None:
        """Resume from the checkpoint, or write the first one."""
        oracle = self.oracle
        if self.path is not None and self.path.is_file():
            self.so_far = checkpoint.load(self.path, self.fingerprint, begin, self.so_far.trajectory, oracle)
            self.resumed = True
        elif oracle.journal is not None:
            oracle.journal.resume(0, torch.zeros(oracle.objective.num_problems, dtype=torch.int64))
        self.last = time.monotonic()
        if not self.resumed:
            self.save()  # reports an unwritable folder before anything is queried

    def run(self, optimizer: Optimizer[Any, Any], steps: int, queue: Queue, options: dict[str, Any]) -> None:
        """The rollout."""
        at = self.so_far
        rollout(
            optimizer,
            self.oracle,
            at.state,
            steps,
            trajectory=at.trajectory,
            queue=queue,
            on_step=self.stepped,
            on_change=self.changed,
            **options,
        )

    def end(self) -> None:
        """Finish the run."""
        self.so_far = Snapshot(torch.arange(0), None, self.so_far.trajectory)
        if self.oracle.journal is not None:
            self.oracle.journal.settle()
        self.save()

    def save(self, failed: bool = False) -> None:
        """Write the checkpoint, if one is kept."""
        journal = self.oracle.journal
        # While answers of a killed process are left, they and its checkpoint hold every point paid for.
        if self.path is not None and (failed or journal is None or not journal.answering):
            began = time.monotonic()
            checkpoint.save(self.path, self.fingerprint, self.so_far, self.oracle, failed)
            self.last = time.monotonic()
            self.cost = self.last - began

    def changed(self, now: Snapshot) -> None:
        """Called by the rollout whenever points were paid for."""
        if self.oracle.journal is not None:
            self.oracle.journal.mark()
        if self.wants_finite and not bool(now.trajectory.best_loss.isfinite().any()):
            self.so_far = Snapshot(torch.arange(0), None, self.blank_run())  # with what it cost, once it is mended
            raise BlackBoxError(
                f"all {int(now.trajectory.non_finite.sum())} values of the first step are NaN or infinite; "
                "expected finite numbers at the starting point and around it"
            )
        self.wants_finite = False
        self.so_far = now
        # A large state that is slow to write is written less often.
        wait = max(self.every, _WRITING * self.cost if self.every else 0.0)
        if self.interrupted() or time.monotonic() - self.last >= wait:
            self.save()

    def stepped(self, step: Step) -> None:
        """Called by the rollout after each step."""
        why = None if self.on_step is None else self.on_step(step)
        if self.interrupted():
            self.save()
            raise Interrupted
        if why is not None:
            self.save()
            raise _Stopped(why)


def _room(steps: int, x0: Tensor) -> Trajectory:
    """A trajectory for this many steps, if there is memory for it."""
    try:
        return blank(steps, x0)
    except (RuntimeError, MemoryError):
        raise InputError(
            f"{steps:,} steps of {len(x0):,} problems are more than there is memory to keep a record of; give a "
            "smaller budget, or fewer steps"
        ) from None


def _recheck(kept: Trajectory, oracle: Oracle, x0: Tensor) -> None:
    """Query the best point of one problem again, and warn if the answer differs."""
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


#: Largest relative difference of values from the same model, in another batch or in half precision.
_SAME = 1e-2


@contextmanager
def _interruptible(at_once: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Delay Ctrl-C until the current step ends, unless it may act at once; a second Ctrl-C does not wait."""
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
        # None: the handler was set outside Python and cannot be restored.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
