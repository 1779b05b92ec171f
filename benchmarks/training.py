"""Meta-training: a step and an image, the whole recipe, and the coordinatewise estimator beside its floor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import torch

from benchmarks.measure import Options, seconds
from benchmarks.public_pattern import NOTE, Pattern
from benchmarks.report import Figure, Report, figure, ratio
from benchmarks.targets import Candidate, Target, fastest, target
from zoracle.metatrain.config import Stage, TrainConfig, Validation, parse
from zoracle.metatrain.trainer import Trainer

ABOUT = (
    "seconds of meta-training a step and image, its backward pass and updates included, one thread; the whole recipe "
    "is an estimate from them"
)
#: A cheap validation, where it is not what is measured: the last unroll is always followed by one.
_NONE = Validation(problems=1, every=10**9, steps=1)


class Plan(NamedTuple):
    """One way to train."""

    label: str
    recipe: str
    stage: int
    meta_batch: int
    gradient: str = "true"
    segments: int = 2
    """Truncated segments in one unroll."""


PLANS = (
    Plan("zo-lstm-paper, UpdateRNN, 1 image", "zo-lstm-paper-mnist", 0, 1),
    Plan("zo-lstm-paper, UpdateRNN, 20 images", "zo-lstm-paper-mnist", 0, 20),
    Plan("zo-lstm-paper, QueryRNN, 1 image", "zo-lstm-paper-mnist", 1, 1),
    Plan("zo-lstm-paper, QueryRNN, 20 images", "zo-lstm-paper-mnist", 1, 20),
    Plan("zo-lstm, 10 images", "zo-lstm-mnist", 0, 10),
)
COORDINATEWISE = (
    Plan("zo-lstm-paper, UpdateRNN, 1 image, coordinatewise", "zo-lstm-paper-mnist", 0, 1, "coordinatewise", 1),
    Plan("zo-lstm, 2 images, coordinatewise", "zo-lstm-mnist", 0, 2, "coordinatewise", 1),
)


def recipe(name: str) -> TrainConfig:
    """A recipe that comes with the package."""
    return parse((files("zoracle") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"), name)


def shortened(plan: Plan, unrolls: int, validation: Validation, *, quick: bool = False) -> tuple[TrainConfig, Stage]:
    """The recipe's stage with so many short unrolls, and nothing else changed that a step costs."""
    config = recipe(plan.recipe)
    stage = config.stages[plan.stage]
    truncation = 2 if quick else stage.truncation
    stage = msgspec.structs.replace(
        stage, unrolls=unrolls, truncation=truncation, steps=truncation * plan.segments, meta_batch=plan.meta_batch
    )
    config = msgspec.structs.replace(config, stages=(stage,), validation=validation, gradient=plan.gradient)
    return config, stage


def unroll_seconds(
    found: Target, config: TrainConfig, repeats: int, between: Callable[[], None] = lambda: None
) -> list[float]:
    """Seconds of each unroll of a training, after the first; what is done in between is not counted."""
    times: list[float] = []
    begun: float | None = None

    def told(report: object) -> None:
        nonlocal begun
        if begun is not None:
            times.append(time.perf_counter() - begun)
        between()
        begun = time.perf_counter()

    Trainer(config, found.task).run(told)
    return times[:repeats]


def run(options: Options) -> Report:
    """All plans, then the coordinatewise ones, then validation and the recipes."""
    found = target("mnist")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        figures, settings, notes = _run(found, options)
    finally:
        torch.set_num_threads(before)
    return Report("training", ABOUT, figures, {**settings, "weights": found.weights, "threads": 1}, [NOTE, *notes])


