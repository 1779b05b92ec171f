"""The oracle: the only caller of objectives. It counts every point, keeps the budget, and cuts calls to size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from zoracle.errors import BudgetError, InputError
from zoracle.objectives.attack import ImageAttack
from zoracle.objectives.base import Objective
from zoracle.rollout.journal import Journal
from zoracle.types import Evaluation, Purpose

#: Points times dimension that one call of an objective is given at most: 2 ** 17 numbers are half a MiB in float32,
#: large enough that the call's own cost does not matter. In chunks twice as large a point costs half as much again on
#: the paper's MNIST network: glibc gives the memory of its activations back to the system after every call.
CHUNK_NUMBERS = 2**17


class Oracle:
    """Counts, budgets and chunks the queries to an objective of P problems.

    Args:
        objective: what is queried.
        budget: points for optimisation that each problem may cost at most, or None. Monitoring and meta-gradients
            are counted by themselves and not charged to it.
        chunk: points in one call of the objective at most; None chooses by dimension.

    Attributes:
        counts: points evaluated so far, (P,) int64 for each purpose.
        knows: for each purpose, whether the objective said what a success is; absent where it was not asked.
        journal: where calls are noted before they are made, and answers after, or None. Calls that an interrupted
            process had answered are answered from it.
        gradients: true gradients taken so far, (P,) int64; each counts as one.
        calling: whether the objective is being evaluated at this moment.

    Raises:
        InputError: the budget or the chunk is not positive.
    """

    def __init__(self, objective: Objective, *, budget: int | None = None, chunk: int | None = None) -> None:
        if budget is not None and budget < 1:
            raise InputError(f"budget is {budget}; expected at least 1 query a problem")
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk is {chunk}; expected at least 1 point a call")
        self.objective = objective
        self.budget = budget
        self.chunk = chunk or max(1, CHUNK_NUMBERS // objective.width)
        self.counts = {p: torch.zeros(objective.num_problems, dtype=torch.int64) for p in Purpose}
        self.knows: dict[Purpose, bool] = {}
        self.journal: Journal | None = None
        self.calling = False
        self.gradients = torch.zeros(objective.num_problems, dtype=torch.int64)

    def affords(self, problem: Tensor, points: int) -> Tensor:
        """Which of the problems (B,) can pay for this many more points each: (B,) bool."""
        if self.budget is None:
            return torch.ones(problem.shape, dtype=torch.bool)
        return self.counts[Purpose.OPTIMISE][problem] + points <= self.budget

    @torch.no_grad()
    def evaluate(
        self, points: Tensor, problem: Tensor, *, step: Tensor | None = None, purpose: Purpose = Purpose.OPTIMISE
    ) -> Evaluation:
        """Evaluate m points of each of B problems.

        Args:
            points: (B, m, d).
            problem: (B,) int64, the objective's row of each problem; a problem comes once a call.
            step: (B,) int64 for a stochastic objective; None asks for the full objective.
            purpose: what the points are counted as.

        Returns:
            Losses (B, m), detached, NaN wherever the objective's was not finite; successes (B, m) or None. A point
            whose loss is not finite is no success.

        Raises:
            BudgetError: a problem could not pay; nothing was evaluated.
        """
        b, m, _ = points.shape
        rows = problem.repeat_interleave(m)
        flat = points.flatten(0, 1)
        self.objective.check(flat, rows)
        if purpose is Purpose.OPTIMISE and not bool(self.affords(problem, m).all()):
            raise BudgetError(
                f"{m} more points would pass the budget of {self.budget} a problem; nothing was evaluated"
            )
        steps = None if step is None else step.repeat_interleave(m)
        losses: list[Tensor] = []
        successes: list[Tensor] = []
        for part in self._chunks(b * m):
            # Counted before the call: points that a failing model saw were paid for.
            self.counts[purpose] += rows[part].bincount(minlength=self.objective.num_problems)
            result = self._call(flat[part], rows[part], None if steps is None else steps[part], purpose)
            losses.append(result.loss.detach())
            if result.success is not None:
                successes.append(result.success)
        self.knows[purpose] = bool(successes)
        loss = torch.cat(losses).to(points.dtype).view(b, m)
        finite = loss.isfinite()
        success = torch.cat(successes).to(loss.device).view(b, m) & finite if successes else None
        return Evaluation(torch.where(finite, loss, torch.nan), success)

    def gradient(
        self, x: Tensor, problem: Tensor, *, step: Tensor | None = None, purpose: Purpose = Purpose.META_GRADIENT
    ) -> tuple[Tensor, Tensor]:
        """Losses (B,) and true gradients (B, d) at x (B, d), detached; counted one each.

        Raises:
            InputError: the objective is not differentiable.
            BudgetError: the purpose is to optimise and a problem could not pay.
        """
        self.objective.check(x, problem)
        if purpose is Purpose.OPTIMISE and not bool(self.affords(problem, 1).all()):
            raise BudgetError(f"one more gradient would pass the budget of {self.budget} a problem")
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for part in self._chunks(x.shape[0]):
            rows = problem[part]
            counted = rows.bincount(minlength=self.objective.num_problems)
            self.counts[purpose] += counted
            self.gradients += counted
            if self.journal is not None:
                self.journal.ask(purpose, rows)
            loss, gradient = self.objective.gradient(x[part], rows, None if step is None else step[part], checked=True)
            losses.append(loss)
            gradients.append(gradient)
        return torch.cat(losses).detach().to(x.dtype), torch.cat(gradients).detach().to(x.dtype)

    @torch.no_grad()
    def predict(self, points: Tensor, problem: Tensor) -> Tensor:
        """Predicted classes (B,) int64 of the images that points (B, d) stand for; counted as monitoring.

        Raises:
            InputError: the objective is no attack on images.
        """
        objective = self.objective
        if not isinstance(objective, ImageAttack):
            raise InputError(f"{type(objective).__name__} is no attack on images; there is nothing to predict")
        objective.check(points, problem)
        classes: list[Tensor] = []
        for part in self._chunks(points.shape[0]):
            rows = problem[part]
            self.counts[Purpose.MONITOR] += rows.bincount(minlength=objective.num_problems)

            def call(part: slice = part, rows: Tensor = rows) -> Evaluation:
                return Evaluation(objective.predict(points[part], rows).cpu().double())

            classes.append(self._asked(Purpose.MONITOR, rows, call).loss)
        return torch.cat(classes).long()

    def _call(self, points: Tensor, rows: Tensor, step: Tensor | None, purpose: Purpose) -> Evaluation:
        """One call of the objective, or what it was answered before an interruption."""
        answer = self._asked(purpose, rows, lambda: self.objective.evaluate(points, rows, step, checked=True))
        return Evaluation(answer.loss.to(points.device), answer.success)

    def _asked(self, purpose: Purpose, rows: Tensor, call: Callable[[], Evaluation]) -> Evaluation:
        """What a call is answered, noted in the journal before and after where there is one."""
        if self.journal is None:
            return self._marked(call)
        kept = self.journal.answered(purpose, rows)
        if kept is not None:
            return kept
        self.journal.ask(purpose, rows)
        result = self._marked(call)
        self.journal.answer(result)
        return result

    def _marked(self, call: Callable[[], Evaluation]) -> Evaluation:
        self.calling = True
        try:
            return call()
        finally:
            self.calling = False

    def _chunks(self, n: int) -> Iterator[slice]:
        for start in range(0, n, self.chunk):
            yield slice(start, min(start + self.chunk, n))
