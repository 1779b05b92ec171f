"""The paper's main experiment: black-box attacks on a classifier of images."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import BASELINES, arrays, baselines, comparison_queries
from zoracle.experiments.context import Context, Named
from zoracle.experiments.external import count, external
from zoracle.experiments.work import Work
from zoracle.optimizers import shipped
from zoracle.reporting import (
    BAND,
    Array,
    Figure,
    Line,
    Table,
    best_line,
    differences_table,
    lines_figure,
    loss_line,
    panels_figure,
    rows_table,
)
from zoracle.tasks import Task


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of an attack.

    Attributes:
        task: name of the task.
        problems: first test images.
        seeds: repeats per problem.
        budget: queries per image.
        valid: validation images for tuning step sizes, if none are stored.
        panels: first test images, with a panel for each.
        panel_seeds: repeats of each of these.
        external: first test images for evolution strategies of other packages.
        optimizers: learned ones, used if the user names none.
    """

    task: str
    problems: int = 100
    seeds: int = 5
    budget: int = 4200
    valid: int = 100
    panels: int = 10
    panel_seeds: int = 10
    external: int = 100
    optimizers: str = "zo-lstm"


def run(context: Context) -> Outcome:
    """Run the attack."""
    s: Settings = context.settings
    made = context.task(s.task)
    ids = made.ids("test")
    learned = [(label, loaded.optimizer) for label, loaded in context.learned(made, s.optimizers)]
    optimizers = [*learned, *baselines((*BASELINES, "snes"))]
    shared: dict[str, Any] = {"budget": s.budget, "valid": s.valid}
    main = context.compared("attack", made, optimizers, ids[: s.problems], seeds=s.seeds, **shared)
    tables: list[Table] = [
        rows_table("attack", f"{made.name}: {len(ids[: s.problems])} test images, {s.seeds} repeats", main.rows),
        differences_table("differences", "Paired differences, 95 % intervals over images", main.rows),
    ]
    curves = arrays(main.results)
    figures: list[Figure] = [
        lines_figure(
            "loss",
            "Loss of the iterate",
            f"{BAND} Two dots: the optimizer does not evaluate its iterates; both ends were monitored.",
            {label: loss_line(result) for label, result in main.results.items()},
            x="queries per image", y="loss", log_y=True,
        ),
        lines_figure(
            "best",
            "Best loss so far",
            f"The lowest loss of any point evaluated so far. {BAND}",
            {label: best_line(result) for label, result in main.results.items()},
            x="queries per image", y="best loss so far", log_y=True,
        ),
    ]  # fmt: skip
    if s.panels:
        figures.append(_panels(context, made, optimizers, ids[: s.panels], curves))
    others, notes = external(context.quick) if s.external else ([], [])
    for note in notes:
        context.note(note)
    if others:
        rivals = [*learned, *baselines(("snes",)), *others]
        first = ids[: s.external]
        # JAX compiles first, which takes most of the time of a few steps.
        found = context.compared("external", made, rivals, first, seeds=1, batch=4, pace=not context.quick, **shared)
        title = f"Evolution strategies on the first {len(first)} of these images, equal queries"
        tables.append(rows_table("external", title, found.rows))
        tables.append(differences_table("external_differences", "Their paired differences", found.rows))
        curves |= arrays(found.results, "external")
        figures.append(
            lines_figure(
                "external",
                "Best loss so far, evolution strategies",
                BAND,
                {label: best_line(result) for label, result in found.results.items()},
                x="queries per image", y="best loss so far", log_y=True,
            )
        )  # fmt: skip
    best = main.rows[0]
    findings = [f"Lowest final / initial loss: {best.optimizer}."]
    return Outcome(tables, figures, curves, findings)


