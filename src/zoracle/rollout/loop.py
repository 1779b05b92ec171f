"""The only optimization loop. Training, attacks, comparisons and ``minimize`` all go through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.optimizers.base import Optimizer
from zoracle.rollout import measuring
from zoracle.rollout.ends import (
    Noise,
    check_start,
    evaluate_final,
    kept_back,
    measure_noise,
    note_noise,
    settle_noise,
)
from zoracle.rollout.oracle import Oracle
from zoracle.rollout.record import blank, iterates, longer, note_reasons, note_step, settle
from zoracle.state import assign, concatenate, select
from zoracle.types import Evaluation, Purpose, Queries, StopReason, Trajectory

S = TypeVar("S")


class Step(NamedTuple):
    """The argument of ``on_step`` after each step."""

    state: Any
    """The state after the step, of the L problems that took it."""
    live: Tensor
    """(L,) int64, which of the B problems took it."""
    queries: Queries
    """The queries of these L problems."""
    evaluation: Evaluation
    """Their evaluation."""
    trajectory: Trajectory
    """All B problems so far."""


class Snapshot(NamedTuple):
    """Everything needed to resume from here: the argument of ``on_change`` whenever points were evaluated."""

    running: Tensor
    """(L,) int64, which of the B problems run."""
    state: Any
    """Their state; None if none has run."""
    trajectory: Trajectory
    """All B problems so far."""


class Queue(NamedTuple):
    """Problems that run in turn: when one finishes, the next starts, and its state is dropped."""

    begin: Callable[[Tensor], Any]
    """Maps rows of problems (K,) to their initial state; called when they start."""
    batch: int
    """Number of problems that run at once."""
    running: Tensor
    """(L,) int64, the rows already running, whose state is ``state``; none at the beginning."""
    device: torch.device = torch.device("cpu")
    """Where their points live."""


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

    Iterates of a constrained objective are projected after each step: it is flat outside its feasible set, so an
    iterate outside would have no slope back.

    Args:
        optimizer: any optimizer.
        oracle: the oracle to query. Its budget is checked before each step and never exceeded.
        state: the state from ``optimizer.init`` or from an earlier rollout; with a queue, that of its running problems.
        steps: maximum number of steps per problem, including those in ``trajectory``.
        problem: (B,) the objective's row of each problem; by default 0 .. B - 1.
        trajectory: of an earlier rollout that is to continue; it is updated in place. A queue needs one, such as
            ``blank``.
        queue: run a few problems at once and start another whenever one has finished; None runs all at once.
        keep_graph: keep the graph of the states for meta-training; then no problem leaves early.
        check_start: before the first step, evaluate the start of each problem (``Objective.origin``, else the starting
            point) with one query. A problem that is already a success takes no step.
        measure_noise: before the first step, measure the noise of each problem at its start and pass it to the
            optimizer. Some queries are then reserved for the end of noisy problems, where the last iterate, the point
            with the lowest value and the start are evaluated again, and the one with the lowest mean becomes the best
            point. A last iterate above the start is replaced by the best point.
        watch_flat: if half of the values of a problem's first step are equal, as for a target that rounds its input,
            measure the noise and pass the optimizer the distance at which differences exceed it.
        watch_steep: the same if the differences of the first step are too large for the size of f, as under noise. The
            problem then restarts from its starting point and ends as with ``measure_noise``.
        stop_on_success: a problem stops at its first success.
        target: a problem stops when one of its points has this loss or a lower one.
        final: the purpose under which the evaluation of the last iterate is counted. With ``Purpose.OPTIMISE`` it is
            charged to the budget, and omitted for problems that cannot afford it; with None it is omitted for all.
            Problems that stopped at a success, at the target, or without finite values have no last iterate to
            evaluate.
        on_step: called after every step; may raise to interrupt (the last whole step is in ``trajectory``).
        on_change: called with a :class:`Snapshot` whenever points were evaluated and recorded.

    Returns:
        The state and the trajectory of all B problems; with a queue there is no state.

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
    record = blank(steps, x) if trajectory is None else longer(trajectory, steps)
    # Problems that had taken all steps of an earlier rollout continue if this one allows more; their former last
    # iterate is then no longer the last.
    further = (record.reason == StopReason.STEPS) & (record.steps < steps)
    if queue is None:
        record.reason[further] = StopReason.RUNNING
        record.final_known[further] = False
        record.final_loss[further] = torch.nan
        record.final_success[further] = False

    noise_ends = measure_noise or watch_steep
    batch = _Batch(optimizer, oracle, problem, record, queue, on_change)
    batch.begin(state, final, noise_ends)
    with torch.set_grad_enabled(keep_graph):
        while True:
            stay = batch.reasons(steps, noise_ends)
            if not bool(stay.all()) and (not keep_graph or not bool(stay.any())):
                batch.leave(stay, final, noise_ends, keep_graph)
                if keep_graph:
                    break
            if batch.refill():
                continue
            if batch.live.numel() == 0:
                break
            if check_start and batch.check_start():
                continue
            if measure_noise and batch.measure_noise():
                continue
            queries, evaluation = batch.step(watch_flat, watch_steep)
            if not keep_graph:
                note_reasons(record, batch.live, evaluation, stop_on_success, target)
            batch.changed()
            if on_step is not None:
                on_step(Step(batch.running, batch.live, queries, evaluation, record))
    return batch.running if keep_graph or queue is not None else batch.whole, record


class _Batch(Generic[S]):
    """The running problems, the waiting ones, and the record of all.

    Evaluations are recorded once all of their calls are answered, and reported at once: if a call
    fails, the record is that of the last snapshot, from which a run continues.
    """

    def __init__(
        self,
        optimizer: Optimizer[S, Any],
        oracle: Oracle,
        problem: Tensor,
        record: Trajectory,
        queue: Queue | None,
        on_change: Callable[[Snapshot], None] | None,
    ) -> None:
        self.optimizer = optimizer
        self.oracle = oracle
        self.problem = problem
        self.record = record
        self.queue = queue
        self.on_change = on_change
        self.live = (record.reason == StopReason.RUNNING).nonzero().squeeze(1)
        self.waiting = self.live[:0]
        self.device = torch.device("cpu")

    def begin(self, state: S, final: Purpose | None, noise_ends: bool) -> None:
        """Take the initial state of a rollout; problems that ended but are still in the batch leave now."""
        record, live, queue = self.record, self.live, self.queue
        self.whole = self.running = state
        if queue is not None:
            self.device = queue.device
            going = record.reason[queue.running] == StopReason.RUNNING
            self.waiting = live[~torch.isin(live, queue.running)]
            if not bool(going.all()):  # they stopped at the last step of an interrupted run, before they could leave
                record.final_point[queue.running[~going]] = iterates(state, ~going)
                settle(record, queue.running[~going])
                self.running = select(state, going)
            self.live = queue.running[going]
        else:
            self.device = state.x.device  # type: ignore[attr-defined]
            self.running = state if live.numel() == self.problem.shape[0] else select(state, live)
        if self.end(record.reason.nonzero().squeeze(1), final, noise_ends and queue is not None):
            self.changed()

    def changed(self) -> None:
        """Report a snapshot to continue from."""
        if self.on_change is not None:
            self.on_change(Snapshot(self.live, self.running, self.record))

    def reasons(self, steps: int, noise_ends: bool) -> Tensor:
        """Record which problems cannot continue; returns which stay, (L,)."""
        record, live = self.record, self.live
        going = record.reason[live] == StopReason.RUNNING  # an earlier reason to stop is kept
        cost = self.optimizer.queries_per_step + (kept_back(record, self.oracle, live) if noise_ends else 0)
        record.reason[live[going & ~self.oracle.affords(self.problem[live], cost)]] = StopReason.BUDGET
        record.reason[live[going & (record.steps[live] >= steps)]] = StopReason.STEPS
        return record.reason[live] == StopReason.RUNNING

    def leave(self, stay: Tensor, final: Purpose | None, noise_ends: bool, keep_graph: bool) -> None:
        """End the problems that do not stay (L,); if the graph is kept, they remain in the state."""
        record, gone = self.record, self.live[~stay]
        # A problem without steps, because its start is a success, stays where it was.
        record.final_point[gone] = iterates(self.running, ~stay)
        settle(record, gone)
        paid = self.end(gone, final, noise_ends)
        if keep_graph:
            return
        if self.queue is None:
            every = self.live.numel() == self.problem.shape[0]
            self.whole = self.running if every else assign(self.whole, self.live, self.running)
        self.running = select(self.running, stay)
        self.live = self.live[stay]
        if paid:
            self.changed()

    def end(self, rows: Tensor, final: Purpose | None, noise_ends: bool) -> bool:
        """Evaluate the final points of stopped problems (K,); returns whether anything was evaluated."""
        paid = evaluate_final(self.record, self.oracle, rows, self.problem, final, self.device)
        if not noise_ends:
            return paid
        if paid:
            self.changed()
        return settle_noise(self.record, self.oracle, rows, self.problem, self.device) or paid

    def refill(self) -> bool:
        """Begin waiting problems while there is room; returns whether there were any."""
        if self.queue is None or not self.waiting.numel() or self.live.numel() >= self.queue.batch:
            return False
        room = self.queue.batch - self.live.numel()
        begun, self.waiting = self.waiting[:room], self.waiting[room:]
        fresh = self.queue.begin(begun)
        self.running = fresh if self.live.numel() == 0 else concatenate(self.running, fresh)
        self.live = torch.cat((self.live, begun))
        return True

    def check_start(self) -> bool:
        """Evaluate the starts of problems that have not begun; returns whether there were any."""
        unchecked = ~self.record.checked[self.live] & (self.record.steps[self.live] == 0)
        if not bool(unchecked.any()):
            return False
        x = select(self.running.x, unchecked)  # type: ignore[attr-defined]
        check_start(self.record, self.oracle, self.live[unchecked], x, self.problem)
        self.changed()
        return True

    def measure_noise(self) -> bool:
        """Measure the noise of problems that have not begun; returns whether there were any."""
        unmeasured = self.record.noise[self.live].isnan() & (self.record.steps[self.live] == 0)
        if not bool(unmeasured.any()):
            return False
        state = select(self.running, unmeasured)
        noise = measure_noise(self.oracle, state, self.problem[self.live[unmeasured]])
        self._inform(unmeasured, state, noise)
        self.changed()
        return True

    def step(self, watch_flat: bool, watch_steep: bool) -> tuple[Queries, Evaluation]:
        """Take and record one step of all running problems."""
        record, live, oracle = self.record, self.live, self.oracle
        before = self.running
        queries, evaluation, self.running = take_step(self.optimizer, oracle, self.running, self.problem[live])
        if oracle.objective.constrained and not self.optimizer.keeps_inside(self.running):
            inside = oracle.objective.project(self.running.x, self.problem[live])  # type: ignore[attr-defined]
            self.running = self.running._replace(x=inside)  # type: ignore[attr-defined]
        first = (record.steps[live] == 0) & record.noise[live].isnan()
        doubtful = torch.zeros_like(first)
        if (watch_flat or watch_steep) and bool(first.any()) and self.optimizer.goes_by_mu:
            points, loss = queries.points, evaluation.loss
            if watch_flat:
                doubtful = doubtful | measuring.is_flat(oracle, points, loss, self.problem[live]).cpu()
            if watch_steep:
                doubtful = doubtful | measuring.is_steep(points, loss, oracle.objective.scale).cpu()
            doubtful &= first
        again = select(before, doubtful) if bool(doubtful.any()) else None
        noise = None if again is None else measure_noise(oracle, again, self.problem[live[doubtful]])
        note_step(record, live, queries, evaluation, self.optimizer.evaluates_iterate)
        if again is not None and noise is not None:
            self._inform(doubtful, again, noise)
        return queries, evaluation

    def _inform(self, which: Tensor, state: S, noise: Noise) -> None:
        """Continue some live problems (L,) from states informed about their noise."""
        told = note_noise(self.record, self.optimizer, self.live[which], state, noise)
        self.running = assign(self.running, which.nonzero().squeeze(1), told)


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


def stopped_at(now: Snapshot, why: StopReason) -> Trajectory:
    """The trajectory of a run abandoned at a snapshot: problems still running stop for this reason.

    Their last iterates are the current ones, and are not evaluated. The trajectory is changed in place.
    """
    record, rows = now.trajectory, now.running
    if rows.numel():
        record.final_point[rows] = iterates(now.state, torch.ones(rows.shape, dtype=torch.bool))
        settle(record, rows)
    record.reason[record.reason == StopReason.RUNNING] = why
    return record
