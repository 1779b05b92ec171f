"""`zoracle train-target`: the network that a task attacks."""

from __future__ import annotations

from pathlib import Path

import click

from zoracle.errors import InputError


@click.command("train-target")
@click.option("--task", default="digits", show_default=True, help="digits, mnist or cifar10.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights, batches and split.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs; default: 6 for mnist, 15 for cifar10.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default: the cache; required for digits.")
def command(task: str, seed: int, epochs: int | None, out: Path | None) -> None:
    """Train the network that a task attacks on the task's data, and choose the task's split.

    For cifar10 the network is trained adversarially and used by --task cifar10:network=robust; the split is unchanged.
    """
    if task == "digits":
        from zoracle.tasks.digits import train_digits_target

        if out is None:
            raise InputError("--out is missing; expected a folder (the target of digits comes with the package)")
        report = train_digits_target(out, seed=seed)
    elif task == "mnist":
        from zoracle.tasks.mnist import train_mnist_target

        report = train_mnist_target(out, seed=seed, epochs=epochs or 6)
    elif task == "cifar10":
        from zoracle.tasks.cifar10 import train_robust_target

        report = train_robust_target(
            out, seed=seed, epochs=epochs or 15, report=lambda epoch, loss: click.echo(f"epoch {epoch + 1}: {loss:.3f}")
        )
    else:
        raise InputError(f"task {task!r} has no target to train; expected digits, mnist or cifar10")
    click.echo(f"{report.weights}: accuracy {report.accuracy:.2%} on {report.images} held-out images")
