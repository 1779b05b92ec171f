"""The effect of the number of query directions per step, at equal queries."""

from __future__ import annotations

import msgspec
import torch

from zoracle.errors import InputError
from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import arrays, baselines, comparison_queries
from zoracle.experiments.context import Context
from zoracle.experiments.work import Work
from zoracle.optimizers import with_directions
from zoracle.reporting import BAND, Array, Table, lines_figure, points_line, rows_table
from zoracle.results import ratio

_TUNED = ("zo-sgd", "zo-adam")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        directions: q of each comparison.
        problems: first test problems.
        seeds: repeats.
        budget: queries per problem, the same for every q.
        valid: validation problems for step sizes.
        optimizers: learned ones, used if the user names none.
    """

    directions: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    problems: int = 50
    seeds: int = 2
    budget: int = 4200
    valid: int = 20
    optimizers: str = "zo-lstm"


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    made = context.task("mnist")
    ids = made.ids("test")[: s.problems]
    tables: list[Table] = []
    curves: dict[str, Array] = {}
    ratios: dict[str, dict[int, torch.Tensor]] = {}
    for q in s.directions:
        able = []
        for label, loaded in context.learned(made, s.optimizers):
            try:
                able.append((label, with_directions(loaded.optimizer, q)))
            except InputError as error:
                context.note(f"{label} is not run with q = {q}: {error}")
        found = context.compared(
            f"q-{q}", made, [*able, *baselines(_TUNED)], ids,
            seeds=s.seeds, budget=s.budget, valid=s.valid, num_directions=q,
        )  # fmt: skip
        steps = s.budget // (q + 1)
        title = f"q = {q}: {steps} steps, {steps * (q + 1):,} queries"
        tables.append(rows_table(f"q={q}", title, found.rows))
        curves |= arrays(found.results, f"q={q}")
        for label, result in found.results.items():
            ratios.setdefault(label, {})[q] = ratio(result)
    figure = lines_figure(
        "num-directions",
        "Final / initial loss against q, at equal queries",
        BAND,
        {label: points_line(list(by_q), list(by_q.values())) for label, by_q in ratios.items()},
        x="query directions per step, q", y="final / initial loss", log_x=True, markers=True, zero=True,
    )  # fmt: skip
    best = {label: min(by_q, key=lambda q: float(by_q[q].nanmean())) for label, by_q in ratios.items()}
    told = ", ".join(f"{label} at q = {q}" for label, q in best.items())
    return Outcome(tables, [figure], curves, [f"Lowest final / initial loss of each: {told}."])


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    one = comparison_queries(s.problems, s.seeds, s.budget, len(s.optimizers.split(",")), _TUNED, s.valid)
    return Work(one * len(s.directions))


FULL = Settings()
EXPERIMENT = Experiment(
    "num-directions",
    "Query directions per step, q from 1 to 100, at equal queries.",
    f"""The MNIST attack on its first {FULL.problems} test images, {FULL.budget:,} queries each whatever q is: q \
= {", ".join(map(str, FULL.directions))}, and as many steps as the queries pay for. Seeds 0 to {FULL.seeds - 1}.

The learned optimizers were trained with one q and run with the others as they are; where one cannot, it has no \
row. Step sizes of the hand-designed ones are tuned for each q on the first {FULL.valid} validation images.""",
    FULL,
    Settings(directions=(1, 5, 20), problems=3, seeds=1, budget=126, valid=3),
    run,
    work,
)
