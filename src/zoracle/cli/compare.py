"""`zoracle compare`: several optimizers on the same problems."""

from __future__ import annotations

from typing import Any

import click

from zoracle.cli.attack_inputs import attacked, input_options, take_inputs
from zoracle.cli.options import run_comparison, run_options, take_request


@click.command("compare")
@run_options(default_seeds=3)
@input_options()
def command(**options: Any) -> None:
    """Run optimizers on the same problems and seeds; write a table, curves and a report."""
    inputs = take_inputs(options)
    request = take_request(options)
    run_comparison(request, attacked(request, inputs))
