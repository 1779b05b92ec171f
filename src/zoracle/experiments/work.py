"""How much an experiment has to do."""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """What a form of an experiment has to do, about: the search for step sizes ends when it ends."""

    queries: float
    """Points evaluated."""
    training: float = 0
    """Steps of one problem in meta-training."""


class Meter:
    """Adds up what an experiment did, and the time that it took, for an estimate of the full form."""

    def __init__(self) -> None:
        self.queries: dict[str, int] = {}
        self.seconds = 0.0
        self.timed = 0
        self.timed_seconds = 0.0
        self.trained = 0
        self.training_seconds = 0.0

    def add(self, purpose: str, points: int) -> None:
        """So many points were evaluated."""
        self.queries[purpose] = self.queries.get(purpose, 0) + points

    def time(self, seconds: float, points: int, *, pace: bool = True) -> None:
        """So many points took so many seconds, those of interrupted runs included; ``pace``: as others will."""
        self.seconds += seconds
        if pace:
            self.timed += points
            self.timed_seconds += seconds

    def estimate(self, work: Work) -> float | None:
        """Seconds of one process that so much work would take at the pace measured here; None where none was."""
        if (work.queries and not self.timed) or (work.training and not self.trained):
            return None
        evaluating = work.queries * self.timed_seconds / max(1, self.timed)
        return evaluating + work.training * self.training_seconds / max(1, self.trained)
