"""`zoracle train-target`: the network that a task attacks."""

from __future__ import annotations

from pathlib import Path

import click

from zoracle.errors import InputError


@click.command("train-target")
@click.option("--task", default="digits", show_default=True, help="digits, mnist or cifar10.")
@click.option("--seed", type=int, default=0, show_default=True, help="Keys weights, batches and split.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of mnist, 6 by default, and of cifar10, 15.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; by default the cache, for digits it is needed.")
def command(task: str, seed: int, epochs: int | None, out: Path | None) -> None:
    """Train the network that a task attacks, from the task's own data, and choose the task's split.

    That of cifar10 is adversarially trained, and attacked by --task cifar10:network=robust; the split stays.
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
    click.echo(f"{report.weights}: {report.accuracy:.2%} of {report.images} images it was not trained on")
