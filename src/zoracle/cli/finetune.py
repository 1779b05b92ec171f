"""`zoracle finetune`: fine-tune a trained optimizer on another task."""

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
@click.option("--task", "task_name", required=True, help="A task, optionally with settings, or my_file.py:MyTask.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder; use the same one to resume.")
@click.option("--unrolls", type=_COUNT, default=_DEFAULTS.unrolls, show_default=True, help="Number of unrolls.")
@click.option("--steps", type=_COUNT, help="Steps of an unroll; default: the task's. Use those of your later runs.")
@click.option(
    "--meta-batch", type=_COUNT, default=_DEFAULTS.meta_batch, show_default=True, help="Problems in each unroll."
)
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    default=_DEFAULTS.lr,
    show_default=True,
    help="Step size of Adam.",
)
@click.option("--problems", type=_COUNT, help="Number of training problems; default: all.")
@click.option(
    "--validation",
    type=_COUNT,
    default=_DEFAULTS.validation,
    show_default=True,
    help="Number of validation problems.",
)
@click.option(
    "--gradient",
    type=click.Choice(["auto", "true", "coordinatewise"]),
    default=_DEFAULTS.gradient,
    show_default=True,
    help="Gradients by autograd (true) or by 2 d evaluations each (coordinatewise); auto: by autograd if possible.",
)
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Seed of the training.")
@click.option("--tensorboard", is_flag=True, help="Also write a TensorBoard log (extra: tensorboard).")
def command(name: str, task_name: str, out: Path, tensorboard: bool, **options: object) -> None:
    """Fine-tune the weights of a learned optimizer on another task.

    NAME is a shipped optimizer such as zo-lstm-universal, or a training folder. The output folder contains the new
    weights, a model card and a history; pass it wherever an optimizer is expected. For full control, use `zoracle
    train` with `initial` in the config. To train a neural network with forward passes, see zoracle.finetune in Python.
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
            f"{task_name} has no gradient; training needs about {evaluations(config, made.dim):,} evaluations",
            highlight=False,
        )
    follow(training, out, tensorboard)
    before, after = training.trainer.progress.initial, training.trainer.progress.validated
    told = f"validation {config.validation.criterion}: {before:.4f} before, {after:.4f} after"
    if after < before:
        console.print(f"{told}, on {config.validation.problems} problems", highlight=False)
    else:
        console.print(f"{told}: no improvement, so the folder contains the weights of {initial}", highlight=False)
