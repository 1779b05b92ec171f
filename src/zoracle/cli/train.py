"""`zoracle train`: meta-training from a config."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from zoracle.errors import InputError, require
from zoracle.group import Group
from zoracle.metatrain import recipe
from zoracle.metatrain.recipe import Training, TrainingReport
from zoracle.storage.files import check_writable


@click.command("train")
@click.argument("config", metavar="CONFIG")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder; use the same one to resume.")
@click.option("--tensorboard", is_flag=True, help="Also write a TensorBoard log (extra: tensorboard).")
@click.pass_obj
def command(group: Group | None, config: str, out: Path, tensorboard: bool) -> None:
    """Train a learned optimizer from CONFIG, a TOML file or the name of a recipe in the package.

    Under torchrun, the processes divide the problems of each meta-batch, or the pairs of evolution.
    """
    text, where = _text(config)
    made = recipe.parse(text, where)
    check_writable(out / "history.jsonl")
    follow(recipe.training(made, out, group), out, tensorboard, leads=group is None or group.leads)


def follow(training: Training, out: Path, tensorboard: bool = False, *, leads: bool = True) -> None:
    """Do what is left of a training, with a progress bar, a line for each event, and a history in its folder.

    Args:
        training: what to do.
        out: its folder.
        tensorboard: also write a TensorBoard log.
        leads: this process prints and writes; of several that share a training one does.
    """
    writer = _tensorboard(out) if tensorboard and leads else None
    console = Console(quiet=not leads)
    if training.done:
        console.print(f"resuming after {training.done} of {training.total} unrolls", highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("training", total=training.total, completed=training.done)

        def report(told: TrainingReport) -> None:
            bars.update(bar, completed=told.done, description=told.brief)
            if told.figures and leads:
                with (out / "history.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"done": told.done, **told.figures}) + "\n")
            for line in told.lines:
                console.print(f"{told.done}/{told.total}: {line}", highlight=False, markup=False)
            if writer is not None:
                writer(told)

        training.run(report)
    console.print(f"trained optimizer: {out}", highlight=False, soft_wrap=True)


def recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = files("zoracle") / "recipes"
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _text(config: str) -> tuple[str, str]:
    path = Path(config)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; expected a TOML file") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not text; expected a TOML file") from error
    if config in recipes():
        return (files("zoracle") / "recipes" / f"{config}.toml").read_text(encoding="utf-8"), config
    raise InputError(f"config {config!r} is unknown; expected a TOML file or one of {', '.join(recipes()) or 'none'}")


def _tensorboard(out: Path) -> Callable[[TrainingReport], None]:
    require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out / "tensorboard"))

    def write(told: TrainingReport) -> None:
        for name in ("meta_loss", "ratio", "valid"):
            value = told.figures.get(name)
            if value is not None:
                writer.add_scalar(name, value, told.done)
        writer.flush()

    return write
