"""`zoracle tune`: step sizes of the hand-designed optimizers, on validation problems."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from zoracle.cli.attack_inputs import for_validation, input_options, take_inputs
from zoracle.cli.function_options import function_options, take_function
from zoracle.cli.options import processes, workers_option
from zoracle.cli.threat_options import Threat, task_for, threat_options
from zoracle.comparison.entries import folder
from zoracle.comparison.named import named_optimizers, use_of
from zoracle.comparison.tune import GRIDS, tunable, tune
from zoracle.errors import InputError
from zoracle.evaluation.spec import RunSpec
from zoracle.evaluation.workers import started
from zoracle.results.tuned import read_tuned, write_tuned
from zoracle.storage.files import check_writable
from zoracle.storage.runfolder import locked, open_run
from zoracle.tasks import Task


@click.command("tune")
@click.option("--task", "task_name", default="digits", show_default=True, help="Task to tune on.")
@threat_options()
@input_options()
@function_options()
@click.option("--optimizers", default="zo-sgd,zo-signsgd,zo-adam", show_default=True, help="Optimizers to tune.")
@click.option(
    "--problems",
    type=click.IntRange(min=1),
    help="Validation problems; default: 50, all of your own images, or 3 starting points of your own function.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Number of steps; default: the task's.")
@click.option("--num-directions", type=click.IntRange(min=1), help="q, query directions per step; default: the task's.")
@workers_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON file to write.")
def command(
    optimizers: str,
    problems: int | None,
    steps: int | None,
    num_directions: int | None,
    workers: int,
    out: Path,
    **options: Any,
) -> None:
    """Tune step sizes (and betas) on a logarithmic grid and validation problems; the test split is never used.

    Within a ball the criterion is the number of queries to success, otherwise the final loss. The problems are those of
    a task, your own images and target (--target, --data; all images are used for validation, so attack others later),
    or your own function (--objective). `zoracle attack` and `compare` read the file with --settings.
    """
    inputs, function = take_inputs(options), take_function(options).task()
    name, asked = options.pop("task_name"), Threat(**options)
    made: Task
    if function is not None:
        made, usual = function, 3
    elif inputs.target is None and inputs.data is None:
        made, usual = task_for(name, asked), 50
    else:
        made = for_validation(asked, inputs, workers)
        usual = len(made.ids("valid"))
    problems = usual if problems is None else problems
    check_writable(out)
    q = made.defaults.num_directions if num_directions is None else num_directions
    spec = RunSpec(split="valid", ids=made.ids("valid")[:problems], steps=steps, num_directions=q)
    optimizers_to_tune = named_optimizers(optimizers, use_of(made))
    for label, optimizer in optimizers_to_tune:
        if tunable(optimizer) is None:
            raise InputError(f"{label} has no step size to tune; expected one of {', '.join(GRIDS)}")
    if out.is_file():
        read_tuned(out)  # something else must not be found there after hours
    console = Console()
    records = []
    pieces = out.with_name(f"{out.name}.pieces")  # what an interrupted search goes on from
    with locked(pieces), started(processes(workers)) as pool:
        open_run(pieces, {"kind": "tuning"})
        for i, (label, optimizer) in enumerate(optimizers_to_tune):
            record = tune(
                made,
                optimizer,
                spec,
                criterion=asked.criterion,
                resume_dir=pieces / folder(i, label),
                workers=pool,
            )
            records.append(record)
            chosen = ", ".join(f"{name} = {value:.4g}" for name, value in record.chosen.items())
            console.print(f"{label}: {chosen} ({len(record.scores)} settings tried)", highlight=False)
            write_tuned(out, records)
        shutil.rmtree(pieces, ignore_errors=True)
    console.print(f"settings: {out}; use them with --settings {out}", highlight=False, soft_wrap=True)
