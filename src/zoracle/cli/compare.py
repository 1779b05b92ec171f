"""`zoracle compare`: several optimizers on the same problems."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from click.core import ParameterSource

from zoracle.cli.attack_inputs import attacked, input_options, take_inputs
from zoracle.cli.function_options import function_options, take_function
from zoracle.cli.options import run_comparison, run_options, take_request
from zoracle.experiments.external.loops import rivals_of


@click.command("compare")
@run_options(default_seeds=3)
@input_options()
@function_options()
@click.option(
    "--rivals/--no-rivals",
    default=True,
    show_default=True,
    help="With --objective: also run CMA-ES (pycma), Powell, L-BFGS-B (SciPy), differential evolution (Nevergrad).",
)
def command(rivals: bool, **options: Any) -> None:
    """Run optimizers on the same problems and seeds; write a table, curves and a report.

    The problems are those of a task (--task), attacks on your own model (--target, --data), or your own function
    (--objective module:function --dim N).
    """
    inputs, function = take_inputs(options), take_function(options).task()
    request = take_request(options)
    if function is None:
        run_comparison(request, attacked(request, inputs))
        return
    if click.get_current_context().get_parameter_source("dtype") is ParameterSource.DEFAULT:
        spec = msgspec.structs.replace(request.spec, dtype="float64")  # as the other libraries calculate
        request = request._replace(spec=spec)
    others, minimisers, missing = rivals_of(function.dim) if rivals else ([], {}, [])
    for note in missing:
        click.echo(note)
    run_comparison(request, function, others=others, rivals=minimisers)