def _panels(context: Context, made: Task, optimizers: Named, ids: tuple[int, ...], curves: dict[str, Array]) -> Figure:
    """A panel for each of these images, with repeats; the raw curves are added to the others."""
    s: Settings = context.settings
    found = context.compared("panels", made, optimizers, ids, seeds=s.panel_seeds, budget=s.budget, valid=s.valid)
    curves |= arrays(found.results, "panels")
    pictures = made.pictures(ids)
    headings = [
        f"image {ids[i]}" + ("" if pictures is None else f", a {pictures.class_names[int(pictures.labels[i])]}")
        for i in range(len(ids))
    ]

    def one(i: int) -> dict[str, Line]:
        some = {label: type(r)(*(leaf[:, i : i + 1] for leaf in r)) for label, r in found.results.items()}
        return {label: loss_line(result) for label, result in some.items()}

    return panels_figure(
        "panels",
        f"Image by image, {s.panel_seeds} repeats each",
        "Lines are means over the repeats of one image, bands 95 % intervals over them.",
        {heading: one(i) for i, heading in enumerate(headings)},
        x="queries", y="loss", log_y=True,
    )  # fmt: skip


def work(s: Settings, *, stored: bool) -> Work:
    """The amount of work of a form; settings of the paper's optimizers are stored for the full form's steps and q."""
    tuned = (*BASELINES, "snes")
    learned = len(s.optimizers.split(","))
    queries = comparison_queries(s.problems, s.seeds, s.budget, learned, tuned, 0)
    queries += comparison_queries(0, 0, s.budget, 0, ("snes",) if stored else tuned, s.valid)
    queries += comparison_queries(s.panels, s.panel_seeds, s.budget, learned, tuned, 0)
    if others := count():
        queries += comparison_queries(s.external, 1, s.budget, learned + 1 + others, (), 0)
    return Work(queries)


_ABOUT = """Each optimizer attacks the first {problems} test images of the task {task} with {budget:,} queries an \
image, under seeds 0 to {last}. Loss, success and distances are those of `zoracle compare`; intervals are over \
images, each averaged over its seeds first, and failures stay in every mean.

Step sizes (and betas, and the evolution strategy's sigma) were tuned on validation images by the same command \
where none are stored for this task, number of steps and q; the test images are in no choice. The panels show \
the first {panels} test images with seeds 0 to {last_panel}. The first {external} test images are attacked by \
evolution strategies of other packages too (population 21, seed 0): by pycma (full covariance, sigma 0.03, and \
diagonal, sigma 0.1) where the extra `baselines` is installed, by evosax (SNES, and LES and CMA-anchored LES with the \
weights that evosax ships, sigma 0.03) where the extra `evosax` is. Their final loss is that of their mean, evaluated \
at the end to report it; their best is the lowest of all points evaluated, that one included."""


def _experiment(name: str, summary: str, full: Settings, quick: Settings, stored: bool) -> Experiment:
    about = _ABOUT.format(
        problems=full.problems, task=full.task, budget=full.budget, last=full.seeds - 1, panels=full.panels,
        last_panel=full.panel_seeds - 1, external=full.external,
    )  # fmt: skip
    return Experiment(name, summary, about, full, quick, run, partial(work, stored=stored))


def _quick(full: Settings, images: int) -> Settings:
    """A few images and a tenth of the queries."""
    small = {"problems": images, "panels": images, "valid": images, "external": 2, "seeds": 2, "panel_seeds": 2}
    return msgspec.structs.replace(full, budget=420, **small)


_MNIST = Settings(task="mnist")
MNIST = _experiment(
    "mnist-attack",
    "Learned and hand-designed optimizers on the paper's MNIST attack.",
    _MNIST,
    _quick(_MNIST, 4),
    True,
)
# The shipped one trained on this task, if there is one, and the one trained on MNIST.
_OWN = [name for name in ("zo-lstm-cifar10",) if name in shipped()]
# A query costs ten times as much as on MNIST: one repeat suffices, since intervals are over images.
_CIFAR10 = Settings(
    task="cifar10", seeds=1, panel_seeds=3, valid=20, external=10, optimizers=",".join([*_OWN, "zo-lstm-mnist"])
)
CIFAR10 = _experiment(
    "cifar10-attack",
    "The same attack on a ResNet-20 that reads CIFAR-10, with the optimizer trained on MNIST carried over.",
    _CIFAR10,
    _quick(_CIFAR10, 2),
    False,
)
