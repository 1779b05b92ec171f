"""Running an optimizer untuned: one problem, one budget, every point counted by the oracle."""

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
    """The budget is spent; nothing was evaluated."""


class Question(NamedTuple):
    """One problem for one method."""

    objective: Objective
    """The objective of one problem, without mini-batches."""
    x0: Point
    """(d,) the starting point."""
    budget: int
    """The budget in points."""
    seed: int
    sigma: float
    """A fifth of the range of a coordinate, passed only to methods that require an initial width."""
    bounds: tuple[float, float] | None
    """Bounds of every coordinate, passed to each method in its own form."""
    again: Callable[[int], Point]
    """The starting point of restart k = 1, 2, ..."""


class Answer(NamedTuple):
    """Result of a method."""

    value: float
    """The lowest value returned to the method; infinite if none was finite."""
    queries: int
    """Points evaluated; if a run of this package failed, those of the completed steps."""
    curve: list[tuple[int, float]]
    """Points evaluated and the lowest value so far, at every improvement."""
    failure: str = ""
    """The exception that ended the run; empty if none."""


#: What answers a question.
Method = Callable[[Question], Answer]


class Asked:
    """The objective as a function of one point, for methods of other packages.

    Args:
        question: the objective and the budget.

    Attributes:
        value: the lowest value so far.
        point: (d,) its point.
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
        """The value of a point (d,); infinite if the objective has none.

        Raises:
            SpentError: the budget is spent.
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
    """Run a method of another package until the budget is spent; an exception that it raises counts as a failure."""

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
    """Call a local method from successive starting points until the budget is spent.

    Raises:
        RuntimeError: it returned without evaluating a point.
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
    """Seed NumPy's global generator, which other packages draw from, and restore it afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
