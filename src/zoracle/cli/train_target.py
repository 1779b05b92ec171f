"""`zoracle train-target`: the network that a task attacks."""

from __future__ import annotations

import click

from zoracle.errors import InputError


@click.command("train-target")
@click.option("--task", default="digits", show_default=True, help="digits or mnist.")
def command(task: str) -> None:
    """Train the network that a task attacks, from the task's own data."""
    if task == "digits":
        from zoracle.tasks.digits import train_digits_target as train
    elif task == "mnist":
        from zoracle.tasks.mnist import train_mnist_target as train
    else:
        raise InputError(f"task {task!r} has no target to train; expected digits or mnist")
    click.echo(f"trained: {train()}")
