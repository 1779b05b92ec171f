"""`zoracle demo`: a learned optimizer breaks a real classifier, beside hand-designed ones."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from zoracle.cli.options import Request, run_comparison, workers_option
from zoracle.errors import MissingExtraError
from zoracle.evaluation.spec import RunSpec
from zoracle.objectives.attack import ImageAttack
from zoracle.reporting.figures import write_figure
from zoracle.reporting.opening import opening_figure
from zoracle.tasks import task


@click.command("demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True, help="The run folder."
)
@click.option("--problems", type=click.IntRange(min=1), default=100, show_default=True, help="Number of test images.")
@click.option("--optimizers", default="zo-lstm,zo-sgd,zo-signsgd,zo-adam", show_default=True, help="As in compare.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Number of seeds.")
@workers_option
def command(out: Path, problems: int, optimizers: str, seeds: int, workers: int) -> None:
    """Attack a digit classifier by queries only: ZO-LSTM against ZO-SGD, ZO-signSGD and ZO-ADAM.

    The step sizes of the last three were tuned on validation images with `zoracle tune`. Everything comes with the
    package; nothing is downloaded.
    """
    spec = RunSpec(problems=problems, seeds=seeds)
    request = Request(task="digits", spec=spec, optimizers=optimizers, workers=workers, out=out)
    digits = task(request.task)
    found = run_comparison(request, digits, title="Breaking a digit classifier that can only be called")
    objective = spec.objective(digits)
    assert isinstance(objective, ImageAttack)
    with suppress(MissingExtraError):  # without matplotlib there are no figures; the comparison has said so
        drawn = write_figure(opening_figure(objective, found.results), out / "figures")
        click.echo(f"figure: {drawn[0]}")
