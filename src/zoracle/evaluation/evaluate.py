"""One optimizer on the problems of a task under several seeds, every point counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle import __version__
from zoracle.errors import BudgetError, CheckpointError, InputError
from zoracle.evaluation.describe import ids_hash, optimizer_config, task_config
from zoracle.evaluation.jobs import Job
from zoracle.evaluation.parallel import batch_size, kept_size, share
from zoracle.evaluation.result import Result, join
from zoracle.evaluation.workers import Workers
from zoracle.files import read_tensors, write_tensors
from zoracle.journal import Journal
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer
from zoracle.oracle import Oracle
from zoracle.resumable import journal_path, resumable_rollout
from zoracle.rollout import Step
from zoracle.tasks.base import Task
from zoracle.types import Purpose, StopReason, Trajectory

#: Told after each step: steps done so far and in all, over all seeds and problems; who stopped has done all of them.
OnProgress = Callable[[int, int], None]


class Status(NamedTuple):
    """How far a run is, over all its seeds and problems."""

    finished: int
    """Problems that are done."""
    problems: int
    """All of them, once a seed."""
    successes: int
    """Problems of which some point has succeeded."""
    misclassified: int
    """Those among them that were a success before the first step."""
    queries: int
    """Points evaluated for optimisation."""


#: Told after each step.
OnStatus = Callable[[Status], None]

_FORMAT = "zoracle-result-2"
_CHECKPOINT_SECONDS = 2.0


def evaluate(
    optimizer: Optimizer[Any, Any],
    task: Task,
    ids: Sequence[int],
    *,
    seeds: Sequence[int] = (0,),
    steps: int | None = None,
    budget: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch: int | None = None,
    stop_on_success: bool | None = None,
    check_start: bool = False,
    on_progress: OnProgress | None = None,
    on_status: OnStatus | None = None,
    resume_dir: Path | None = None,
    workers: Workers | None = None,
) -> Result:
    """Run an optimizer on problems of a task and say what it cost and reached.

    What the optimizer asks for is spent; the last iterate is evaluated once more to report and counted as
    monitoring, and so is the starting point where the optimizer does not evaluate it itself, or sees it through
    noise. Of a stochastic objective the best point is monitored as well, without noise. A run that stops at the first
    success ends there, or at its best failed point, and no last iterate is monitored.

    Args:
        optimizer: any optimizer.
        task: what the problems are of.
        ids: P problems of the task.
        seeds: S seeds, each a repeat of all problems: starting points and directions follow it.
        steps: T; None takes what the budget pays for, or the task's own number where there is no budget.
        budget: points that each problem may cost at most.
        dtype: floating-point type of the points.
        device: where the points live.
        batch: problems at once; another begins as soon as one has finished. None takes all. It changes nothing but
            memory and speed.
        stop_on_success: whether a problem stops at its first success; None does where nothing is left to win then
            (``Objective.ends_at_success``: attacks within a ball).
        check_start: evaluate each problem's start first, for one query that counts as optimisation; one that is a
            success already takes no step. By default nobody looks: the problems of the tasks that ship are known to
            be none.
        on_progress: told after each step how many are done; a few times a second where there are workers.
        on_status: told after each step what came of them; where there are workers, in the end.
        resume_dir: where each finished piece (a seed on all problems, or on as many as give every worker as much to
            do) is kept as soon as it is done, and every answer of the pieces at work. A second call goes on there.
        workers: processes that run the pieces; None runs them here, one after another.

    Raises:
        InputError: no problems or seeds, or one twice; numbers out of range.
        BudgetError: the budget is smaller than one step; nothing was evaluated.
        CheckpointError: a kept piece is truncated or belongs to another run.
        WorkerError: a worker died.
    """
    ids, seeds = check_list("ids", ids), check_list("seeds", seeds)
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}; expected at least 1 problem")
    steps = resolve_steps(optimizer, task, steps, budget, check_start)
    if workers is not None and resume_dir is None:
        resume_dir = workers.scratch()  # what they find comes back as files
    objective = task.objective(ids, dtype=dtype, device=device)
    stop = objective.ends_at_success if stop_on_success is None else stop_on_success
    size = kept_size(resume_dir, ids, seeds)
    size = size or batch_size(len(ids), len(seeds), None, 1 if workers is None else workers.number)
    groups = list(_groups(ids, size))

    def piece(seed: int, j: int) -> Piece:
        stem = None if resume_dir is None else resume_dir / f"seed-{seed}-batch-{j}"
        fingerprint = _fingerprint(optimizer, task, groups[j], seed, steps, budget, dtype, stop, check_start)
        return Piece(groups[j], seed, steps, batch, stop, check_start, stem, fingerprint)

    teller = _Teller(on_progress, on_status, len(seeds), len(ids), steps)
    if workers is not None:
        every = [piece(seed, j) for seed in seeds for j in range(len(groups))]
        missing = [one for one in every if _kept(one) is None]
        share(
            workers,
            optimizer,
            task,
            missing,
            budget=budget,
            dtype=dtype,
            device=device,
            on_steps=lambda done: teller.shared(done, len(missing), len(every)),
        )
        teller.on_progress = None  # what is left to do is to read the files
    objectives: dict[tuple[int, ...], Objective] = {ids: objective}
    rows: list[Result] = []
    for seed in seeds:
        parts: list[Result] = []
        for j, some in enumerate(groups):
            one = piece(seed, j)
            part = _kept(one)
            if part is None:
                if some not in objectives:
                    objectives[some] = task.objective(some, dtype=dtype, device=device)
                x0 = task.start(some, seed=seed, dtype=dtype, device=device)
                part = _run(optimizer, Oracle(objectives[some], budget=budget), x0, one, teller.step)
            teller.done(part)
            parts.append(part)
        rows.append(join(parts, 1))
    return join(rows, 0)


def run_job(asked: Job, optimizer: Optimizer[Any, Any], task: Task, tell: Callable[[int], None]) -> None:
    """In a worker: run a piece and leave its result in its file.

    Args:
        asked: which piece.
        optimizer: the worker's copy.
        task: the worker's.
        tell: told after each step how many are done, of the piece's problems on average.
    """
    dtype = getattr(torch, asked.dtype)
    stop, check = asked.stop_on_success, asked.check_start
    fingerprint = _fingerprint(optimizer, task, asked.ids, asked.seed, asked.steps, asked.budget, dtype, stop, check)
    piece = Piece(asked.ids, asked.seed, asked.steps, asked.batch, stop, check, Path(asked.stem), fingerprint)
    oracle = Oracle(task.objective(asked.ids, dtype=dtype, device=asked.device), budget=asked.budget)
    x0 = task.start(asked.ids, seed=asked.seed, dtype=dtype, device=asked.device)
    _run(optimizer, oracle, x0, piece, lambda step: tell(_steps_done(step, asked.steps) // len(asked.ids)))


def resolve_steps(
    optimizer: Optimizer[Any, Any], task: Task, steps: int | None, budget: int | None, check_start: bool = False
) -> int:
    """The number of steps of a run: as given, else what the budget pays for, else the task's own.

    Raises:
        InputError: fewer than one.
        BudgetError: the budget is smaller than one step.
    """
    cost, before = optimizer.queries_per_step, int(check_start)
    if budget is not None and budget < cost + before:
        raise BudgetError(
            f"budget is {budget} queries a problem, and one step of {type(optimizer).__name__} costs {cost}"
            f"{' and the look at its start 1' if before else ''}; give at least {cost + before}, or fewer directions"
        )
    if steps is None:
        steps = task.defaults.steps if budget is None else (budget - before) // cost
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")
    return steps


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


class _Teller:
    """Adds up what pieces tell of themselves."""

    def __init__(
        self, on_progress: OnProgress | None, on_status: OnStatus | None, seeds: int, problems: int, steps: int
    ) -> None:
        self.on_progress, self.on_status = on_progress, on_status
        self.steps, self.total, self.problems = steps, seeds * problems * steps, seeds * problems
        self.before = 0
        self.status = Status(0, self.problems, 0, 0, 0)

    def step(self, step: Step) -> None:
        found = step.trajectory
        if self.on_progress is not None:
            self.on_progress(self.before + _steps_done(step, self.steps), self.total)
        if self.on_status is not None:
            stopped = found.reason != StopReason.RUNNING
            queries = int(found.total_queries.sum())
            self.on_status(self._plus(stopped, found.first_success > 0, found.checked & found.start_success, queries))

    def shared(self, done: int, missing: int, pieces: int) -> None:
        """Workers have done so many steps, each counted once a piece, of the pieces that were missing."""
        if self.on_progress is not None:
            share = (done + self.steps * (pieces - missing)) / (self.steps * pieces)
            self.on_progress(int(self.total * share), self.total)

    def done(self, row: Result) -> None:
        self.before += row.ids.shape[1] * self.steps
        everyone = torch.ones_like(row.success_ever)
        self.status = self._plus(everyone, row.success_ever, row.misclassified, int(row.spent.sum()))
        if self.on_progress is not None:
            self.on_progress(self.before, self.total)
        if self.on_status is not None:
            self.on_status(self.status)

    def _plus(self, finished: Tensor, success: Tensor, misclassified: Tensor, queries: int) -> Status:
        known = self.status
        return Status(
            known.finished + int(finished.sum()),
            self.problems,
            known.successes + int(success.sum()),
            known.misclassified + int(misclassified.sum()),
            known.queries + queries,
        )


def _steps_done(step: Step, steps: int) -> int:
    """Steps of all problems of a piece; who stopped has done all of them."""
    found = step.trajectory
    return int(torch.where(found.reason != StopReason.RUNNING, steps, found.steps).sum())


def _run(
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


def _fingerprint(
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


def _kept(piece: Piece) -> Result | None:
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


def _groups(ids: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def check_list(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Ids or seeds as a tuple.

    Raises:
        InputError: there are none, or one comes twice.
    """
    if not values:
        raise InputError(f"{name} is empty; expected at least one")
    if len(set(values)) != len(values):
        twice = next(value for value in values if list(values).count(value) > 1)
        raise InputError(f"{name} names {twice} more than once; expected each once")
    return tuple(values)
