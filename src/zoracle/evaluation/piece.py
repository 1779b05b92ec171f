"""One piece of an evaluation: a seed on some problems, run, reported and kept as one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle import __version__
from zoracle.errors import CheckpointError
from zoracle.evaluation.jobs import Job
from zoracle.evaluation.status import Counts, counts, counts_of
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer
from zoracle.results.result import Result
from zoracle.rollout import Step
from zoracle.rollout.journal import Journal
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.resume import journal_path, resumable_rollout
from zoracle.storage.files import read_tensors, write_tensors
from zoracle.storage.fingerprint import ids_hash, optimizer_config
from zoracle.tasks.base import Task
from zoracle.tasks.config import task_config
from zoracle.types import Purpose, StopReason, Trajectory

_FORMAT = "zoracle-result-2"
_CHECKPOINT_SECONDS = 2.0


class Piece(NamedTuple):
    """What is run, and kept, as one: a seed on some problems."""

    ids: tuple[int, ...]
    seed: int
    steps: int
    batch: int | None
    """Problems at once."""
    stop_on_success: bool
    check_start: bool
    stem: Path | None
    fingerprint: dict[str, Any]


def run_piece(
    optimizer: Optimizer[Any, Any], oracle: Oracle, x0: Tensor, piece: Piece, tell: Callable[[Step], None]
) -> Result:
    """One piece: a result with S = 1."""
    stem = piece.stem
    clock = _Clock(None if stem is None else stem.with_suffix(".seconds"))
    at_work = None if stem is None else stem.with_suffix(".part")

    def on_step(step: Step) -> None:
        clock.tick()
        tell(step)

    # Open until the result is on disk: what is evaluated to report is noted as well.
    with nullcontext() if at_work is None else Journal(journal_path(at_work)) as journal:
        oracle.journal = journal
        trajectory = resumable_rollout(
            optimizer,
            oracle,
            x0,
            piece.steps,
            path=at_work,
            fingerprint=piece.fingerprint,
            seed=piece.seed,
            problem=torch.tensor(piece.ids),
            batch=piece.batch,
            every=_CHECKPOINT_SECONDS,
            on_step=on_step,
            stop_on_success=piece.stop_on_success,
            check_start=piece.check_start,
            final=None if piece.stop_on_success else Purpose.MONITOR,
        )
        result = _result(optimizer, oracle, x0, trajectory, piece, clock.seconds)
        if stem is not None and journal is not None:
            tensors = {name: leaf.contiguous() for name, leaf in result._asdict().items()}
            metadata = {"format": _FORMAT, "fingerprint": piece.fingerprint}
            write_tensors(stem.with_suffix(".safetensors"), tensors, metadata)
            journal.forget()
    _forget(piece)
    return result


def _forget(piece: Piece) -> None:
    """Remove what a finished piece was kept in while it was at work."""
    if piece.stem is not None:
        for suffix in (".part", ".part.calls", ".seconds"):
            piece.stem.with_suffix(suffix).unlink(missing_ok=True)


def _result(
    optimizer: Optimizer[Any, Any],
    oracle: Oracle,
    x0: Tensor,
    trajectory: Trajectory,
    piece: Piece,
    seconds: float,
) -> Result:
    ids, seed, steps = piece.ids, piece.seed, piece.steps
    rows = torch.arange(len(ids))
    objective = oracle.objective

    def monitor(points: Tensor) -> Tensor:
        loss = oracle.evaluate(points.to(x0).unsqueeze(1), rows, purpose=Purpose.MONITOR).loss
        return loss[:, 0].double().cpu()

    succeeded = trajectory.first_success > 0
    # Who stopped at a success ends there, and not at an iterate that nobody evaluated. Where that is what runs are
    # for, the others end at their best failed point, and nothing is evaluated that no budget paid for.
    stopped = trajectory.reason == StopReason.SUCCESS
    final, x = trajectory.final_loss, trajectory.final_point
    if piece.stop_on_success:
        final, x = trajectory.best_loss.where(trajectory.best_loss.isfinite(), torch.nan), trajectory.best_point
        stopped = succeeded
    final = torch.where(stopped, trajectory.success_loss, final).double()
    x = torch.where(stopped.unsqueeze(1), trajectory.success_point, x)
    final_success = trajectory.final_success | stopped
    initial = _initial(optimizer, objective, trajectory)
    if initial is None:
        initial = monitor(x0)
    found = trajectory.best_loss.double()
    if objective.stochastic:
        found = monitor(trajectory.best_point).nan_to_num(nan=torch.inf)
    losses = _losses(trajectory, initial, final, steps)
    best_loss, best_point = _lower(found, trajectory.best_point, initial, x0)
    best_loss, best_point = _lower(best_loss, best_point, final, x)
    on_success = torch.where(final_success, final, torch.nan)
    _, success_point = _lower(trajectory.success_loss.double(), trajectory.success_point, on_success, x)
    success_ever = final_success | succeeded
    best = torch.cat((initial.nan_to_num(nan=torch.inf).unsqueeze(0), trajectory.best.double())).cummin(0).values
    best[-1] = best_loss
    spent = torch.cat((trajectory.checked.long().unsqueeze(0), trajectory.queries))
    known = any(oracle.knows.values())
    whole = steps * optimizer.queries_per_step + int(piece.check_start) if oracle.budget is None else oracle.budget
    measured = torch.where(success_ever.unsqueeze(1), success_point, best_point) if objective.ends_at_success else x
    distances = _distances(objective, measured.to(x0), rows)

    def same(value: int | bool | float) -> Tensor:
        return torch.full((len(ids),), value, dtype=torch.float64 if isinstance(value, float) else None)

    one = Result(
        seed=same(seed),
        ids=torch.tensor(ids),
        losses=losses.T,
        best=best.T,
        queries=spent.T,
        steps=trajectory.steps,
        reason=trajectory.reason,
        allowance=same(whole),
        monitored=oracle.counts[Purpose.MONITOR].clone(),
        lost=torch.zeros_like(trajectory.steps) if oracle.journal is None else oracle.journal.lost.clone(),
        success_known=same(known),
        first_known=same(known and optimizer.order == 0),
        misclassified=trajectory.checked & trajectory.start_success,
        final_success=final_success,
        success_ever=success_ever,
        first_success=trajectory.first_success,
        non_finite=trajectory.non_finite,
        final_point=x,
        best_point=best_point,
        success_point=success_point,
        l1=distances["l1"],
        l2=distances["l2"],
        linf=distances["linf"],
        seconds=same(float(seconds / len(ids))),
    )
    return Result(*(leaf.unsqueeze(0) for leaf in one))


def _initial(optimizer: Optimizer[Any, Any], objective: Objective, trajectory: Trajectory) -> Tensor | None:
    """(P,) loss at the start as the run saw it: its first iterate's, or what the check found; None where it saw none.

    Of a stochastic objective it saw noise.
    """
    if objective.stochastic or not (optimizer.evaluates_iterate or bool(trajectory.checked.all())):
        return None
    seen = (trajectory.steps > 0) & optimizer.evaluates_iterate
    return torch.where(seen, trajectory.loss[0], trajectory.start_loss).double()


def _losses(trajectory: Trajectory, initial: Tensor, final: Tensor, steps: int) -> Tensor:
    """(T + 1, P) loss of every iterate; a problem that stopped repeats its last."""
    losses = torch.cat((trajectory.loss.double(), final.unsqueeze(0)))
    after = torch.arange(steps + 1).unsqueeze(1) >= trajectory.steps
    losses = torch.where(after, final, losses)
    losses[0] = initial
    return losses


def _lower(loss: Tensor, point: Tensor, other: Tensor, other_point: Tensor) -> tuple[Tensor, Tensor]:
    """The lower of two losses (P,), and its point; one that is not finite is never the lower."""
    better = other.nan_to_num(nan=torch.inf) < loss
    return torch.where(better, other, loss), torch.where(better.unsqueeze(1), other_point.detach().cpu(), point)


def _distances(objective: Objective, x: Tensor, rows: Tensor) -> dict[str, Tensor]:
    measure = getattr(objective, "distances", None)  # an attack has it; it makes no query
    if measure is None:
        return {name: torch.full((x.shape[0],), torch.nan, dtype=torch.float64) for name in ("l1", "l2", "linf")}
    return {name: value.double().cpu() for name, value in measure(x, rows).items()}


class _Clock:
    """Wall-clock seconds of a piece, those of interrupted calls included."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.before = 0.0
        if path is not None and path.is_file():
            self.before = float(path.read_text(encoding="utf-8") or 0)
        self.start = self.written = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def tick(self) -> None:
        now = time.perf_counter()
        if self.path is not None and now - self.written >= _CHECKPOINT_SECONDS:
            self.path.write_text(f"{self.seconds:.3f}", encoding="utf-8")
            self.written = now

    def forget(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def fingerprint_of(
    optimizer: Optimizer[Any, Any],
    task: Task,
    ids: tuple[int, ...],
    seed: int,
    steps: int,
    budget: int | None,
    dtype: torch.dtype,
    stop_on_success: bool,
    check_start: bool,
) -> dict[str, Any]:
    """What a piece's numbers depend on."""
    return {
        "zoracle": __version__,
        "optimizer": optimizer_config(optimizer),
        "task": task_config(task),
        "ids_sha256": ids_hash(ids),
        "seed": seed,
        "steps": steps,
        "budget": budget,
        "dtype": str(dtype),
        "stop_on_success": stop_on_success,
        "check_start": check_start,
    }


def kept(piece: Piece) -> Result | None:
    """A finished piece, or None where there is none yet."""
    path = None if piece.stem is None else piece.stem.with_suffix(".safetensors")
    if path is None or not path.is_file():
        return None
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT or set(tensors) != set(Result._fields):
        raise CheckpointError(f"{path} is no result of this version of zoracle; choose another folder")
    theirs = metadata.get("fingerprint")
    if theirs != piece.fingerprint:
        changed = [
            key for key, value in piece.fingerprint.items() if not isinstance(theirs, dict) or theirs.get(key) != value
        ]
        raise CheckpointError(
            f"{path} belongs to another run ({', '.join(changed)} differ); choose another folder, or the same settings"
        )
    _forget(piece)  # where a kill came between the result and this
    return Result(**tensors)


def run_job(asked: Job, optimizer: Optimizer[Any, Any], task: Task, tell: Callable[[Counts], None]) -> None:
    """In a worker: run a piece and leave its result in its file.

    Args:
        asked: which piece.
        optimizer: the worker's copy.
        task: the worker's.
        tell: told after each step how far it is.
    """
    dtype = getattr(torch, asked.dtype)
    stop, check = asked.stop_on_success, asked.check_start
    fingerprint = fingerprint_of(optimizer, task, asked.ids, asked.seed, asked.steps, asked.budget, dtype, stop, check)
    piece = Piece(asked.ids, asked.seed, asked.steps, asked.batch, stop, check, Path(asked.stem), fingerprint)
    oracle = Oracle(task.objective(asked.ids, dtype=dtype, device=asked.device), budget=asked.budget)
    x0 = task.start(asked.ids, seed=asked.seed, dtype=dtype, device=asked.device)
    result = run_piece(optimizer, oracle, x0, piece, lambda step: tell(counts(step.trajectory, asked.steps)))
    tell(counts_of(result, asked.steps))
