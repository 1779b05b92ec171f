"""One optimizer on the problems of a task under several seeds, every point counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
from zoracle.objectives.base import Objective
from zoracle.optimizers.base import Optimizer
from zoracle.oracle import Oracle
from zoracle.resumable import resumable_rollout
from zoracle.rollout import Step
from zoracle.tasks.base import Task
from zoracle.types import Evaluation, Purpose, Trajectory

#: Told after each step: steps done so far and in all, over all seeds and batches of problems.
OnProgress = Callable[[int, int], None]

_FORMAT = "zoracle-result"
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
    on_progress: OnProgress | None = None,
    resume_dir: Path | None = None,
    workers: Workers | None = None,
) -> Result:
    """Run an optimizer on problems of a task and say what it cost and reached.

    What the optimizer asks for is spent; the last iterate is evaluated once more to report and counted as
    monitoring, and so is the starting point where the optimizer does not evaluate it itself, or sees it through
    noise. Of a stochastic objective the best point is monitored as well, without noise.

    Args:
        optimizer: any optimizer.
        task: what the problems are of.
        ids: P problems of the task.
        seeds: S seeds, each a repeat of all problems: starting points and directions follow it.
        steps: T; None takes what the budget pays for, or the task's own number where there is no budget.
        budget: points that each problem may cost at most.
        dtype: floating-point type of the points.
        device: where the points live.
        batch: problems at once; None takes all, or what gives every worker as much to do, or what the pieces of
            ``resume_dir`` have. It changes nothing but memory and speed.
        on_progress: told after each step; a few times a second where there are workers.
        resume_dir: where each finished piece (a seed, a batch of problems) is kept as soon as it is done, and the
            piece at work every few seconds. A second call goes on there.
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
    steps = resolve_steps(optimizer, task, steps, budget)
    if workers is not None and resume_dir is None:
        resume_dir = workers.scratch()  # what they find comes back as files
    size = None if batch else kept_size(resume_dir, ids, seeds)
    size = size or batch_size(len(ids), len(seeds), batch, 1 if workers is None else workers.number)
    batches = list(_batches(ids, size))
    total = len(seeds) * len(batches) * steps

    def piece(seed: int, j: int) -> _Piece:
        stem = None if resume_dir is None else resume_dir / f"seed-{seed}-batch-{j}"
        return _Piece(
            batches[j], seed, steps, stem, _fingerprint(optimizer, task, batches[j], seed, steps, budget, dtype)
        )

    if workers is not None:
        every = [piece(seed, j) for seed in seeds for j in range(len(batches))]
        missing = [one for one in every if _kept(one) is None]
        told, before = on_progress, total - steps * len(missing)
        share(
            workers,
            optimizer,
            task,
            missing,
            budget=budget,
            dtype=dtype,
            device=device,
            on_steps=lambda done: None if told is None else told(before + done, total),
        )
        on_progress = None  # what is left to do is to read the files
    objectives: dict[tuple[int, ...], Objective] = {}
    rows: list[Result] = []
    for i, seed in enumerate(seeds):
        parts: list[Result] = []
        for j, some in enumerate(batches):
            done = (i * len(batches) + j) * steps
            one = piece(seed, j)
            part = _kept(one)
            if part is None:
                if some not in objectives:
                    objectives[some] = task.objective(some, dtype=dtype, device=device)
                x0 = task.start(some, seed=seed, dtype=dtype, device=device)
                oracle = _Witness(objectives[some], budget)
                part = _run(optimizer, oracle, x0, one, _teller(on_progress, done, total))
            if on_progress is not None:
                on_progress(done + steps, total)
            parts.append(part)
        rows.append(join(parts, 1))
    return join(rows, 0)


def run_job(asked: Job, optimizer: Optimizer[Any, Any], task: Task, tell: Callable[[int], None]) -> None:
    """In a worker: run a piece and leave its result in its file.

    Args:
        asked: which piece.
        optimizer: the worker's copy.
        task: the worker's.
        tell: told after each step how many are done.
    """
    dtype = getattr(torch, asked.dtype)
    fingerprint = _fingerprint(optimizer, task, asked.ids, asked.seed, asked.steps, asked.budget, dtype)
    piece = _Piece(asked.ids, asked.seed, asked.steps, Path(asked.stem), fingerprint)
    oracle = _Witness(task.objective(asked.ids, dtype=dtype, device=asked.device), asked.budget)
    x0 = task.start(asked.ids, seed=asked.seed, dtype=dtype, device=asked.device)
    _run(optimizer, oracle, x0, piece, lambda step: tell(int(step.trajectory.steps.max())))


def resolve_steps(optimizer: Optimizer[Any, Any], task: Task, steps: int | None, budget: int | None) -> int:
    """The number of steps of a run: as given, else what the budget pays for, else the task's own.

    Raises:
        InputError: fewer than one.
        BudgetError: the budget is smaller than one step.
    """
    cost = optimizer.queries_per_step
    if budget is not None and budget < cost:
        raise BudgetError(
            f"budget is {budget} queries a problem, and one step of {type(optimizer).__name__} costs {cost}; "
            f"give at least {cost}, or fewer directions"
        )
    if steps is None:
        steps = task.defaults.steps if budget is None else budget // cost
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")
    return steps


