"""An attack on a CUDA device."""

from __future__ import annotations

import torch

from benchmarks.attack import Q, optimizer, step_seconds
from benchmarks.measure import Options, interleaved
from benchmarks.report import Report, figure
from benchmarks.targets import target

ABOUT = "images x steps per second of an attack on MNIST with 1,000 images on a CUDA device"
NOTES = [
    "the step is not captured as a CUDA graph: directions are drawn on the CPU from keyed generators, the same ones "
    "on every device, and a graph cannot hold that",
]


def run(options: Options) -> Report:
    """The evaluation that the commands run, with its tensors on the device."""
    if not torch.cuda.is_available():
        return Report("gpu", ABOUT, [], {}, NOTES, skipped="no CUDA device")
    found = target("mnist")
    known = [i for split in ("test", "valid", "train") for i in found.task.ids(split)]
    images = 4 if options.quick else 1000
    # The splits hold fewer than 1,000 images: others of the data set do for a measurement of time.
    ids = [*known, *(i for i in range(10_000) if i not in set(known))][:images]
    ids = ids if found.weights.startswith("those") else list(found.ids)
    steps = 2 if options.quick else options.steps
    made = {name: optimizer(name, found.trained_for) for name in ("zo-lstm", "zo-sgd")}

    def measure(name: str) -> float:
        return step_seconds(made[name], found.task, ids, steps, device="cuda")

    times = interleaved({name: lambda name=name: measure(name) for name in made}, options.repeats)  # type: ignore[misc]
    figures = [
        figure(f"{name}, B = {len(ids)}", "images x steps per second", [len(ids) / value for value in values])
        for name, values in times.items()
    ]
    settings = {"q": Q, "B": len(ids), "steps": steps, "repeats": options.repeats, "weights": found.weights}
    return Report("gpu", ABOUT, figures, settings, NOTES)
