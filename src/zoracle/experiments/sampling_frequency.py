"""The effect of the probability of using QueryRNN's covariance, from never to every step."""

from __future__ import annotations

import msgspec

from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import arrays, comparison_queries
from zoracle.experiments.context import Context
from zoracle.experiments.weights import PAPER, paper_weights, training_steps
from zoracle.experiments.work import Work
from zoracle.optimizers import with_settings
from zoracle.reporting import BAND, lines_figure, points_line, rows_table
from zoracle.results import queries_to_success, ratio


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        probabilities: of the learned covariance.
        problems: first test problems.
        seeds: repeats.
        budget: queries per problem.
    """

    probabilities: tuple[float, ...] = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    problems: int = 100
    seeds: int = 3
    budget: int = 4200


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    made = context.task("mnist")
    paper = paper_weights(context, "weights", made)
    each = [(f"p = {p:g}", with_settings(paper, sampling_probability=p)) for p in s.probabilities]
    ids = made.ids("test")[: s.problems]
    found = context.compared("sampling", made, each, ids, seeds=s.seeds, budget=s.budget, valid=0)
    results = list(found.results.values())
    measures = {"ratio": ("final / initial loss", [ratio(result) for result in results])}
    if all(bool(result.first_known.all()) for result in results):
        measures["queries"] = ("queries to first success", [queries_to_success(result) for result in results])
    figures = [
        lines_figure(
            f"sampling-{name}", f"{what[0].upper()}{what[1:]} against the probability of the learned covariance", BAND,
            {PAPER: points_line(s.probabilities, values)},
            x="probability of the learned covariance", y=what, markers=True,
        )
        for name, (what, values) in measures.items()
    ]  # fmt: skip
    table = rows_table("sampling", f"{made.name}: {len(ids)} test images, {s.seeds} repeats", found.rows)
    return Outcome(
        [table], figures, arrays(found.results), [f"Lowest final / initial loss: {found.rows[0].optimizer}."]
    )


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    queries = comparison_queries(s.problems, s.seeds, s.budget, len(s.probabilities), (), 0)
    return Work(queries, training_steps((PAPER,)))


FULL = Settings()
_EACH = ", ".join(f"{p:g}" for p in FULL.probabilities)
EXPERIMENT = Experiment(
    "sampling-frequency",
    "The probability of the learned covariance, 0 to 1.",
    f"""The paper's optimizer draws the directions of a step from QueryRNN's covariance with probability p, and \
from the standard Gaussian otherwise, by one keyed coin per step: \
p = {_EACH}. The MNIST \
attack on its first {FULL.problems} test images, {FULL.budget:,} queries each, \
seeds 0 to {FULL.seeds - 1}.

The weights are those of a folder given by `--optimizers` (kind zo-lstm-paper), and are otherwise trained within \
the experiment by the recipe zo-lstm-paper-mnist on training images, chosen on validation images at p = 0.5.""",
    FULL,
    Settings(probabilities=(0.0, 0.5, 1.0), problems=3, seeds=1, budget=210),
    run,
    work,
)
