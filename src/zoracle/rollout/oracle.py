"""The oracle: the only caller of objectives. It counts every point, keeps the budget, and cuts calls to size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from zoracle.errors import BudgetError, InputError
from zoracle.objectives.attack import ImageAttack
from zoracle.objectives.base import Objective
from zoracle.rollout.journal import Journal, Known, digests
from zoracle.types import Evaluation, Purpose

#: Points times dimension that one call of an objective is given at most: 2 ** 17 numbers are half a MiB in float32,
#: large enough that the call's own cost does not matter. In chunks twice as large a point costs half as much again on
#: the paper's MNIST network: glibc gives the memory of its activations back to the system after every call.
CHUNK_NUMBERS = 2**17
#: Large points, such as images of 224x224 pixels, are given three at a time, as long as together they have at most so
#: many numbers: EfficientNet-Lite0 in ONNX Runtime answers three images in one call in 2 to 5 % less time than one by
#: one, and what the call itself costs is divided.
_FEW, _FEW_NUMBERS = 3, 2**20


class Oracle:
    """Counts, budgets and chunks the queries to an objective of P problems.

    Args:
        objective: what is queried.
        budget: points for optimisation that each problem may cost at most, or None. Monitoring and meta-gradients
            are counted by themselves and not charged to it.
        chunk: maximum number of points in one call of the objective; None chooses by dimension.
        cell: rows k cell .. (k + 1) cell - 1 form a cell, whose points never share a call with those of other cells.
            Because the last bits of a network's answer depend on the whole batch, problems give the same bits whenever
            their whole cell is run. None puts all rows into one cell.

    Attributes:
        counts: points evaluated so far, (P,) int64 for each purpose.
        knows: for each purpose, whether the objective reports successes; absent before the first call.
        journal: the journal that records calls before they are made and answers afterwards, or None. It also supplies
            the answers that an interrupted process had received.
        lost: (P,) int64, points that were requested again after interruptions; they are in no other count.
        gradients: true gradients taken so far, (P,) int64; each counts as one.
        calling: whether the objective is being evaluated at this moment.

    Raises:
        InputError: the budget or the chunk is not positive.
    """

    def __init__(
        self, objective: Objective, *, budget: int | None = None, chunk: int | None = None, cell: int | None = None
    ) -> None:
        if budget is not None and budget < 1:
            raise InputError(f"budget is {budget}; expected at least 1 query per problem")
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk is {chunk}; expected at least 1 point per call")
        self.objective = objective
        self.budget = budget
        few = min(_FEW, _FEW_NUMBERS // objective.width)
        self.chunk = chunk or max(1, few, CHUNK_NUMBERS // objective.width)
        self.cell = cell
        self.counts = {p: torch.zeros(objective.num_problems, dtype=torch.int64) for p in Purpose}
        self.knows: dict[Purpose, bool] = {}
        self.journal: Journal | None = None
        self.calling = False
        self.lost = torch.zeros(objective.num_problems, dtype=torch.int64)
        self.gradients = torch.zeros(objective.num_problems, dtype=torch.int64)

    def affords(self, problem: Tensor, points: int | Tensor) -> Tensor:
        """Whether the budget of problems (B,) covers this many more points each, a number or (B,): (B,) bool."""
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
            problem: (B,) int64, the objective's row of each problem; each problem occurs once per call.
            step: (B,) int64 for a stochastic objective; None evaluates the full objective.
            purpose: the purpose under which the points are counted.

        Returns:
            Losses (B, m), detached, with NaN for non-finite ones; successes (B, m) or None. A point with a non-finite
            loss is not a success.

        Raises:
            BudgetError: the points would exceed the budget of a problem; nothing was evaluated.
        """
        b, m, _ = points.shape
        rows = problem.repeat_interleave(m)
        flat = points.flatten(0, 1)
        self.objective.check(flat, rows)
        if purpose is Purpose.OPTIMISE and not bool(self.affords(problem, m).all()):
            raise BudgetError(
                f"{m} more points would exceed the budget of {self.budget} per problem; nothing was evaluated"
            )
        steps = None if step is None else step.repeat_interleave(m)
        losses: list[Tensor] = []
        successes: list[Tensor] = []
        try:
            for part in self._chunks(rows):
                result = self._call(flat[part], rows[part], None if steps is None else steps[part], purpose)
                losses.append(result.loss.detach())
                if result.success is not None:
                    successes.append(result.success)
        except Exception:
            self._abandon(problem, m, purpose)
            raise
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
            raise BudgetError(f"one more gradient would exceed the budget of {self.budget} per problem")
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for part in self._chunks(problem):
            rows = problem[part]
            if self.journal is not None:
                self.journal.ask(purpose, rows)
            self.gradients += self._count(rows, purpose)
            loss, gradient = self.objective.gradient(x[part], rows, None if step is None else step[part], checked=True)
            losses.append(loss)
            gradients.append(gradient)
        return torch.cat(losses).detach().to(x.dtype), torch.cat(gradients).detach().to(x.dtype)

    @torch.no_grad()
    def predict(self, points: Tensor, problem: Tensor) -> Tensor:
        """Predicted classes (B,) int64 of the images that points (B, d) stand for; counted as monitoring.

        Raises:
            InputError: the objective is not an attack on images.
        """
        objective = self.objective
        if not isinstance(objective, ImageAttack):
            raise InputError(f"{type(objective).__name__} is not an attack on images; there is nothing to predict")
        objective.check(points, problem)
        classes: list[Tensor] = []
        for part in self._chunks(problem):

            def call(points: Tensor, rows: Tensor, step: Tensor | None) -> Evaluation:
                return Evaluation(objective.predict(points, rows).cpu().double())

            classes.append(self._asked(points[part], problem[part], None, Purpose.MONITOR, call).loss.cpu())
        return torch.cat(classes).long()

    @torch.no_grad()
    def again(self, point: Tensor, row: int) -> float:
        """The loss of a point (d,) that was queried before, to check that it has not changed.

        It counts only as a repeated point, in ``journal.lost``.
        """
        assert self.journal is not None
        rows = torch.tensor([row])
        self.journal.again(Purpose.MONITOR, rows)
        return float(self._marked(lambda: self.objective.evaluate(point.unsqueeze(0), rows, None)).loss)

    def _call(self, points: Tensor, rows: Tensor, step: Tensor | None, purpose: Purpose) -> Evaluation:
        """One call of the objective, or its recorded answer from before an interruption."""

        def call(points: Tensor, rows: Tensor, step: Tensor | None) -> Evaluation:
            return self.objective.evaluate(points, rows, step, checked=True, cells=self._cells(rows))

        # Each cell is a call of the black box: if one fails, later ones are neither made nor counted.
        sizes = [points.shape[0]] if self.journal is None else self._cells(rows)
        if len(sizes) == 1:
            loss, success = self._asked(points, rows, step, purpose, call)
            return Evaluation(loss.to(points.device), None if success is None else success.to(points.device))
        steps = [None] * len(sizes) if step is None else torch.split(step, sizes)
        parts = zip(torch.split(points, sizes), torch.split(rows, sizes), steps, strict=True)
        answers = [self._asked(*part, purpose, call) for part in parts]
        loss = torch.cat([answer.loss.to(points.device) for answer in answers])
        successes = [answer.success.to(points.device) for answer in answers if answer.success is not None]
        return Evaluation(loss, torch.cat(successes) if successes else None)

    def _asked(
        self,
        points: Tensor,
        rows: Tensor,
        step: Tensor | None,
        purpose: Purpose,
        call: Callable[[Tensor, Tensor, Tensor | None], Evaluation],
    ) -> Evaluation:
        """The answer of a call; answers from before an interruption are not requested again.

        Each point is counted once: before the call, since points seen by a failing model were paid for, and after it
        is recorded, since a call that cannot be recorded is not made.
        """
        if self.journal is None:
            self._count(rows, purpose)
            return self._marked(lambda: call(points, rows, step))
        hashes = digests(points, step)
        known = self.journal.recall(purpose, rows, hashes)
        new = [i for i, one in enumerate(known) if one is None]
        self._count(rows[[i for i, one in enumerate(known) if one is not None]], purpose)
        if not new:
            return _together(known, None)
        whole = len(new) == len(known)
        asked = (points, rows, step) if whole else (points[new], rows[new], None if step is None else step[new])
        self.journal.ask(purpose, asked[1], hashes if whole else tuple(hashes[i] for i in new))
        self._count(asked[1], purpose)
        result = self._marked(lambda: call(*asked))
        self.journal.answer(result)
        return result if whole else _together(known, result)

    def _count(self, rows: Tensor, purpose: Purpose) -> Tensor:
        counted = rows.bincount(minlength=self.objective.num_problems)
        self.counts[purpose] += counted
        return counted

    def _abandon(self, problem: Tensor, points: int, purpose: Purpose) -> None:
        """After a call that failed: answers for problems that cannot pay for the whole call again stay counted."""
        if self.journal is None or self.budget is None or purpose is not Purpose.OPTIMISE:
            return
        paid = self.counts[purpose] - self.journal.since(purpose)
        self.journal.abandon(purpose, problem[paid[problem] + points > self.budget])

    def _marked(self, call: Callable[[], Evaluation]) -> Evaluation:
        self.calling = True
        try:
            return call()
        finally:
            self.calling = False

    def _chunks(self, rows: Tensor) -> Iterator[slice]:
        """Slices of points, of rows (N,): a chunk at most, and whole cells where they fit into one."""
        begin = end = 0
        for number in self._cells(rows):
            if end > begin and end + number - begin > self.chunk:
                yield slice(begin, end)
                begin = end
            end += number
            while end - begin > self.chunk:
                yield slice(begin, begin + self.chunk)
                begin += self.chunk
        if end > begin:
            yield slice(begin, end)

    def _cells(self, rows: Tensor) -> list[int]:
        """The number of consecutive points in the same cell."""
        if self.cell is None or self.cell >= self.objective.num_problems or rows.shape[0] == 1:
            return [rows.shape[0]]
        counts: list[int] = torch.unique_consecutive(rows // self.cell, return_counts=True)[1].tolist()
        return counts


def _together(known: list[Known | None], asked: Evaluation | None) -> Evaluation:
    """The answer of a call with some known points, in the order of its points, on the CPU."""
    parts: list[tuple[Evaluation, int]] = []
    later = itertools.count()
    for one in known:
        if one is not None:
            parts.append((one.answer, one.at))
        else:
            assert asked is not None
            parts.append((asked, next(later)))
    successes = [answer.success[at].cpu() for answer, at in parts if answer.success is not None]
    loss = torch.stack([answer.loss[at].cpu() for answer, at in parts])
    return Evaluation(loss, torch.stack(successes) if successes else None)
