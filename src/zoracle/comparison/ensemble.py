"""Several attacks on the same images, which share each image's budget and skip images already broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from zoracle.comparison.entries import Entry, folder
from zoracle.comparison.progress import Display
from zoracle.errors import BudgetError
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.pool import Pool
from zoracle.evaluation.spec import RunSpec
from zoracle.objectives.attack import ImageAttack
from zoracle.optimizers.base import Optimizer
from zoracle.results.result import Result, join
from zoracle.results.union import filled, left_out, union
from zoracle.storage.runfolder import RunFolder
from zoracle.tasks.base import Task

#: What the worst case of several attacks is called in tables and files.
WORST = "worst case"


class Ensemble(NamedTuple):
    """How several attacks make one: the first has half of each image's budget, the others share the rest equally."""

    every: bool = False
    """Every attack is made on every image; else an image that one breaks is left alone by those that follow."""


def shares(spec: RunSpec, number: int) -> list[RunSpec]:
    """A run as each of several attacks makes it: the first has half the budget and looks at the start.

    The others share the other half in equal parts, so that the budgets add up to the whole.

    Raises:
        BudgetError: the budget is smaller than two queries for each attack.
    """
    if spec.budget is None:
        budgets: list[int | None] = [None] * number
    else:
        if spec.budget < 2 * number:
            raise BudgetError(
                f"budget is {spec.budget} queries per image, which {number} attacks share; give more, or one optimizer"
            )
        others = spec.budget // (2 * max(1, number - 1))
        budgets = [spec.budget - (number - 1) * others, *[others] * (number - 1)]
    return [
        msgspec.structs.replace(spec, budget=budget, check_start=spec.check_start and i == 0)
        for i, budget in enumerate(budgets)
    ]


def check_shares(specs: Sequence[RunSpec], optimizers: Sequence[tuple[str, Optimizer[Any, Any]]]) -> None:
    """Refuse a budget whose parts do not pay for a step of each attack.

    Raises:
        BudgetError: one of them does not.
    """
    costs = [optimizer.queries_per_step for _, optimizer in optimizers]
    needs = [cost + int(spec.check_start) for cost, spec in zip(costs, specs, strict=True)]
    for spec, need, (label, _) in zip(specs, needs, optimizers, strict=True):
        if spec.budget is not None and spec.budget < need:
            raise BudgetError(
                f"budget gives {label} {spec.budget} of each image's queries, and its first step needs {need}; "
                f"give at least {2 * len(specs) * max(needs)}, or name one optimizer"
            )


def run_ensemble(
    task: Task,
    entries: Sequence[Entry],
    specs: Sequence[RunSpec],
    ensemble: Ensemble,
    run: RunFolder | None,
    workers: Pool | None,
    display: Display,
) -> dict[str, Result]:
    """Make the attacks one after the other; each has a folder for each seed among the run's pieces.

    Args:
        task: what the images are of.
        entries: the attacks, in the order that they are made in.
        specs: of each, with all images.
        ensemble: who is attacked again.
        run: the folder; None keeps nothing.
        workers: processes that share the images.
        display: where progress is shown.

    Returns:
        Results (S, P) by label; images that an attack left out have spent nothing there.
    """
    results: dict[str, Result] = {}
    for i, (entry, spec) in enumerate(zip(entries, specs, strict=True)):
        before = list(results.values())
        parts = []
        for row, seed in enumerate(spec.seed_list):
            one = msgspec.structs.replace(spec, seeds=(seed,), steps=entry.steps)
            keep = None if run is None else run.pieces / f"{folder(i, entry.label)}-seed-{seed}"
            waiting = _waiting(before, row, ensemble, len(one.problem_ids(task)))
            whole = _nobody(task, one, entry, before, row)
            if not len(waiting):
                parts.append(whole)
                continue
            some = msgspec.structs.replace(one, ids=tuple(torch.tensor(one.ids)[waiting].tolist()))
            found = evaluate(
                entry.optimizer,
                task,
                some,
                on_progress=display.steps_of(entry.label),
                on_status=display.status_of(entry.label),
                resume_dir=keep,
                workers=workers,
            )
            parts.append(filled(whole, found, waiting))
        results[entry.label] = join(parts, 0)
    return results


def worst_case(results: Sequence[Result], objective: ImageAttack) -> Result:
    """The result for each image after all attacks: the nearest success of any, or the best failed point."""
    rows = torch.arange(results[0].ids.shape[1])
    distances = [
        torch.stack([objective.distances(points, rows)[objective.threat.norm].cpu() for points in one.success_point])
        for one in results
    ]
    return union(results, distances)


def _waiting(before: Sequence[Result], row: int, ensemble: Ensemble, images: int) -> Tensor:
    """The images (K,) of the next attack, under one seed."""
    waits = torch.ones(images, dtype=torch.bool)
    for result in before:
        waits &= ~result.misclassified[row]
        if not ensemble.every:
            waits &= ~result.success_ever[row]
    return waits.nonzero().flatten()


def _nobody(task: Task, spec: RunSpec, entry: Entry, before: Sequence[Result], row: int) -> Result:
    """The attack on no image: its result for images that are left out."""
    assert spec.ids is not None
    assert spec.steps is not None
    start = task.start(spec.ids, seed=spec.seed_list[0], dtype=spec.torch_dtype)
    wrong = torch.zeros(len(spec.ids), dtype=torch.bool)
    if before:
        wrong = before[0].misclassified[row]
    whole = spec.steps * entry.optimizer.queries_per_step + int(spec.check_start)
    return left_out(spec.ids, spec.seed_list[0], start, spec.steps, spec.budget or whole, wrong)
