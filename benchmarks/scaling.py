"""Images and steps per second with more than one core: by worker processes, and by torch's own threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.attack import Q, optimizer
from benchmarks.measure import Options, interleaved, seconds
from benchmarks.report import Figure, Report, figure, ratio
from benchmarks.targets import Target, target
from zoracle.evaluation.evaluate import RunSpec, evaluate
from zoracle.evaluation.workers import Workers
from zoracle.optimizers.base import Optimizer

ABOUT = "images x steps per second of an attack on MNIST with 100 images, by one process and by two"
CORES = 2


def whole_seconds(
    made: Optimizer[Any, Any], on: Target, images: int, steps: int, threads: int, pool: Workers | None
) -> float:
    """Seconds of an evaluation, its set-up included, as `zoracle attack` makes it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        spec = RunSpec(ids=on.ids[:images], steps=steps)
        return seconds(lambda: evaluate(made, on.task, spec, workers=pool))
    finally:
        torch.set_num_threads(before)


def run(options: Options) -> Report:
    """One process with one thread, one with two, two with one each."""
    found = target("mnist")
    images, steps = (4, 2) if options.quick else (100, 2 * options.steps)
    figures: list[Figure] = []
    with Workers(CORES, threads=CORES) as pool:
        for name in ("zo-sgd",) if options.quick else ("zo-lstm", "zo-sgd"):
            made = optimizer(name, found.trained_for)
            whole_seconds(made, found, images, 2, 1, pool)  # the workers start, and read the images

            def call(threads: int, workers: Workers | None, made: Optimizer[Any, Any] = made) -> Callable[[], float]:
                return lambda: whole_seconds(made, found, images, steps, threads, workers)

            plans = {"1 process, 1 thread": call(1, None), "1 process, 2 threads": call(CORES, None)}
            times = interleaved({**plans, "2 workers": call(1, pool)}, options.repeats)
            one = times["1 process, 1 thread"]
            for label, values in times.items():
                rate = [images * steps / value for value in values]
                figures.append(figure(f"{name}, {label}", "images x steps per second", rate))
            figures.append(ratio(f"{name}: 2 workers over 1 process", one, times["2 workers"], at_least=1.7))
            figures.append(ratio(f"{name}: 2 threads over 1 thread", one, times["1 process, 2 threads"]))
    settings = {"q": Q, "images": images, "steps": steps, "repeats": options.repeats, "weights": found.weights}
    return Report("scaling", ABOUT, figures, settings, ["the workers run already when the clock starts"])
