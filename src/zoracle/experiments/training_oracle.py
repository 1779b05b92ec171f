"""The source of the optimizee's gradient in meta-training: result and cost."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import msgspec
import numpy as np

from zoracle.experiments.agreement_report import measured, points
from zoracle.experiments.agreement_settings import CASES, Agreement
from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import arrays, comparison_queries
from zoracle.experiments.context import Context, Trained
from zoracle.experiments.weights import recipe
from zoracle.experiments.work import Work
from zoracle.metatrain import TrainConfig, parse
from zoracle.reporting import Line, differences_table, lines_figure, records_table, rows_table
from zoracle.tasks import task

#: Name, the optimizee's gradient, and what training answers queries with.
_KINDS = (
    ("first-order, directional", "true", "directional"),
    ("first-order, queries", "true", "queries"),
    ("coordinatewise, queries", "coordinatewise", "queries"),
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        problems: first test problems.
        seeds: repeats.
        budget: queries per problem.
        agreement: settings of the measurement before the trainings.
    """

    problems: int = 100
    seeds: int = 3
    budget: int = 4200
    agreement: Agreement = Agreement()


def config(quick: bool) -> TrainConfig:
    """The trainings."""
    if not quick:
        return recipe("zo-lstm-digits")
    text = files("zoracle.experiments") / "configs" / "training-oracle.toml"
    return parse(text.read_text(encoding="utf-8"), "training-oracle")


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    base = config(context.quick)
    (family,) = base.drawn_from()
    made = task(family.task, **family.settings)
    agreeing = measured(context, s.agreement, base, made)
    trained: dict[str, Trained] = {}
    for name, gradient, values in _KINDS:
        chosen = msgspec.structs.replace(base, gradient=gradient, values=values)
        trained[name] = context.trained(name.replace(", ", "-"), chosen)
    ids = made.ids("test")[: s.problems]
    optimizers = [(name, one.optimizer) for name, one in trained.items()]
    found = context.compared("test", made, optimizers, ids, seeds=s.seeds, budget=s.budget, valid=0)
    first = trained[_KINDS[0][0]]
    costs = [_cost(name, one, first) for name, one in trained.items()]
    columns = [
        ("training", "training", ""),
        ("points", "points", ",d"),
        ("true gradients", "gradients", ",d"),
        ("validation points", "validation", ",d"),
        ("seconds", "seconds", ",.0f"),
        ("first meta-loss", "first_meta_loss", ".6g"),
        ("apart from the first row's", "apart", ".1e"),
        ("best validation ratio", "validated", ".4f"),
    ]
    tables = [
        records_table("cost", "Trainings: what they cost, and what they led to", columns, costs),
        rows_table("test", f"{made.name}: {len(ids)} test problems, {s.seeds} repeats", found.rows),
        differences_table("differences", "Paired differences", found.rows),
        *agreeing.tables,
    ]
    lines = {name: _line(one) for name, one in trained.items()}
    figure = lines_figure(
        "training",
        "Final / initial loss of the training problems",
        "One point per unroll: the mean over its meta-batch. The three trainings draw the same problems.",
        lines, x="unroll", y="final / initial loss", log_y=True,
    )  # fmt: skip
    curves: dict[str, Any] = arrays(found.results) | agreeing.curves
    curves |= {f"{name}.{key}": values.numpy() for name, one in trained.items() for key, values in one.history.items()}
    return Outcome(tables, [figure, *agreeing.figures], curves, agreeing.findings)


def _cost(name: str, one: Trained, first: Trained) -> dict[str, Any]:
    """The cost of a training, and the difference of its first unroll from that of another."""
    begun, reference = (float(training.history["meta_loss"][0]) for training in (one, first))
    return {
        "training": name,
        "points": one.evaluations.get("points", 0),
        "gradients": one.evaluations.get("gradients", 0),
        "validation": one.evaluations.get("validation", 0),
        "seconds": one.seconds,
        "first_meta_loss": begun,
        "apart": abs(begun - reference) / abs(reference),
        "validated": one.validated,
    }


def _line(one: Trained) -> Line:
    values = one.history["ratio"].double().numpy()
    nothing = np.full_like(values, np.nan)
    return Line(np.arange(1, values.size + 1, dtype=float), values, nothing, nothing)


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    stages = config(False).stages
    steps = len(_KINDS) * sum(stage.unrolls * stage.steps * stage.meta_batch for stage in stages)
    slopes, segments = points(s.agreement, config(False), 2 + s.agreement.mnist)
    compared = comparison_queries(s.problems, s.seeds, s.budget, len(_KINDS), (), 0)
    return Work(compared + slopes, steps + segments)


FULL = Settings()
EXPERIMENT = Experiment(
    "training-oracle",
    "Meta-training through true gradients against coordinatewise differences: result and cost; and how far "
    "directional derivatives and queries agree.",
    f"""zo-lstm is trained on the digits attack (d = 64) three times by the recipe zo-lstm-digits, seed 0: with \
true gradients of the target and queries answered by inner products with them; with true gradients and real \
queries; and with coordinatewise differences, 2d + 1 points per gradient, and real queries, where the target is \
never differentiated. Points and true gradients that training evaluates are counted (a gradient counts one), and \
validation by itself. All three begin with the same weights, problems and directions, so the meta-losses of \
their first unrolls say how far the approximations are apart before the weights are.

Before that, directional derivatives are held against queries. Slopes: for the directions that the trained \
zo-lstm asks for at the start, the middle and the end of a trajectory by real queries (200 steps, float64, seed 0), \
(f(x + mu u) - f(x)) / mu by queries against <g, u> by one gradient, both in float64 and in float32, from the same x \
and u, on the first {FULL.agreement.problems} training problems of the digits attack, of the MNIST attack where its \
data are there, and of binary classification on full data, which is smooth. The difference is relative to the root \
mean square of the q slopes. Its order is the slope of the logarithm of its mean over that of mu, where the mean is \
above ten times rounding and at most one half. Meta-gradients of all weights: one segment of K steps at the start and \
one in the middle of an unroll, from the same state and with the same draws, for zo-lstm by the recipe's stage and \
zo-lstm-paper by the last stage of its own, on digits and binary classification. Queries have no graph; directional \
derivatives keep that of the points, through which zo-lstm learns directions and which zo-lstm-paper detaches. So \
they are compared where neither has it, where both have it (queries are then given the gradient's slope), and as \
trainings have it. Seconds: medians of {FULL.agreement.repeats} segments each, in turn.

What the trainings led to is compared on the first {FULL.problems} test images, {FULL.budget:,} queries each, \
seeds 0 to {FULL.seeds - 1}.""",
    FULL,
    Settings(
        problems=4,
        seeds=1,
        budget=420,
        agreement=Agreement(
            problems=2,
            mus=(1e-2, 1e-4, 1e-6),
            mus_float32=(1e-5,),
            dim=10,
            mnist=False,
            cases=CASES[::2],
            middle=False,
            repeats=1,
        ),
    ),
    run,
    work,
)
