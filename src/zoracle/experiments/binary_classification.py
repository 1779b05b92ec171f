"""The paper's second experiment: stochastic binary classification, dimension by dimension."""

from __future__ import annotations

import msgspec
from torch import Tensor

from zoracle.evaluation.metrics import ratio
from zoracle.experiments.base import Array, Experiment, Outcome, Table, Work, differences_table, rows_table
from zoracle.experiments.common import BASELINES, arrays, baselines, comparison_queries
from zoracle.experiments.context import Context
from zoracle.experiments.drawing import BAND, Line, best_line, lines_figure, panels_figure, points_line

_TUNED = (*BASELINES, "snes")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        dimensions: d of each comparison.
        problems: first test problems.
        seeds: repeats.
        budget: queries a problem.
        valid: validation problems for step sizes.
        optimizers: learned ones, where the user names none.
    """

    dimensions: tuple[int, ...] = (10, 30, 100, 300, 1000)
    problems: int = 100
    seeds: int = 3
    budget: int = 4200
    valid: int = 50
    optimizers: str = "zo-lstm-mnist,zo-lstm-quadratic"


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    tables: list[Table] = []
    curves: dict[str, Array] = {}
    panels: dict[str, dict[str, Line]] = {}
    ratios: dict[str, list[Tensor]] = {}
    for d in s.dimensions:
        made = context.task("binary-classification", dim=d)
        learned = [(label, loaded.optimizer) for label, loaded in context.learned(made.name, s.optimizers)]
        ids = made.ids("test")[: s.problems]
        found = context.compared(
            f"d-{d}", made, [*learned, *baselines(_TUNED)], ids, seeds=s.seeds, budget=s.budget, valid=s.valid
        )
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
    """What a form has to do."""
    learned = len(s.optimizers.split(","))
    one = comparison_queries(s.problems, s.seeds, s.budget, learned, _TUNED, s.valid)
    return Work(one * len(s.dimensions))


FULL = Settings()
EXPERIMENT = Experiment(
    "binary-classification",
    "Stochastic binary classification: optimizers trained elsewhere used at dimensions 10 to 1,000.",
    f"""f(w) = mean (y - sigmoid(w^T x))^2 on 500 random samples a problem, 64 of them in the mini-batch of a \
step, with a task of its own for each dimension: {", ".join(map(str, FULL.dimensions))}. The first \
{FULL.problems} test problems, {FULL.budget:,} queries each, seeds 0 to {FULL.seeds - 1}.

The learned optimizers run as they are, whatever they were trained on: shipped ones, or those named by \
`--optimizers`, a training at one dimension say. Step sizes of the hand-designed ones are tuned at each \
dimension on its first {FULL.valid} validation problems. Final and initial losses are of all samples; intervals \
are over problems.""",
    FULL,
    Settings(dimensions=(10, 30), problems=3, seeds=1, budget=210, valid=3),
    run,
    work,
)
