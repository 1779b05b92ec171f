"""What optimizers cost by themselves: an objective that costs nothing, from a thousand coordinates to a million."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.attack import optimizer
from benchmarks.measure import Options, StepClock, interleaved, peak_memory
from benchmarks.report import Figure, Report, figure
from zoracle.objectives.base import Bounds, Objective
from zoracle.optimizers.base import directions_of
from zoracle.optimizers.registry import REGISTRY
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.types import Evaluation

ABOUT = "seconds and memory of the optimizers by themselves: f(x) = x_0 costs nothing; one thread, q = 20, float32"
DIMS = (1_000, 10_000, 100_000, 1_000_000)
#: Coordinates of all problems together, where one problem has fewer.
COORDINATES = 100_000
#: Nanoseconds asked at d = 1e5: hand-designed ones a coordinate and direction, zo-lstm a coordinate and step.
HAND_DESIGNED, LEARNED = 30.0, 400.0
Q = 20


class Free(Objective):
    """The first coordinate of each point, with bounds for the optimizers that need some."""

    bounds = Bounds(-1.0, 1.0)

    def __init__(self, problems: int, dim: int) -> None:
        self.num_problems, self.dim = problems, dim

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        return Evaluation(points[:, 0].clone())


def names() -> list[str]:
    """Registered optimizers that are made of values along directions."""
    made = {name: entry.make() for name, entry in REGISTRY.items()}
    return [name for name, one in made.items() if one.order == 0 and directions_of(one) is not None]


def step_seconds(name: str, b: int, d: int, steps: int, q: int = Q) -> float:
    """Seconds a step of b problems of dimension d, without the set-up."""
    made = optimizer(name, "mnist", q)
    clock = StepClock()
    free, x0 = Free(b, d), torch.zeros(b, d)
    state = made.init(x0, horizon=steps, space=free.space(torch.arange(b), x0))
    rollout(made, Oracle(free), state, steps, final=None, on_step=clock.tick)
    return clock.seconds(steps) if steps > 1 else 0.0


def probe(name: str, b: int, d: int, steps: int, q: int, small: bool) -> None:
    """What the memory is measured of."""
    step_seconds(name, 1 if small else b, 16 if small else d, steps, q)


def run(options: Options) -> Report:
    """Each optimizer at each dimension."""
    figures: list[Figure] = []
    chosen = ("zo-sgd", "zo-lstm") if options.quick else names()
    dims = (1_000,) if options.quick else DIMS
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for d in dims:
            b = 2 if options.quick else max(1, COORDINATES // d)
            steps = 2 if options.quick else max(3, min(20, 1_000_000 // d))
            calls = {name: partial(step_seconds, name, b, d, steps) for name in chosen}
            for name, times in interleaved(calls, options.repeats).items():
                figures += _figures(name, b, d, times, options)
    finally:
        torch.set_num_threads(before)
    settings: dict[str, Any] = {
        "q": Q,
        "dtype": "float32",
        "threads": 1,
        "dims": list(dims),
        "repeats": options.repeats,
    }
    notes = [
        "memory is the peak of a process of its own above what it held after a run of 16 coordinates; one reading each",
        f"below d = {COORDINATES:.0e} there are so many problems that they have {COORDINATES} coordinates together",
    ]
    return Report("overhead", ABOUT, figures, settings, notes)


def _figures(name: str, b: int, d: int, times: list[float], options: Options) -> list[Figure]:
    learned = REGISTRY[name].learned
    work = b * d if learned else b * d * Q
    unit = "ns per coordinate and step" if learned else "ns per coordinate and direction"
    asked = None
    if d == 100_000 and (not learned or name == "zo-lstm"):
        asked = LEARNED if learned else HAND_DESIGNED
    where = f"{name}, d = {d:.0e}, B = {b}"
    found = [figure(where, unit, [value / work * 1e9 for value in times], at_most=asked)]
    if not options.quick or name == "zo-sgd":
        peak = peak_memory("benchmarks.overhead:probe", name=name, b=b, d=d, steps=3, q=Q)
        asked = 2048.0 if d == 1_000_000 else None
        found.append(figure(f"{where}: memory", "MiB above the start", [peak.above]))
        found.append(figure(f"{where}: memory of the process", "MiB", [peak.whole], at_most=asked))
    return found
