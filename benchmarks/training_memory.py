"""Memory of meta-training against the truncation K, the meta-batch B and the dimension d."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Options, peak_memory
from benchmarks.report import Report, figure
from zoracle.metatrain.config import Stage, TrainConfig, Validation
from zoracle.metatrain.trainer import Trainer
from zoracle.tasks.quadratic import QuadraticTask

ABOUT = "peak memory of one segment of meta-training on quadratics, with true gradients, q = 20, float32"
BASE = {"k": 20, "b": 10, "d": 1_000}
OTHERS = {"k": (5, 10, 40), "b": (1, 5, 20), "d": (100, 300, 3_000)}


def probe(name: str, k: int, b: int, d: int, small: bool) -> None:
    """One unroll of one segment."""
    if small:
        k, b, d = 2, 1, 16
    config = TrainConfig(
        task="quadratic",
        optimizer=name,
        values="directional",
        stages=(Stage(unrolls=1, steps=k, truncation=k, meta_batch=b),),
        validation=Validation(problems=1, every=10**9, steps=1),
        problems=b,
    )
    Trainer(config, QuadraticTask(dim=d)).run()


def run(options: Options) -> Report:
    """Each of K, B and d by itself, around one setting."""
    settings: list[dict[str, int]] = [BASE]
    settings += [{**BASE, name: value} for name, values in OTHERS.items() for value in values]
    names: tuple[str, ...] = ("zo-lstm", "zo-lstm-paper")
    if options.quick:
        settings, names = [{"k": 2, "b": 1, "d": 100}], ("zo-lstm",)
    figures = []
    for name in names:
        for setting in settings:
            where = f"{name}, K = {setting['k']}, B = {setting['b']}, d = {setting['d']}"
            peak = peak_memory("benchmarks.training_memory:probe", name=name, **setting)
            figures.append(figure(where, "MiB", [peak.above]))
            each = peak.above * 2**20 / (setting["k"] * setting["b"] * setting["d"])
            figures.append(figure(f"{where}: a step, problem and coordinate", "bytes", [each]))
    about: dict[str, Any] = {"base": BASE, "values": "directional", "threads": 1}
    return Report(
        "training-memory",
        ABOUT,
        figures,
        about,
        ["above what the process held after a tiny training; one reading each"],
    )
