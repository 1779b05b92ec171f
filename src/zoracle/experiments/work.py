"""The amount of work of an experiment."""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """Approximate amount of work of a form; the length of the search for step sizes is not known in advance."""

    queries: float
    """Points evaluated."""
    training: float = 0
    """Steps of one problem in meta-training."""


class Meter:
    """Counts the work of an experiment and its time, to estimate the time of the full form."""

    def __init__(self) -> None:
        self.queries: dict[str, int] = {}
        self.seconds = 0.0
        self.timed = 0
        self.timed_seconds = 0.0
        self.trained = 0
        self.training_seconds = 0.0

    def add(self, purpose: str, points: int) -> None:
        """Add a number of evaluated points."""
        self.queries[purpose] = self.queries.get(purpose, 0) + points

    def time(self, seconds: float, points: int, *, pace: bool = True) -> None:
        """Add points and their seconds, including interrupted runs; ``pace``: use them to estimate other times."""
        self.seconds += seconds
        if pace:
            self.timed += points
            self.timed_seconds += seconds

    def estimate(self, work: Work) -> float | None:
        """Estimated seconds for an amount of work in one process, at the measured pace; None if none was measured."""
        if (work.queries and not self.timed) or (work.training and not self.trained):
            return None
        evaluating = work.queries * self.timed_seconds / max(1, self.timed)
        return evaluating + work.training * self.training_seconds / max(1, self.trained)