class _Witness(Oracle):
    """An oracle that notes for which purposes the objective said what a success is."""

    def __init__(self, objective: Objective, budget: int | None) -> None:
        super().__init__(objective, budget=budget)
        self.knows: dict[Purpose, bool] = {}

    def evaluate(
        self, points: Tensor, problem: Tensor, *, step: Tensor | None = None, purpose: Purpose = Purpose.OPTIMISE
    ) -> Evaluation:
        result = super().evaluate(points, problem, step=step, purpose=purpose)
        self.knows[purpose] = result.success is not None
        return result


class _Piece(NamedTuple):
    """What is run, and kept, as one: a seed on a batch of problems."""

    ids: tuple[int, ...]
    seed: int
    steps: int
    stem: Path | None
    fingerprint: dict[str, Any]


def _teller(on_progress: OnProgress | None, done: int, total: int) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        if on_progress is not None:
            on_progress(done + int(step.trajectory.steps.max()), total)

    return tell


def _run(
    optimizer: Optimizer[Any, Any], oracle: _Witness, x0: Tensor, piece: _Piece, tell: Callable[[Step], None]
) -> Result:
    """One piece: a result with S = 1."""
    stem = piece.stem
    clock = _Clock(None if stem is None else stem.with_suffix(".seconds"))
    at_work = None if stem is None else stem.with_suffix(".part")

    def on_step(step: Step) -> None:
        clock.tick()
        tell(step)

    state, trajectory = resumable_rollout(
        optimizer,
        oracle,
        x0,
        piece.steps,
        path=at_work,
        fingerprint=piece.fingerprint,
        seed=piece.seed,
        problem=torch.tensor(piece.ids),
        every=_CHECKPOINT_SECONDS,
        on_step=on_step,
    )
    result = _result(optimizer, oracle, x0, state.x.detach(), trajectory, piece, clock.seconds)
    if stem is not None and at_work is not None:
        tensors = {name: leaf.contiguous() for name, leaf in result._asdict().items()}
        metadata = {"format": _FORMAT, "fingerprint": piece.fingerprint}
        write_tensors(stem.with_suffix(".safetensors"), tensors, metadata)
        at_work.unlink(missing_ok=True)
        clock.forget()
    return result


def _result(
    optimizer: Optimizer[Any, Any],
    oracle: _Witness,
    x0: Tensor,
    x: Tensor,
    trajectory: Trajectory,
    piece: _Piece,
    seconds: float,
) -> Result:
    ids, seed, steps = piece.ids, piece.seed, piece.steps
    rows = torch.arange(len(ids))
    objective = oracle.objective

    def monitor(points: Tensor) -> Tensor:
        loss = oracle.evaluate(points.to(x0).unsqueeze(1), rows, purpose=Purpose.MONITOR).loss
        return loss[:, 0].double().cpu()

    evaluates = optimizer.evaluates_iterate and not objective.stochastic
    # A piece that was killed after its last step has seen no answer in this process: ask once more, and count it.
    initial = trajectory.loss[0].double() if evaluates and oracle.knows else monitor(x0)
    found = trajectory.best_loss.double()
    if objective.stochastic:
        found = monitor(trajectory.best_point).nan_to_num(nan=torch.inf)
    final = trajectory.final_loss.double()
    losses = _losses(trajectory, initial, final, steps)
    best_loss, best_point = _lower(found, trajectory.best_point, initial, x0)
    best_loss, best_point = _lower(best_loss, best_point, final, x)
    on_success = torch.where(trajectory.final_success, final, torch.nan)
    _, success_point = _lower(trajectory.success_loss.double(), trajectory.success_point, on_success, x)
    best = torch.cat((initial.nan_to_num(nan=torch.inf).unsqueeze(0), trajectory.best.double())).cummin(0).values
    best[-1] = best_loss
    spent = torch.cat((torch.zeros(1, len(ids), dtype=torch.int64), trajectory.queries))
    known = any(oracle.knows.values())
    whole = steps * optimizer.queries_per_step if oracle.budget is None else oracle.budget
    distances = _distances(objective, x, rows)

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
        success_known=same(known),
        first_known=same(known and optimizer.order == 0),
        final_success=trajectory.final_success,
        success_ever=trajectory.final_success | (trajectory.first_success > 0),
        first_success=trajectory.first_success,
        non_finite=trajectory.non_finite,
        final_point=x.cpu(),
        best_point=best_point,
        success_point=success_point,
        l1=distances["l1"],
        l2=distances["l2"],
        linf=distances["linf"],
        seconds=same(float(seconds / len(ids))),
    )
    return Result(*(leaf.unsqueeze(0) for leaf in one))


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
    }


def _kept(piece: _Piece) -> Result | None:
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
    return Result(**tensors)


def _batches(ids: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
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
