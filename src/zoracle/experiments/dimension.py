"""Number of queries to reach a fixed loss, by dimension."""

from __future__ import annotations

import msgspec
import torch

from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import BASELINES, arrays, baselines, comparison_queries, queries_to
from zoracle.experiments.context import Context
from zoracle.experiments.work import Work
from zoracle.reporting import BAND, Array, Figure, Table, lines_figure, points_line, records_table
from zoracle.results import clustered

_TUNED = (*BASELINES, "snes")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        dimensions: d of each comparison.
        problems: first test problems.
        seeds: repeats.
        budget: queries per problem.
        valid: validation problems for step sizes.
        fraction: the loss to reach, as a fraction of the initial one.
        optimizers: learned ones, used if the user names none.
    """

    dimensions: tuple[int, ...] = (10, 30, 100, 300, 1000)
    problems: int = 50
    seeds: int = 2
    budget: int = 10500
    valid: int = 20
    fraction: float = 0.2
    optimizers: str = "zo-lstm-mnist,zo-lstm-quadratic"


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    tables: list[Table] = []
    figures: list[Figure] = []
    curves: dict[str, Array] = {}
    # Without mini-batches, so that the loss was really reached and not only on a lucky sample.
    for name, settings in (("quadratic", {}), ("binary-classification", {"batch_size": None})):
        reached: dict[str, list[torch.Tensor]] = {}
        records = []
        for d in s.dimensions:
            made = context.task(name, dim=d, **settings)
            learned = [(label, loaded.optimizer) for label, loaded in context.learned(made, s.optimizers)]
            found = context.compared(
                f"{name}-{d}", made, [*learned, *baselines(_TUNED)], made.ids("test")[: s.problems],
                seeds=s.seeds, budget=s.budget, valid=s.valid,
            )  # fmt: skip
            curves |= arrays(found.results, f"{name} d={d}")
            for label, result in found.results.items():
                target = s.fraction * result.losses[..., 0]
                spent = queries_to(result, target)
                reached.setdefault(label, []).append(spent)
                interval = clustered(spent)
                share = float((result.best[..., -1] <= target).double().mean())
                records.append(
                    {
                        "dimension": d, "optimizer": label, "queries": interval.mean, "queries_low": interval.low,
                        "queries_high": interval.high, "reached": share,
                    }
                )  # fmt: skip
        title = f"{name}: queries until the loss is {s.fraction:g} of the initial one"
        columns = [("d", "dimension", "d"), ("optimizer", "optimizer", ""), ("queries", "queries", ",.0f")]
        tables.append(records_table(name, title, [*columns, ("reached by", "reached", ".0%")], records))
        figures.append(
            lines_figure(
                f"queries-{name}", title,
                f"{BAND} A problem that never gets there counts at the whole budget of {s.budget:,}.",
                {label: points_line(s.dimensions, values) for label, values in reached.items()},
                x="dimension d", y="queries", log_x=True, log_y=True, markers=True,
            )
        )  # fmt: skip
    return Outcome(tables, figures, curves)


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    one = comparison_queries(s.problems, s.seeds, s.budget, len(s.optimizers.split(",")), _TUNED, s.valid)
    return Work(2 * one * len(s.dimensions))


FULL = Settings()
EXPERIMENT = Experiment(
    "dimension",
    "Queries to a fixed loss against the dimension.",
    f"""Points evaluated until one of them has a loss of at most {FULL.fraction:g} times the initial one, on \
random quadratics and on binary classification without mini-batches, at d = \
{", ".join(map(str, FULL.dimensions))}. The first {FULL.problems} test problems at each dimension, \
{FULL.budget:,} queries each, seeds 0 to {FULL.seeds - 1}; a problem that never gets there counts at the whole \
budget. Counts are whole steps.

The learned optimizers run as they are; step sizes of the others are tuned at each dimension on its first \
{FULL.valid} validation problems, by final / initial loss.""",
    FULL,
    Settings(dimensions=(5, 20), problems=3, seeds=1, budget=315, valid=3),
    run,
    work,
)
