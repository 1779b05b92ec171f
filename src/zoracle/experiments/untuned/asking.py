"""How an optimizer that is run with no setting is asked: one problem, one budget, every point counted by the oracle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from zoracle.errors import one_line
from zoracle.objectives import Objective
from zoracle.rollout import Oracle
from zoracle.types import Purpose

Point = npt.NDArray[np.float64]


class SpentError(Exception):
    """The budget is gone; nothing was evaluated."""


class Question(NamedTuple):
    """One problem for one method."""

    objective: Objective
    """Of one problem, without mini-batches."""
    x0: Point
    """(d,) where the method begins."""
    budget: int
    """Points that it may evaluate."""
    seed: int
    sigma: float
    """A fifth of the range of a coordinate. Methods that must be given a first width are told it, the others not."""
    bounds: tuple[float, float] | None
    """Of every coordinate, told to every method in its own way."""
    again: Callable[[int], Point]
    """Where restart k = 1, 2, ... begins."""


class Answer(NamedTuple):
    """What a method made of it."""

    value: float
    """The lowest value that it was answered; infinite where none was finite."""
    queries: int
    """Points evaluated; of a run of this package that failed, those of the steps before."""
    curve: list[tuple[int, float]]
    """Points evaluated and the lowest value so far, wherever that fell."""
    failure: str = ""
    """The exception that ended it; empty where there was none."""


#: What answers a question.
Method = Callable[[Question], Answer]


class Asked:
    """The objective as a function of one point, for methods of other packages.

    Args:
        question: the objective and the budget.

    Attributes:
        value: the lowest value so far.
        point: (d,) where.
        curve: as in :class:`Answer`.
    """

    def __init__(self, question: Question) -> None:
        self._oracle = Oracle(question.objective, budget=question.budget)
        self._budget = question.budget
        self._rows = torch.zeros(1, dtype=torch.int64)
        self.value = np.inf
        self.point = question.x0
        self.curve: list[tuple[int, float]] = []

    @property
    def queries(self) -> int:
        """Points evaluated."""
        return int(self._oracle.counts[Purpose.OPTIMISE][0])

    @property
    def left(self) -> int:
        """Points that may still be evaluated."""
        return self._budget - self.queries

    def __call__(self, x: Any, *_: Any) -> float:
        """The value of a point (d,); infinite where the objective has none.

        Raises:
            SpentError: the budget is gone.
        """
        if self.left < 1:
            raise SpentError
        point = np.array(x, dtype=np.float64).reshape(-1)
        value = float(self._oracle.evaluate(torch.from_numpy(point).view(1, 1, -1), self._rows).loss)
        if not np.isfinite(value):
            return float("inf")
        if value < self.value:
            self.value, self.point = value, point
            self.curve.append((self.queries, value))
        return value


def foreign(run: Callable[[Question, Asked], None]) -> Method:
    """A method of another package: it is stopped at the budget, and an exception of its own is its failure."""

    def answer(question: Question) -> Answer:
        asked, failure = Asked(question), ""
        with own_numpy(question.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a package that is only measured
            try:
                run(question, asked)
            except SpentError:
                pass
            except Exception as error:
                failure = one_line(error)
        return Answer(asked.value, asked.queries, asked.curve, failure)

    return answer


def restarted(question: Question, asked: Asked, once: Callable[[Point], Any]) -> None:
    """Call a local method from one start after the other until the budget is gone.

    Raises:
        RuntimeError: it returned without having asked for a point.
    """
    start, restarts = question.x0, 0
    while asked.left > 0:
        before = asked.queries
        once(start)
        if asked.queries == before:
            raise RuntimeError("a restart evaluated no point")
        restarts += 1
        start = question.again(restarts)


@contextmanager
def own_numpy(seed: int) -> Iterator[None]:
    """NumPy's global generator, which other packages draw from, seeded for them and put back afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
