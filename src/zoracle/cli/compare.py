"""`zoracle compare`: several optimizers on the same problems."""

from __future__ import annotations

from typing import Any

import click

from zoracle.cli.attack_inputs import attacked, input_options, take_inputs
from zoracle.cli.options import Run, run_comparison, run_options


@click.command("compare")
@run_options(default_seeds=3)
@input_options()
def command(**options: Any) -> None:
    """Run optimizers on the same problems and seeds; write a table, curves and a report."""
    inputs = take_inputs(options)
    run = Run(**options)
    run_comparison(run, attacked(run, inputs))
