"""An attack on photographs of 224x224 pixels beside the time that ONNX Runtime alone would need for its queries."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.attack import step_seconds
from benchmarks.measure import Options
from benchmarks.report import Figure, Report, figure, ratio
from benchmarks.targets import Candidate
from zoracle.comparison import use_of
from zoracle.errors import InputError, MissingExtraError
from zoracle.keyed import generator
from zoracle.objectives import ThreatModel
from zoracle.optimizers.pretrained import resolve
from zoracle.optimizers.registry import make
from zoracle.tasks import Task, task

ABOUT = "seconds of an attack over (queries x the network's best seconds per query), one thread, one query per step"
#: ``zo-lstm`` means spectral-search within a ball; Square shows what the harness alone costs.
LEARNED, HAND_DESIGNED = "zo-lstm", "square"
ASKED = 1.2
#: So small that no attack succeeds: one that does stops, and its queries would be missing.
BALLS = {"linf": 1e-4, "l2": 0.01}
IMAGES = 10
_SIZES = (1, 2, 5, 10, 20)


def run(options: Options) -> Report:
    """EfficientNet-Lite0 and validation images, where the data folder has them."""
    images, steps = (2, 3) if options.quick else (IMAGES, options.steps)
    settings: dict[str, Any] = {"images": images, "threads": 1, "repeats": options.repeats, "steps": steps}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tasks = {norm: task("imagenet", threat=ThreatModel(norm=norm, eps=eps)) for norm, eps in BALLS.items()}  # type: ignore[arg-type]
        candidates = _candidates(tasks["linf"], _SIZES[:1] if options.quick else _SIZES)
        figures: list[Figure] = []
        for norm, made in tasks.items():
            figures += _against_the_floor(norm, made, candidates, images, steps, options)
    except (InputError, MissingExtraError) as error:
        return Report("large-images", ABOUT, [], settings, [], str(error))
    finally:
        torch.set_num_threads(before)
    return Report("large-images", ABOUT, figures, settings, ["balls are so small that no attack ends at a success"])


def _candidates(made: Task, sizes: tuple[int, ...]) -> list[Candidate]:
    """The network's own session at several batch sizes."""
    import onnxruntime

    ids = made.ids("valid")[:1]
    box = made.objective(ids).black_box  # type: ignore[attr-defined]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(box.path), options, providers=["CPUExecutionProvider"])
    shape = made.shape  # type: ignore[attr-defined]
    inputs = {size: torch.rand((size, *shape), generator=generator(size)).numpy() for size in sizes}
    return [
        Candidate("onnxruntime", size, partial(session.run, None, {box.input.name: x})) for size, x in inputs.items()
    ]


def _against_the_floor(
    norm: str, made: Task, candidates: list[Candidate], images: int, steps: int, options: Options
) -> list[Figure]:
    ids = made.ids("valid")[:images]
    attacks = {
        LEARNED: resolve(LEARNED, use_of(made)).optimizer,
        HAND_DESIGNED: make(HAND_DESIGNED),
    }
    least = 0.0 if options.quick else 0.2
    floors: dict[str, list[float]] = {name: [] for name in attacks}
    times: dict[str, list[float]] = {name: [] for name in attacks}
    for _ in range(options.repeats):
        for name, attack in attacks.items():
            floors[name].append(min(candidate.seconds_a_query(least) for candidate in candidates))
            times[name].append(step_seconds(attack, made, ids, steps) / (images * attack.queries_per_step))
    every = [value * 1e3 for values in floors.values() for value in values]
    return [
        figure(f"{norm}: floor a query", "ms", every),
        *(
            ratio(f"{norm}: {name} over floor", times[name], floors[name], at_most=ASKED if name == LEARNED else None)
            for name in attacks
        ),
    ]
