"""The paper's second experiment: stochastic binary classification, dimension by dimension."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import msgspec
from torch import Tensor

from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import BASELINES, arrays, baselines, comparison_queries
from zoracle.experiments.context import Context
from zoracle.experiments.weights import PAPER, paper_weights, training_steps
from zoracle.experiments.work import Work
from zoracle.metatrain import TrainConfig, parse
from zoracle.optimizers import Optimizer
from zoracle.reporting import (
    BAND,
    Array,
    Line,
    Table,
    best_line,
    differences_table,
    lines_figure,
    panels_figure,
    points_line,
    rows_table,
)
from zoracle.results import ratio

_TUNED = (*BASELINES, "snes")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        dimensions: d of each comparison.
        problems: first test problems.
        seeds: repeats.
        budget: queries per problem.
        valid: validation problems for step sizes.
        trained_at: d for training learned optimizers, if the user names none.
        optimizers: others, trained on other tasks, used if the user names none.
    """

    dimensions: tuple[int, ...] = (10, 30, 100, 300, 1000)
    problems: int = 100
    seeds: int = 3
    budget: int = 4200
    valid: int = 50
    trained_at: int = 100
    optimizers: str = "zo-lstm-mnist,zo-lstm-quadratic"


def own_config(dim: int, quick: bool) -> TrainConfig:
    """The training of zo-lstm on the task at one dimension; a quick form has two unrolls, to test that it runs."""
    text = files("zoracle.experiments") / "configs" / "zo-lstm-binary-classification.toml"
    config = parse(text.read_text(encoding="utf-8"), "zo-lstm-binary-classification")
    config = msgspec.structs.replace(config, task_settings={"dim": dim})
    if not quick:
        return config
    stage = msgspec.structs.replace(config.stages[0], unrolls=2, steps=10, truncation=5, meta_batch=2)
    valid = msgspec.structs.replace(config.validation, problems=2, every=2, steps=10)
    return msgspec.structs.replace(config, stages=(stage,), validation=valid)


def trained(context: Context) -> list[tuple[str, Optimizer[Any, Any]]]:
    """Optimizers trained on this task at one dimension; none if the user names others."""
    if context.optimizers is not None:
        return []
    d = context.settings.trained_at
    made = context.task("binary-classification", dim=d)
    own = context.trained("zo-lstm", own_config(d, context.quick)).optimizer
    return [(f"zo-lstm, trained at {d}", own), (f"{PAPER}, trained at {d}", paper_weights(context, "d", made))]


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    tables: list[Table] = []
    curves: dict[str, Array] = {}
    panels: dict[str, dict[str, Line]] = {}
    ratios: dict[str, list[Tensor]] = {}
    at_one = trained(context)
    for d in s.dimensions:
        made = context.task("binary-classification", dim=d)
        learned = [(label, loaded.optimizer) for label, loaded in context.learned(made, s.optimizers)]
        ids = made.ids("test")[: s.problems]
        found = context.compared(
            f"d-{d}", made, [*learned, *baselines(_TUNED), *at_one], ids,
            seeds=s.seeds, budget=s.budget, valid=s.valid,
        )  # fmt: skip
        tables.append(rows_table(f"d={d}", f"d = {d}: {len(ids)} test problems, {s.seeds} repeats", found.rows))
        tables.append(differences_table(f"d={d} differences", f"d = {d}: paired differences", found.rows))
        curves |= arrays(found.results, f"d={d}")
        panels[f"d = {d}"] = {label: best_line(result) for label, result in found.results.items()}
        for label, result in found.results.items():
            ratios.setdefault(label, []).append(ratio(result))
    figures = [
        lines_figure(
            "dimension",
            "Final / initial loss against the dimension",
            f"Losses of all samples, evaluated to report. {BAND}",
            {label: points_line(s.dimensions, values) for label, values in ratios.items()},
            x="dimension d", y="final / initial loss", log_x=True, markers=True, zero=True,
        ),
        panels_figure(
            "curves",
            "Best loss so far",
            "The lowest loss of a point on the mini-batch of its step, so an optimistic one; both ends are on all "
            f"samples. {BAND}",
            panels, x="queries per problem", y="best loss so far", log_y=False,
        ),
    ]  # fmt: skip
    winners = ", ".join(f"{table.lines[0][0]} at {table.name}" for table in tables[::2])
    return Outcome(tables, figures, curves, [f"Lowest final / initial loss: {winners}."])


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    learned = len(s.optimizers.split(",")) + 2
    one = comparison_queries(s.problems, s.seeds, s.budget, learned, _TUNED, s.valid)
    stage = own_config(s.trained_at, quick=False).stages[0]
    return Work(one * len(s.dimensions), stage.unrolls * stage.steps * stage.meta_batch + training_steps((PAPER,)))


FULL = Settings()
EXPERIMENT = Experiment(
    "binary-classification",
    "Stochastic binary classification: optimizers trained at one dimension used at 10 to 1,000.",
    f"""f(w) = mean (y - sigmoid(w^T x))^2 on 500 random samples a problem, 64 of them in the mini-batch of a \
step, with a task of its own for each dimension: {", ".join(map(str, FULL.dimensions))}. The first \
{FULL.problems} test problems, {FULL.budget:,} queries each, seeds 0 to {FULL.seeds - 1}.

Two optimizers are trained within the experiment on training problems of d = {FULL.trained_at} only, chosen on \
validation problems of that dimension, and used at all: zo-lstm, and the paper's form by the schedule of the recipe \
zo-lstm-paper-mnist. Shipped ones, trained on other tasks, are carried over. Those named by `--optimizers` take the \
place of all these. Step sizes of the hand-designed ones are tuned at each \
dimension on its first {FULL.valid} validation problems. Final and initial losses are of all samples; intervals \
are over problems.""",
    FULL,
    Settings(dimensions=(10, 30), problems=3, seeds=1, budget=210, valid=3, trained_at=10),
    run,
    work,
)
