"""An attack beside the time that the network alone would need to answer its queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.measure import Options, StepClock
from benchmarks.report import Figure, Report, figure, ratio
from benchmarks.targets import Candidate, Target, fastest, target
from zoracle.errors import InputError
from zoracle.evaluation.evaluate import RunSpec, evaluate
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Use, resolve
from zoracle.optimizers.registry import make
from zoracle.tasks import Task

ABOUT = "seconds of an attack over (queries x the network's best seconds per query), one thread, q = 20, float32"
NAMES = ("zo-lstm", "zo-lstm-paper", "zo-sgd", "zo-signsgd", "zo-adam")
#: What is asked at 100 images.
ASKED = {"zo-lstm": 1.25, "zo-sgd": 1.15}
Q = 20


def optimizer(name: str, trained_for: str, q: int = Q) -> Optimizer[Any, Any]:
    """By name, trained where a trained one ships; time does not depend on the weights."""
    try:
        return resolve(name, Use(trained_for), num_directions=q).optimizer
    except InputError:
        return make(name, num_directions=q)


def step_seconds(made: Optimizer[Any, Any], on: Task, ids: Sequence[int], steps: int, **settings: Any) -> float:
    """Seconds a step of an evaluation, as the commands run it, without its set-up.

    Raises:
        RuntimeError: it made other queries than it was to make.
    """
    clock = StepClock()
    spec = RunSpec(ids=tuple(ids), steps=steps, **settings)
    result = evaluate(made, on, spec, on_progress=clock.tick)
    if not bool((result.spent == steps * made.queries_per_step).all()):
        raise RuntimeError(f"{type(made).__name__} spent {result.spent.tolist()} queries in {steps} steps")
    return clock.seconds(steps)


def run(options: Options) -> Report:
    """MNIST at 100 images and at one, ResNet-20 at 25."""
    figures: list[Figure] = []
    settings: dict[str, Any] = {"q": Q, "dtype": "float32", "threads": 1, "repeats": options.repeats}
    notes = ["steps are timed without the set-up of the run; weights of zo-lstm-paper are untrained"]
    plans: list[tuple[str, int, tuple[str, ...], int]] = [
        ("mnist", 100, NAMES, options.steps),
        ("mnist", 1, ("zo-lstm", "zo-sgd"), 5 * options.steps),
        ("cifar10", 25, ("zo-lstm", "zo-sgd"), max(3, options.steps // 5)),
    ]
    if options.quick:
        plans = [("mnist", 2, ("zo-lstm", "zo-sgd"), 2)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        floors: dict[str, tuple[Target, Candidate]] = {}
        for name, b, names, steps in plans:
            if name not in floors:
                found = target(name)
                floor, told = fastest(found, quick=options.quick)
                floors[name] = found, floor
                notes += [note for note in told if note not in notes]
                settings[name] = {"weights": found.weights, "floor": floor.name, "floor_batch": floor.batch}
            found, floor = floors[name]
            settings[name][f"steps at B = {b}"] = steps
            figures += _against_the_floor(name, found, floor, b, names, steps, options)
    finally:
        torch.set_num_threads(before)
    return Report("attack", ABOUT, figures, settings, notes)


def _against_the_floor(
    name: str, found: Target, floor: Candidate, b: int, names: Sequence[str], steps: int, options: Options
) -> list[Figure]:
    made = {label: optimizer(label, found.trained_for) for label in names}
    ids = found.ids[:b]
    least = 0.0 if options.quick else 0.3
    floors: dict[str, list[float]] = {label: [] for label in names}
    times: dict[str, list[float]] = {label: [] for label in names}
    for _ in range(options.repeats):
        for label, one in made.items():
            floors[label].append(floor.seconds_a_query(least))
            times[label].append(step_seconds(one, found.task, ids, steps) / (b * one.queries_per_step))
    every = [value * 1e6 for values in floors.values() for value in values]
    figures = [figure(f"{name}, B = {b}: floor a query", "us", every)]
    for label in names:
        asked = ASKED.get(label) if (name, b) == ("mnist", 100) else None
        figures.append(ratio(f"{name}, B = {b}: {label} over floor", times[label], floors[label], at_most=asked))
        figures.append(figure(f"{name}, B = {b}: {label} a query", "us", [value * 1e6 for value in times[label]]))
    return figures
