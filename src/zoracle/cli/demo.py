"""`zoracle demo`: a learned optimizer breaks a real classifier, beside hand-designed ones."""

from __future__ import annotations

from pathlib import Path

import click

from zoracle.cli.options import Request, run_comparison, workers_option
from zoracle.evaluation.spec import RunSpec
from zoracle.tasks import task


@click.command("demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True, help="The run folder."
)
@click.option("--problems", type=click.IntRange(min=1), default=100, show_default=True, help="Test images.")
@click.option("--optimizers", default="zo-lstm,zo-sgd,zo-signsgd,zo-adam", show_default=True, help="As in compare.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Repeats.")
@workers_option
def command(out: Path, problems: int, optimizers: str, seeds: int, workers: int) -> None:
    """Attack a digit classifier by calling it only: ZO-LSTM beside ZO-SGD, ZO-signSGD and ZO-ADAM.

    The step sizes of the last three were tuned on validation images by `zoracle tune`. Everything comes with the
    package; nothing is downloaded.
    """
    spec = RunSpec(problems=problems, seeds=seeds)
    request = Request(task="digits", spec=spec, optimizers=optimizers, workers=workers, out=out)
    run_comparison(request, task(request.task), title="Breaking a digit classifier that can only be called")
