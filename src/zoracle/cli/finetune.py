"""`zoracle finetune`: a trained optimizer's weights, trained further on another task."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from zoracle.cli.train import follow
from zoracle.comparison.named import use_of
from zoracle.metatrain.finetuning import FineTuning, evaluations
from zoracle.metatrain.recipe import ByUnrolls
from zoracle.optimizers.pretrained import resolve
from zoracle.optimizers.spelling import named_optimizer
from zoracle.storage.files import check_writable
from zoracle.tasks import task

_DEFAULTS = FineTuning()
_COUNT = click.IntRange(min=1)


@click.command("finetune")
@click.argument("name")
@click.option("--task", "task_name", required=True, help="A task, with settings if needed, or my_file.py:MyTask.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder; the same one resumes.")
@click.option("--unrolls", type=_COUNT, default=_DEFAULTS.unrolls, show_default=True, help="Runs to train on.")
@click.option("--steps", type=_COUNT, help="Steps of a run; by default the task's. Train for those that you will use.")
@click.option(
    "--meta-batch", type=_COUNT, default=_DEFAULTS.meta_batch, show_default=True, help="Problems in each run."
)
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    default=_DEFAULTS.lr,
    show_default=True,
    help="Adam's step size.",
)
@click.option("--problems", type=_COUNT, help="Problems of the training split; by default all.")
@click.option(
    "--validation",
    type=_COUNT,
    default=_DEFAULTS.validation,
    show_default=True,
    help="Problems that choose the weights.",
)
@click.option(
    "--gradient",
    type=click.Choice(["auto", "true", "coordinatewise"]),
    default=_DEFAULTS.gradient,
    show_default=True,
    help="Gradients of the task's objective: by autograd, by 2 d evaluations each, or as the objective allows.",
)
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Keys everything.")
@click.option("--tensorboard", is_flag=True, help="Also write a TensorBoard log (extra: tensorboard).")
def command(name: str, task_name: str, out: Path, tensorboard: bool, **options: object) -> None:
    """Train the weights of a learned optimizer further, on another task.

    NAME is a trained optimizer that ships (zo-lstm-universal, say), or the folder of a training. The folder gets the
    new weights, a model card and a history; give it wherever an optimizer is named. `zoracle train` with `initial` in
    its config does the same with every setting in your hand. To train a neural network by forward passes, see
    zoracle.finetune in Python.
    """
    plain_task, settings = named_optimizer(task_name)
    made = task(plain_task, **settings)
    plain, own = named_optimizer(name)
    loaded = resolve(plain, use_of(made), **own)
    loaded.metadata["config"] = {**loaded.metadata.get("config", {}), **own}
    initial = loaded.metadata.get("shipped") or plain
    config = FineTuning(**options).config(loaded, initial, made, plain_task, settings)  # type: ignore[arg-type]
    check_writable(out / "history.jsonl")
    console, training = Console(), ByUnrolls(config, out)
    if config.gradient == "coordinatewise" and training.done == 0:
        console.print(
            f"{task_name} has no gradient that can be taken: about {evaluations(config, made.dim):,} evaluations of it",
            highlight=False,
        )
    follow(training, out, tensorboard)
    before, after = training.trainer.progress.initial, training.trainer.progress.validated
    told = f"validation {config.validation.criterion}: {before:.4f} before, {after:.4f} after"
    if after < before:
        console.print(f"{told}, on {config.validation.problems} problems", highlight=False)
    else:
        console.print(f"{told}: nothing did better, and the folder holds the weights of {initial}", highlight=False)
