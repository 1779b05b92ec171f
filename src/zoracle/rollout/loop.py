"""The only optimization loop. Training, attacks, comparisons and ``minimize`` all go through it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.optimizers.base import Optimizer
from zoracle.rollout import measuring
from zoracle.rollout.oracle import Oracle
from zoracle.state import assign, concatenate, select
from zoracle.types import Choice, Evaluation, Purpose, Queries, StopReason, Trajectory

S = TypeVar("S")


class Step(NamedTuple):
    """What ``on_step`` is shown after each step."""

    state: Any
    """The state after the step, of the L problems that took it."""
    live: Tensor
    """(L,) int64, which of the B problems took it."""
    queries: Queries
    """What was asked, of these L problems."""
    evaluation: Evaluation
    """What was answered."""
    trajectory: Trajectory
    """All B problems so far."""


class Snapshot(NamedTuple):
    """All that is needed to go on from here: what ``on_change`` is shown whenever something was paid for."""

    running: Tensor
    """(L,) int64, which of the B problems run."""
    state: Any
    """Their state; None where none ever ran."""
    trajectory: Trajectory
    """All B problems so far."""


class Queue(NamedTuple):
    """Problems that take turns: one that finishes makes room for the next, and its state is dropped."""

    begin: Callable[[Tensor], Any]
    """Rows of problems (K,) to their state before the first step; called when their turn has come."""
    batch: int
    """How many run at once."""
    running: Tensor
    """(L,) int64, the rows that run already, which ``state`` is of; none at the beginning."""
    device: torch.device = torch.device("cpu")
    """Where their points live."""


def blank(steps: int, x: Tensor) -> Trajectory:
    """The trajectory of B problems at x (B, d) that have not begun, with room for this many steps."""
    b = x.shape[0]
    x = x.detach().cpu()
    infinite = x.new_full((b,), torch.inf)
    zero = torch.zeros(b, dtype=torch.int64)
    return Trajectory(
        loss=x.new_full((steps, b), torch.nan),
        best=x.new_full((steps, b), torch.inf),
        queries=torch.zeros((steps, b), dtype=torch.int64),
        steps=zero.clone(),
        reason=zero.clone(),
        final_point=x.clone(),
        final_known=torch.zeros(b, dtype=torch.bool),
        final_loss=x.new_full((b,), torch.nan),
        final_success=torch.zeros(b, dtype=torch.bool),
        best_loss=infinite.clone(),
        best_point=x.clone(),
        success_loss=infinite.clone(),
        success_point=x.clone(),
        checked=torch.zeros(b, dtype=torch.bool),
        start_loss=x.new_full((b,), torch.nan),
        start_success=torch.zeros(b, dtype=torch.bool),
        first_success=zero - 1,
        non_finite=zero.clone(),
        start_point=x.clone(),
        noise=x.new_full((b,), torch.nan),
        mu=x.new_full((b,), torch.nan),
        signal=x.new_full((b,), torch.nan),
        chosen=zero.clone(),
    )


def rollout(
    optimizer: Optimizer[S, Any],
    oracle: Oracle,
    state: S,
    steps: int,
    *,
    problem: Tensor | None = None,
    trajectory: Trajectory | None = None,
    queue: Queue | None = None,
    keep_graph: bool = False,
    check_start: bool = False,
    measure_noise: bool = False,
    watch_flat: bool = False,
    watch_steep: bool = False,
    stop_on_success: bool = False,
    target: float | None = None,
    final: Purpose | None = Purpose.MONITOR,
    on_step: Callable[[Step], None] | None = None,
    on_change: Callable[[Snapshot], None] | None = None,
) -> tuple[S, Trajectory]:
    """Run an optimizer on B problems for a number of steps; problems that finish leave the batch.

    Iterates of a constrained objective are brought back into its set after each step: it is flat outside, and an
    iterate that left would see no slope to come back by.

    Args:
        optimizer: any optimizer.
        oracle: what it queries. Its budget is looked at before each step, and never passed.
        state: of ``optimizer.init``, or of an earlier rollout; with a queue that of its running problems.
        steps: how many steps each problem takes at most, those of ``trajectory`` included.
        problem: (B,) the objective's row of each problem; by default 0 .. B - 1.
        trajectory: of an earlier rollout that is to go on; it is updated in place. A queue needs one, ``blank`` say.
        queue: run a few problems at once and begin another whenever one has finished; None runs all at once.
        keep_graph: keep the graph of the states for meta-training; then no problem leaves early.
        check_start: evaluate where each problem starts (``Objective.origin``, else the starting point), for one
            query, before its first step. One that is a success already takes no step.
        measure_noise: measure the noise of each problem where it starts, before its first step, and tell the optimizer.
            Queries are kept back then for the end of noisy problems, where the last iterate, the point with the
            lowest value and the start are evaluated again, and what is best on the mean is called the best point. A
            last iterate above the start is replaced by the best point.
        watch_flat: where half of the points of a problem's first step are answered alike, as by a target that rounds
            its input, measure the noise, and tell the optimizer from which distance on differences stand out from it.
        watch_steep: the same where the first step's differences are too large for the size of f, as under noise. The
            problem starts anew then, from where it began, and ends as with ``measure_noise``.
        stop_on_success: a problem stops at its first success.
        target: a problem stops when one of its points has this loss or a lower one.
        final: what the evaluation of the last iterate is counted as. With ``Purpose.OPTIMISE`` it is paid for by
            the budget and left out for problems that cannot; with None it is left out for all. Problems that stopped
            at a success, at the target, or with nothing finite, have no last iterate to evaluate.
        on_step: is shown every step; may raise to interrupt (the last whole step is in ``trajectory``).
        on_change: is shown what to go on from whenever points were evaluated and noted.

    Returns:
        The state and the trajectory of all B problems; with a queue no state is left.

    Raises:
        InputError: steps is negative, or the shapes do not belong together.
    """
    if steps < 0:
        raise InputError(f"steps is {steps}; expected 0 or more")
    if queue is not None and (queue.batch < 1 or trajectory is None or keep_graph):
        raise InputError("a queue needs a trajectory, a batch of at least 1, and keeps no graph")
    x: Tensor = state.x if trajectory is None else trajectory.final_point  # type: ignore[attr-defined]
    problem = torch.arange(x.shape[0]) if problem is None else problem
    if problem.shape != x.shape[:1]:
        raise InputError(f"problem has shape {tuple(problem.shape)}; expected ({x.shape[0]},)")
    record = blank(steps, x) if trajectory is None else _longer(trajectory, steps)
    # Problems that had done all steps of an earlier rollout go on where this one allows more; what was their last
    # iterate then is none now.
    further = (record.reason == StopReason.STEPS) & (record.steps < steps)
    if queue is None:
        record.reason[further] = StopReason.RUNNING
        record.final_known[further] = False
        record.final_loss[further] = torch.nan
        record.final_success[further] = False

    noise_ends = measure_noise or watch_steep
    whole = state
    live = (record.reason == StopReason.RUNNING).nonzero().squeeze(1)
    waiting = live[:0]
    if queue is not None:
        going = record.reason[queue.running] == StopReason.RUNNING
        waiting = live[~torch.isin(live, queue.running)]
        if not bool(going.all()):  # they stopped at the last step of an interrupted run, and had no time to leave
            record.final_point[queue.running[~going]] = _points(state, ~going)
            _settle(record, queue.running[~going])
        live = queue.running[going]
        running = state if bool(going.all()) else select(state, going)
    else:
        running = state if live.numel() == x.shape[0] else select(state, live)

    def assemble() -> S:
        return running if live.numel() == x.shape[0] else assign(whole, live, running)

    def changed() -> None:
        if on_change is not None:
            on_change(Snapshot(live, running, record))

    device: torch.device = state.x.device if queue is None else queue.device  # type: ignore[attr-defined]
    if _evaluate_final(record, oracle, record.reason.nonzero().squeeze(1), problem, final, device):
        changed()
    with torch.set_grad_enabled(keep_graph):
        while True:
            going = record.reason[live] == StopReason.RUNNING  # who has a reason to stop keeps it
            cost = optimizer.queries_per_step + (_kept_back(record, oracle, live) if noise_ends else 0)
            record.reason[live[going & ~oracle.affords(problem[live], cost)]] = StopReason.BUDGET
            record.reason[live[going & (record.steps[live] >= steps)]] = StopReason.STEPS
            stay = record.reason[live] == StopReason.RUNNING
            if not bool(stay.all()) and (not keep_graph or not bool(stay.any())):
                gone = live[~stay]
                # A problem that took no step, its start being a success, stays where it was.
                record.final_point[gone] = _points(running, ~stay)
                _settle(record, gone)
                paid = _evaluate_final(record, oracle, gone, problem, final, device)
                if noise_ends:
                    paid = _settle_noise(record, oracle, gone, problem, device) or paid
                if keep_graph:
                    break
                whole = assemble() if queue is None else whole
                running = select(running, stay)
                live = live[stay]
                if paid:
                    changed()
            if queue is not None and waiting.numel() and live.numel() < queue.batch:
                room = queue.batch - live.numel()
                begun, waiting = waiting[:room], waiting[room:]
                fresh = queue.begin(begun)
                running = fresh if live.numel() == 0 else concatenate(running, fresh)
                live = torch.cat((live, begun))
                continue
            if live.numel() == 0:
                break
            unchecked = ~record.checked[live] & (record.steps[live] == 0)
            if check_start and bool(unchecked.any()):
                _check_start(record, oracle, live[unchecked], select(running.x, unchecked), problem)  # type: ignore[attr-defined]
                changed()
                continue
            unmeasured = record.noise[live].isnan() & (record.steps[live] == 0) if measure_noise else unchecked & False
            if bool(unmeasured.any()):
                told = _measure(record, oracle, optimizer, live[unmeasured], select(running, unmeasured), problem)
                running = assign(running, unmeasured.nonzero().squeeze(1), told)
                changed()
                continue
            before = running
            queries, evaluation, running = take_step(optimizer, oracle, running, problem[live])
            if oracle.objective.constrained:
                inside = oracle.objective.project(running.x, problem[live])  # type: ignore[attr-defined]
                running = running._replace(x=inside)  # type: ignore[attr-defined]
            first = (record.steps[live] == 0) & record.noise[live].isnan()
            _record(record, live, queries, evaluation, optimizer.evaluates_iterate)
            if (watch_flat or watch_steep) and bool(first.any()) and optimizer.goes_by_mu:
                points, loss = queries.points, evaluation.loss
                doubtful = unchecked & False
                if watch_flat:
                    doubtful = doubtful | measuring.is_flat(oracle, points, loss, problem[live]).cpu()
                if watch_steep:
                    doubtful = doubtful | measuring.is_steep(points, loss, oracle.objective.scale).cpu()
                doubtful &= first
                if bool(doubtful.any()):
                    told = _measure(record, oracle, optimizer, live[doubtful], select(before, doubtful), problem)
                    running = assign(running, doubtful.nonzero().squeeze(1), told)
            if not keep_graph:
                _stop(record, live, evaluation, stop_on_success, target)
            changed()
            if on_step is not None:
                on_step(Step(running, live, queries, evaluation, record))
    return running if keep_graph or queue is not None else whole, record


def take_step(optimizer: Optimizer[S, Any], oracle: Oracle, state: S, problem: Tensor) -> tuple[Queries, Evaluation, S]:
    """One step: ask, evaluate, tell. This is all there is to driving an optimizer by hand."""
    queries = optimizer.ask(state)
    step = state.key.step if oracle.objective.stochastic else None  # type: ignore[attr-defined]
    if optimizer.order == 0:
        evaluation = oracle.evaluate(queries.points, problem, step=step)
        return queries, evaluation, optimizer.tell(state, queries, evaluation.loss)
    loss, gradient = oracle.gradient(queries.points[:, 0], problem, step=step, purpose=Purpose.OPTIMISE)
    evaluation = Evaluation(loss.unsqueeze(1))
    return queries, evaluation, optimizer.tell(state, queries, evaluation.loss, gradient.unsqueeze(1))


def _record(record: Trajectory, live: Tensor, queries: Queries, evaluation: Evaluation, has_base: bool) -> None:
    loss = evaluation.loss.detach().cpu()
    points = queries.points.detach()
    m = loss.shape[1]
    row = record.steps[live]
    # Rows of steps not taken yet hold what was paid so far, a lost call or an earlier last iterate included.
    before = record.queries[row, live]
    if has_base:
        record.loss[row, live] = loss[:, 0].to(record.loss.dtype)
    record.non_finite[live] += (~loss.isfinite()).sum(1)

    _keep_best(record.best_loss, record.best_point, live, loss, points)
    if evaluation.success is not None:
        success = evaluation.success.cpu()
        if has_base:
            first_step = (row == 0) & ~record.checked[live]
            record.start_success[live[first_step]] = success[first_step, 0]
        first = before + success.int().argmax(1) + 1
        new = success.any(1) & (record.first_success[live] < 0)
        record.first_success[live[new]] = first[new]
        _keep_best(record.success_loss, record.success_point, live, loss.masked_fill(~success, torch.nan), points)
    record.steps[live] = row + 1
    # The next row begins with what there is; those after it wait until the problem stops, so that a step costs the
    # same however many there are.
    for at in (row, (row + 1).clamp(max=record.queries.shape[0] - 1)):
        record.queries[at, live] = before + m
        record.best[at, live] = record.best_loss[live]


def _settle(record: Trajectory, rows: Tensor) -> None:
    """Rows of steps that problems (K,) will not take repeat the last value."""
    later = torch.arange(record.queries.shape[0]).unsqueeze(1) >= record.steps[rows]
    record.queries[:, rows] = torch.where(later, record.total_queries[rows], record.queries[:, rows])
    record.best[:, rows] = torch.where(later, record.best_loss[rows], record.best[:, rows])


def stopped_at(now: Snapshot, why: StopReason) -> Trajectory:
    """The trajectory of a run that is given up at a snapshot: problems that had not stopped did so for this reason.

    Their last iterates are where they stand, and are not evaluated. The trajectory is changed in place.
    """
    record, rows = now.trajectory, now.running
    if rows.numel():
        record.final_point[rows] = _points(now.state, torch.ones(rows.shape, dtype=torch.bool))
        _settle(record, rows)
    record.reason[record.reason == StopReason.RUNNING] = why
    return record


def _keep_best(best: Tensor, point: Tensor, live: Tensor, loss: Tensor, points: Tensor) -> None:
    lowest, where = loss.nan_to_num(nan=torch.inf).min(1)
    better = lowest < best[live]
    if bool(better.any()):
        rows = better.nonzero().squeeze(1)
        best[live[rows]] = lowest[rows].to(best.dtype)
        chosen = points[rows.to(points.device), where[rows].to(points.device)]
        point[live[rows]] = chosen.cpu().to(point.dtype)


def _stop(record: Trajectory, live: Tensor, evaluation: Evaluation, on_success: bool, target: float | None) -> None:
    dead = evaluation.loss.isnan().all(1).cpu()
    record.reason[live[dead]] = StopReason.NON_FINITE
    if target is not None:
        record.reason[live[record.best_loss[live] <= target]] = StopReason.TARGET
    if on_success:
        record.reason[live[record.first_success[live] > 0]] = StopReason.SUCCESS


def _points(state: Any, which: Tensor) -> Tensor:
    """The iterates of some problems, on the CPU."""
    x: Tensor = state.x.detach()
    return x[which.to(x.device)].cpu()


def _check_start(record: Trajectory, oracle: Oracle, rows: Tensor, x: Tensor, problem: Tensor) -> None:
    """Evaluate where problems (K,) at x (K, d) start; those that are a success already stop there."""
    x = x.detach()
    origin = oracle.objective.origin(problem[rows], x)
    points = (x if origin is None else origin).unsqueeze(1)
    evaluation = oracle.evaluate(points, problem[rows])
    record.checked[rows] = True
    record.start_loss[rows] = evaluation.loss[:, 0].cpu().to(record.start_loss.dtype)
    _paid_for(record, rows, evaluation, points)
    if evaluation.success is not None:
        success = evaluation.success[:, 0].cpu()
        record.start_success[rows] = success
        record.reason[rows[success]] = StopReason.SUCCESS


def _evaluate_final(
    record: Trajectory, oracle: Oracle, rows: Tensor, problem: Tensor, purpose: Purpose | None, device: torch.device
) -> bool:
    """Evaluate the last iterates of those of some problems (K,) that have one; whether there were any."""
    if purpose is None:
        return False
    # Who asked to stop at a success or at a value has it: nothing more is paid for.
    ended = (record.reason[rows] == StopReason.STEPS) | (record.reason[rows] == StopReason.BUDGET)
    wanted = ended & ~record.final_known[rows]
    if purpose is Purpose.OPTIMISE:
        wanted &= oracle.affords(problem[rows], 1)
    rows = rows[wanted]
    if rows.numel() == 0:
        return False
    points = record.final_point[rows].unsqueeze(1).to(device)
    evaluation = oracle.evaluate(points, problem[rows], purpose=purpose)
    record.final_known[rows] = True
    record.final_loss[rows] = evaluation.loss[:, 0].cpu().to(record.final_loss.dtype)
    if evaluation.success is not None:
        record.final_success[rows] = evaluation.success[:, 0].cpu()
    if purpose is Purpose.OPTIMISE:
        _paid_for(record, rows, evaluation, points)
    return True


def _measure(
    record: Trajectory, oracle: Oracle, optimizer: Optimizer[S, Any], rows: Tensor, state: S, problem: Tensor
) -> S:
    """Measure the noise of problems (K,) that have not begun; their state that knows it."""
    x, key = state.x.detach(), state.key  # type: ignore[attr-defined]

    def pay(some: Tensor, values: Tensor, points: Tensor) -> None:
        _paid_for(record, rows[some], Evaluation(values), points)

    found = measuring.measure(oracle, x, key, problem[rows], oracle.objective.scale, pay)
    for field, value in (
        ("noise", found.noise),
        ("mu", found.mu),
        ("signal", found.signal),
        ("start_loss", found.start),
    ):
        getattr(record, field)[rows] = value.cpu().to(record.noise.dtype)
    return optimizer.informed(state, found.noise, found.mu, found.start)


def _kept_back(record: Trajectory, oracle: Oracle, rows: Tensor) -> Tensor | int:
    """Points (K,) that problems must not spend on steps."""
    if oracle.budget is None:
        return 0
    # One is for the last iterate, which is evaluated before the three are compared.
    return torch.where(record.noise[rows] > 0, 1 + 3 * measuring.repeats(oracle.budget), 0)


def _settle_noise(record: Trajectory, oracle: Oracle, rows: Tensor, problem: Tensor, device: torch.device) -> bool:
    """What problems (K,) whose noise was measured are left with; whether anything was evaluated for it."""
    known = record.best_loss[rows].isfinite()
    times = measuring.repeats(oracle.budget or 3000)
    noisy = known & (record.noise[rows] > 0) & (record.reason[rows] != StopReason.SUCCESS)
    noisy &= oracle.affords(problem[rows], 3 * times)
    some = rows[noisy]
    if some.numel():
        # In this order: where two are equal, the last iterate is taken before the start, and both before a lucky one.
        choices = (Choice.LAST, Choice.START, Choice.REPEATED)
        points = torch.stack((record.final_point[some], record.start_point[some], record.best_point[some]), 1)
        means = measuring.compared(oracle, points.to(device), problem[some], times).cpu()
        error = record.noise[some].to(means) / math.sqrt(times)
        # The others have to be lower by more than their means are off.
        at = torch.stack((means[:, 0] - 2 * error, means[:, 1] - error, means[:, 2]), 1).argmin(1)
        each = torch.arange(some.numel())
        record.chosen[some] = torch.tensor([int(choice) for choice in choices])[at]
        record.best_loss[some] = means[each, at].to(record.best_loss.dtype)
        record.best_point[some] = points[each, at]
        record.final_loss[some] = means[:, 0].to(record.final_loss.dtype)
        record.start_loss[some] = means[:, 1].to(record.start_loss.dtype)
        _more_paid(record, some, 3 * times)
    # An iterate that ended above the start is nothing to go on from.
    start, last = record.start_loss[rows], record.final_loss[rows]
    if record.loss.shape[0]:
        # What the steps saw stands in for what nobody paid for: the first iterate, and the one before the last.
        start = torch.where(start.isnan(), record.loss[0, rows].to(start), start)
        before = record.loss[(record.steps[rows] - 1).clamp(min=0), rows].to(last)
        last = torch.where(record.final_known[rows], last, before)
    limit = start + 3 * record.noise[rows].nan_to_num(nan=0.0) / math.sqrt(times)
    worse = rows[known & ~limit.isnan() & ~last.isnan() & ~(last <= limit)]
    record.final_point[worse], record.final_loss[worse] = record.best_point[worse], record.best_loss[worse]
    record.final_known[worse] = True
    return bool(some.numel())


def _more_paid(record: Trajectory, rows: Tensor, points: int) -> None:
    room = record.queries.shape[0]
    if room:
        later = torch.arange(room).unsqueeze(1) >= record.steps[rows].clamp(max=room - 1)
        record.queries[:, rows] += torch.where(later, points, 0)


def _paid_for(record: Trajectory, rows: Tensor, evaluation: Evaluation, x: Tensor) -> None:
    """Points apart from steps that the budget paid for, a start or a last iterate, count like any other."""
    loss = evaluation.loss.cpu()
    _keep_best(record.best_loss, record.best_point, rows, loss, x)
    record.non_finite[rows] += (~loss.isfinite()).sum(1)
    total = record.total_queries[rows] + loss.shape[1]
    if evaluation.success is not None:
        success = evaluation.success.cpu()
        new = success[:, 0] & (record.first_success[rows] < 0)
        record.first_success[rows[new]] = total[new]
        _keep_best(record.success_loss, record.success_point, rows, loss.masked_fill(~success, torch.nan), x)
    room = record.queries.shape[0]
    if room:
        later = torch.arange(room).unsqueeze(1) >= record.steps[rows].clamp(max=room - 1)
        record.queries[:, rows] = torch.where(later, total, record.queries[:, rows])
        record.best[:, rows] = torch.where(later, record.best_loss[rows], record.best[:, rows])


def _longer(trajectory: Trajectory, steps: int) -> Trajectory:
    """The trajectory with room for this many steps; the same tensors where there is room already."""
    have = trajectory.loss.shape[0]
    if have >= steps:
        return trajectory
    more = steps - have
    b = trajectory.steps.shape[0]
    last = trajectory.total_queries.expand(more, b)
    best = trajectory.best_loss.expand(more, b)
    return trajectory._replace(
        loss=torch.cat((trajectory.loss, trajectory.loss.new_full((more, b), torch.nan))),
        best=torch.cat((trajectory.best, best)),
        queries=torch.cat((trajectory.queries, last)),
    )
