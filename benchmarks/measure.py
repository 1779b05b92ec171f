"""Time and memory, measured in turn, so that what slows the machine down slows both sides of a ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zoracle.experiments import peaks
from zoracle.experiments.peaks import Peak

#: The folder that holds the package ``benchmarks``.
ROOT = Path(__file__).parents[1]


class Options(NamedTuple):
    """How much is measured."""

    quick: bool = False
    """The least that goes through everything: for tests of the benchmarks, not of the speed."""
    repeats: int = 5
    steps: int = 20
    """Steps of an attack in each repeat."""


def interleaved(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each in turn, again and again: what each returned, by name.

    Args:
        calls: each measures something itself, and returns it.
        repeats: rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(call())
    return found


def seconds(call: Callable[[], object], at_least: float = 0.0) -> float:
    """Seconds of one call: the mean over as many as take ``at_least`` so long."""
    begun = time.perf_counter()
    number = 0
    while number == 0 or time.perf_counter() - begun < at_least:
        call()
        number += 1
    return (time.perf_counter() - begun) / number


class StepClock:
    """Seconds a step of a run, from the moments after each step; the first one, with the set-up, is left out."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def tick(self, *_: object) -> None:
        """After a step."""
        self.moments.append(time.perf_counter())

    def seconds(self, steps: int) -> float:
        """Of one step."""
        return (self.moments[steps - 1] - self.moments[0]) / (steps - 1)


def peak_memory(target: str, **arguments: Any) -> Peak:
    """The peak of memory of a function in a fresh process; see :func:`zoracle.experiments.peaks.peak_memory`."""
    return peaks.peak_memory(target, arguments, [str(ROOT)])
