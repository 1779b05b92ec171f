"""Measures how far directional derivatives and queries agree in meta-training."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from zoracle.comparison import load_named_optimizers, use_of
from zoracle.errors import InputError
from zoracle.experiments import agreement
from zoracle.experiments.agreement import PRECISIONS, Case
from zoracle.experiments.agreement_settings import CASES, PAIRS, Agreement
from zoracle.experiments.agreement_tables import Measured, Outcome, outcome
from zoracle.experiments.context import Context, described
from zoracle.experiments.weights import paper_config
from zoracle.metatrain import TrainConfig
from zoracle.optimizers import make
from zoracle.tasks import Task, available, task

_MNIST = "mnist"
_SMOOTH = "binary-classification"
_PLACES = 3


def measured(context: Context, settings: Agreement, config: TrainConfig, trained_on: Task) -> Outcome:
    """Measure, or read earlier measurements, and report them.

    Args:
        context: of the experiment.
        settings: of this part.
        config: of the trainings; its last stage is taken.
        trained_on: the task of the trainings.
    """
    tasks = [made for made in (trained_on, _mnist(context, settings)) if made]
    tasks.append(task(_SMOOTH, dim=settings.dim, batch_size=None))
    found = {made.name: _one(context, settings, config, made) for made in tasks}
    return outcome(settings, found)


def points(settings: Agreement, config: TrainConfig, tasks: int) -> tuple[float, float]:
    """Approximate cost of the slopes in points, and of the segments in steps per problem."""
    stage = config.stages[-1]
    q, grids = 20, len(settings.mus) + len(settings.mus_float32)
    slopes = tasks * settings.problems * (q + 1) * (stage.steps + _PLACES * grids)
    cases = 2 * len(settings.cases) - (CASES[1] in settings.cases)
    segments = cases * (1 + settings.middle) * (2 * grids + 4) + tasks * 2 * (settings.repeats + 1)
    return slopes, segments * stage.truncation * settings.problems


def _mnist(context: Context, settings: Agreement) -> Task | None:
    if not settings.mnist:
        return None
    try:
        if not available(_MNIST):
            raise InputError("no target network")  # check first, since missing images alone would be downloaded
        made = task(_MNIST)
        made.ids("train")
    except InputError as error:
        context.note(f"mnist was skipped in the agreement: {error}")
        return None
    return made


def _one(context: Context, s: Agreement, config: TrainConfig, made: Task) -> Measured:
    """All measurements of one task; each part is stored separately."""
    ids = made.ids("train")[: s.problems]
    stage = config.stages[-1]
    trained = load_named_optimizers("zo-lstm", use_of(made))[0][1].optimizer
    tell = context.display.steps_of(f"agreement {made.name}")
    key = f"agreement-{made.name}"

    def slopes() -> dict[str, Tensor]:
        at, spent = agreement.places(trained, made, ids, stage.steps)
        tensors: dict[str, Tensor] = {}
        for precision, dtype in PRECISIONS.items():
            found, cost = agreement.values(made, ids, at, dtype, s.grid(precision))
            tensors |= {f"{precision}/{name}": tensor for name, tensor in found.items()}
            spent += cost
        return tensors | {"points": torch.tensor(spent)}

    about = {**described(trained, ids), "steps": stage.steps, "mus": [s.mus, s.mus_float32]}
    kept = context.kept(key, made, about, slopes)
    tell(1, 2)
    context.meter.time(float(kept["seconds"]), int(kept["points"]))
    spent = int(kept["points"])
    values = {p: {n: kept[f"{p}/{n}"] for n in ("queries", "directional", "loss")} for p in PRECISIONS}
    first = Case(CASES[0], make(config.optimizer, **config.settings), stage)
    meta: dict[tuple[str, int, str], dict[str, Tensor]] = {}
    wanted: list[tuple[Case, int]] = []
    if made.name != _MNIST:
        paper = paper_config(made, context.quick)
        # No weights that ship were trained on the smooth problem.
        cases = [first] if made.name == _SMOOTH else [first, Case(CASES[1], trained, stage)]
        cases.append(Case(CASES[2], make(paper.optimizer, **paper.settings), paper.stages[-1]))
        wanted = [(case, at) for case in cases if case.label in s.cases
                  for at in (0, case.stage.steps // 2)[: 1 + s.middle]]  # fmt: skip
        for done, (case, at) in enumerate(wanted):
            part = _segment(context, s, key, made, ids, case, at)
            tell(done + 2, len(wanted) + 2)
            spent += int(part["points"])
            for precision in PRECISIONS:
                names = ("meta_loss", *PAIRS)
                meta[case.label, at, precision] = {n: part[f"{precision}/{n}"] for n in names}
    # Segments are not used to estimate the time of the full form, whose pace is that of the trainings.
    clock = {**described(first.optimizer, ids), "repeats": s.repeats, "stage": msgspec.to_builtins(stage)}

    def time() -> dict[str, Tensor]:
        found, cost = agreement.timed(first, made, ids, s.repeats)
        return found | {"points": torch.tensor(cost)}

    kept = context.kept(f"{key}-seconds", made, clock, time)
    tell(len(wanted) + 2, len(wanted) + 2)
    context.meter.add("agreement", spent + int(kept["points"]))
    return Measured(values, meta, kept["segments"])


def _segment(
    context: Context, s: Agreement, key: str, made: Task, ids: Sequence[int], case: Case, at: int
) -> dict[str, Tensor]:
    """Meta-gradients of one case at one place, in both precisions."""

    def compute() -> dict[str, Tensor]:
        begun = agreement.segment_at(case, made, ids, at)
        tensors: dict[str, Tensor] = {}
        spent = 0
        for precision, dtype in PRECISIONS.items():
            found, cost = agreement.meta_gradients(case, made, ids, begun, dtype, s.grid(precision))
            tensors |= {f"{precision}/{name}": tensor for name, tensor in found.items()}
            spent += cost
        return tensors | {"points": torch.tensor(spent)}

    about = {**described(case.optimizer, ids), "first": at, "mus": [s.mus, s.mus_float32]}
    about["stage"] = msgspec.to_builtins(case.stage)
    slot = case.label.replace(", ", "-").replace(" ", "-")
    return context.kept(f"{key}-{slot}-{at}", made, about, compute)
