"""`zoracle attack`: adversarial examples for the images of a task."""

from __future__ import annotations

from typing import Any

import click
import numpy as np
import torch

from zoracle.cli.attack_inputs import attacked, input_options, take_inputs
from zoracle.cli.options import Run, file_name, run_comparison, run_options
from zoracle.errors import InputError
from zoracle.evaluation.result import Result
from zoracle.evaluation.runfolder import write_npz
from zoracle.objectives.attack import ImageAttack
from zoracle.tasks import Task


@click.command("attack")
@run_options(default_seeds=1, default_optimizers="zo-lstm", out_required=True)
@input_options()
def command(**options: Any) -> None:
    """Attack images; write the adversarial images, a table, curves and a report.

    They are those of a task that comes with zoracle, or your own (--data), through a model of your own (--target).
    """
    inputs = take_inputs(options)
    run = Run(**options)
    made = attacked(run, inputs)
    if not isinstance(made.objective(made.ids(run.split)[:1]), ImageAttack):
        raise InputError(f"{run.task} is no attack on images; use `zoracle compare`")
    comparison = run_comparison(run, made, title=f"Attack on {made.name}")
    for label, result in comparison.results.items():
        assert run.out is not None  # click insists on it
        path = run.out / f"adversarial-{file_name(label)}.npz"
        write_npz(path, adversarial_arrays(made, result))
        for repeat, seed in enumerate(result.seed[:, 0].tolist()):
            broken = int(result.success_ever[repeat].sum())
            click.echo(f"{label}, seed {seed}: {broken} of {result.ids.shape[1]} images broken")
        click.echo(f"adversarial images: {path}")


def adversarial_arrays(made: Task, result: Result) -> dict[str, np.ndarray[Any, Any]]:
    """The best adversarial image of each problem and seed, the best failed one where none succeeded.

    Returns:
        ids (P,), labels (P,), seeds (S,), images (P, C, H, W), adversarial (S, P, C, H, W), success (S, P),
        queries (S, P), queries_to_success (S, P; -1 where none), l1, l2 and linf (S, P).

    Raises:
        InputError: the task is no attack on images.
    """
    ids = tuple(result.ids[0].tolist())
    pictures = made.pictures(ids)
    objective = made.objective(ids, dtype=result.best_point.dtype)
    if pictures is None or not isinstance(objective, ImageAttack):
        raise InputError(f"{made.name} is no attack on images; use `zoracle compare`")
    # In the run's own precision: rounded, an image that barely succeeded might not.
    points = torch.where(result.success_ever.unsqueeze(2), result.success_point, result.best_point)
    rows = torch.arange(len(ids))
    images = torch.stack([objective.adversarial(found, rows) for found in points])
    distances = [objective.distances(found, rows) for found in points]
    arrays = {
        "ids": result.ids[0],
        "labels": pictures.labels,
        "seeds": result.seed[:, 0],
        "images": pictures.images,
        "adversarial": images,
        "success": result.success_ever,
        "queries": result.spent,
        "queries_to_success": result.first_success,
        **{name: torch.stack([one[name] for one in distances]) for name in ("l1", "l2", "linf")},
    }
    return {name: value.numpy() for name, value in arrays.items()}