def _run(found: Target, options: Options) -> tuple[list[Figure], dict[str, Any], list[str]]:
    pattern = Pattern(found)
    floor, notes = fastest(found, quick=options.quick)
    figures: list[Figure] = []
    times: dict[str, list[float]] = {}
    for plan in PLANS[3:4] if options.quick else PLANS:
        # Two more: the first, which warms up, and the last, which a validation follows.
        config, stage = shortened(plan, options.repeats + 2, _NONE, quick=options.quick)
        query = plan.stage == 1
        theirs: list[float] = []

        def between(k: int = stage.truncation, q: bool = query, into: list[float] = theirs) -> None:
            into.append(seconds(lambda: pattern.train(k, query=q)) / k)

        unrolls = unroll_seconds(found, config, options.repeats, between)
        each = [value / (stage.steps * stage.meta_batch) for value in unrolls]
        times[plan.label] = each
        figures.append(figure(f"{plan.label}: a step and image", "ms", [1e3 * value for value in each]))
        figures.append(figure(f"{plan.label}: public code's pattern", "ms", [1e3 * value for value in theirs]))
        figures.append(ratio(f"{plan.label}: pattern over ours", theirs[: len(each)], each, at_least=25.0))
    figures += _coordinatewise(found, floor, options)
    if not options.quick:
        figures += _whole(found, times, options, notes)
    settings = {"repeats": options.repeats, "floor": floor.name, "floor_batch": floor.batch}
    return figures, settings, notes


def _coordinatewise(found: Target, floor: Candidate, options: Options) -> list[Figure]:
    figures: list[Figure] = []
    dim = found.task.dim
    if options.quick:
        return figures  # 1,569 queries per step are no matter of seconds
    for plan in COORDINATEWISE:
        config, stage = shortened(plan, options.repeats + 2, _NONE)
        floors: list[float] = []
        unrolls = unroll_seconds(
            found,
            config,
            options.repeats,
            lambda into=floors: into.append(floor.seconds_a_query(0.3)),  # type: ignore[misc]
        )
        # The point after the last step needs a gradient too.
        gradients = (stage.steps + 1) * stage.meta_batch
        each = [value / gradients for value in unrolls]
        least = [value * (2 * dim + 1) for value in floors[: len(each)]]
        figures.append(figure(f"{plan.label}: a step", "ms", [1e3 * value for value in each]))
        figures.append(ratio(f"{plan.label}: over 2 d + 1 queries", each, least, at_most=1.5))
    return figures


def _whole(found: Target, times: dict[str, list[float]], options: Options, notes: list[str]) -> list[Figure]:
    """Minutes of whole recipes, from a step's seconds and a validation's."""
    figures = []
    measured = {"zo-lstm-paper-mnist": (PLANS[0], PLANS[2]), "zo-lstm-mnist": (PLANS[4],)}
    for name, plans in measured.items():
        config = recipe(name)
        own = config.validation
        short = msgspec.structs.replace(own, every=1, steps=10)
        quiet, _stage = shortened(plans[0], options.repeats + 2, _NONE)
        loud, _ = shortened(plans[0], options.repeats + 2, short)
        without = unroll_seconds(found, quiet, options.repeats)
        with_one = unroll_seconds(found, loud, options.repeats)
        validation = [max(0.0, a - b) * own.steps / short.steps for a, b in zip(with_one, without, strict=True)]
        minutes = [
            (_steps(config.stages, [times[plan.label][i] for plan in plans]) + _validations(config) * validation[i])
            / 60
            for i in range(min(len(validation), *(len(times[plan.label]) for plan in plans)))
        ]
        figures.append(figure(f"{name}: one validation", "s", validation))
        figures.append(figure(f"{name}: the whole recipe, estimated, one thread", "min", minutes))
    notes.append("asked of the whole recipe: at most 15 minutes on two cores, measured by `zoracle train`, not here")
    return figures


def _steps(stages: Sequence[Stage], each: Sequence[float]) -> float:
    return sum(s.unrolls * s.steps * s.meta_batch * value for s, value in zip(stages, each, strict=True))


def _validations(config: TrainConfig) -> int:
    return sum(math.ceil(stage.unrolls / config.validation.every) for stage in config.stages)
