"""Ablation of ZO-LSTM: without QueryRNN, without UpdateRNN, and with Guided-ES instead of QueryRNN."""

from __future__ import annotations

import msgspec

from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import arrays, comparison_queries
from zoracle.experiments.context import Context, Named
from zoracle.experiments.weights import NO_UPDATE, PAPER, own_form, paper_weights, training_steps
from zoracle.experiments.work import Work
from zoracle.optimizers import make, with_settings
from zoracle.reporting import (
    BAND,
    Array,
    Figure,
    Table,
    best_line,
    differences_table,
    lines_figure,
    loss_line,
    rows_table,
)
from zoracle.tasks import Task

_HAND_DESIGNED = ("zo-sgd",)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        problems: first test problems.
        seeds: repeats.
        budget: queries per problem.
        valid: validation problems for step sizes.
        dim: dimension of binary classification.
    """

    problems: int = 100
    seeds: int = 3
    budget: int = 4200
    valid: int = 50
    dim: int = 100


def variants(context: Context, key: str, made: Task) -> Named:
    """The paper's optimizer, its ablations, and this project's own form."""
    paper = paper_weights(context, key, made)
    frozen = paper_weights(context, key, made, NO_UPDATE)
    guided = {scaling: with_settings(paper, query="guided-es", guided_scaling=scaling) for scaling in _SCALINGS}
    return [
        own_form(context, made),
        (PAPER, paper),
        ("no-query", with_settings(paper, query="gaussian")),
        ("no-update", frozen),
        *((f"guided-es-{scaling}", optimizer) for scaling, optimizer in guided.items()),
        *((name, make(name)) for name in _HAND_DESIGNED),
    ]


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    tables: list[Table] = []
    figures: list[Figure] = []
    curves: dict[str, Array] = {}
    findings = []
    for made in (context.task("mnist"), context.task("binary-classification", dim=s.dim)):
        ids = made.ids("test")[: s.problems]
        found = context.compared(
            made.name, made, variants(context, made.name, made), ids, seeds=s.seeds, budget=s.budget, valid=s.valid
        )
        tables.append(rows_table(made.name, f"{made.name}: {len(ids)} test problems, {s.seeds} repeats", found.rows))
        tables.append(differences_table(f"{made.name} differences", f"{made.name}: paired differences", found.rows))
        curves |= arrays(found.results, made.name)
        stochastic = made.name == "binary-classification"
        figures.append(
            lines_figure(
                f"loss-{made.name}",
                f"{made.name}: {'best loss so far' if stochastic else 'loss of the iterate'}",
                f"{'Losses on the mini-batch of each step. ' if stochastic else ''}{BAND}",
                {k: (best_line if stochastic else loss_line)(r) for k, r in found.results.items()},
                x="queries per problem", y="loss", log_y=True,
            )
        )  # fmt: skip
        findings.append(f"{made.name}: lowest final / initial loss by {found.rows[0].optimizer}.")
    return Outcome(tables, figures, curves, findings)


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    one = comparison_queries(s.problems, s.seeds, s.budget, 6, _HAND_DESIGNED, s.valid)
    return Work(2 * one, 2 * training_steps((PAPER, NO_UPDATE)))


_SCALINGS = ("published", "balanced")
FULL = Settings()
EXPERIMENT = Experiment(
    "ablation",
    "ZO-LSTM against no-query, no-update and Guided-ES, on the attack and on binary classification.",
    f"""The paper's optimizer (QueryRNN and UpdateRNN), no-query (its UpdateRNN with standard Gaussian \
directions), no-update (a QueryRNN trained under steps of ZO-SGD), and its UpdateRNN with Guided-ES directions: \
as published, and balanced by the factor sqrt(d / k) that the public code lacks. Beside them zo-lstm, this \
project's form, and ZO-SGD. On the first {FULL.problems} test problems of the MNIST attack, and of binary \
classification at d = {FULL.dim} with mini-batches, {FULL.budget:,} queries each, seeds 0 to {FULL.seeds - 1}.

Weights are those of folders given by `--optimizers` (kinds zo-lstm-paper and zo-lstm-no-update), and are \
otherwise trained on training problems of each task within the experiment by the schedule of the recipe \
zo-lstm-paper-mnist, chosen on validation problems. The step size of ZO-SGD is tuned on the first {FULL.valid} \
validation problems; the one that no-update steps by is the 4 / d of the public code.""",
    FULL,
    Settings(problems=3, seeds=1, budget=210, valid=3, dim=20),
    run,
    work,
)
