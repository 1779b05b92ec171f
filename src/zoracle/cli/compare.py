"""`zoracle compare`: several optimizers on the same problems."""

from __future__ import annotations

from typing import Any

import click

from zoracle.cli.options import Run, run_comparison, run_options, task_for


@click.command("compare")
@run_options(default_seeds=3, default_optimizers="zo-lstm,zo-sgd,zo-signsgd,zo-adam")
def command(**options: Any) -> None:
    """Run optimizers on the same problems and seeds; write a table, curves and a report."""
    run = Run(**options)
    run_comparison(run, task_for(run.task, run.threat, run.eps, run.reduce))
