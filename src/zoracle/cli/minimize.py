"""`zoracle minimize`: a function of one's own, named as module:function."""

from __future__ import annotations

import inspect
import json
import math
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from zoracle.api import minimize
from zoracle.api.solutions import Solution
from zoracle.blackboxes.function import load_callable
from zoracle.errors import InputError, one_line
from zoracle.optimizers.spelling import named_optimizer
from zoracle.storage.files import check_writable, write_text
from zoracle.types import Choice, StopReason

#: What Python takes where nothing is named; the two must not differ.
_DEFAULT: str = inspect.signature(minimize).parameters["optimizer"].default


@click.command("minimize")
@click.argument("function", metavar="FUNCTION")
@click.option("--dim", type=click.IntRange(1, 2**31), help="Number of coordinates; not needed if --start is a file.")
@click.option("--budget", type=click.IntRange(min=1), required=True, help="Maximum number of points to evaluate.")
@click.option("--start", default="0", show_default=True, help="Starting point: a number, or an .npy file.")
@click.option("--low", help="Lower bound: a number, or an .npy file with one per coordinate.")
@click.option("--high", help="Upper bound: a number or an .npy file.")
@click.option("--scale", default="1", show_default=True, help="Typical change of a coordinate: a number or .npy file.")
@click.option(
    "--optimizer",
    default=_DEFAULT,
    show_default=True,
    help="A name, optionally with settings: zo-adam:lr=.02. The default needs none and measures the noise.",
)
@click.option("--vectorized", is_flag=True, help="FUNCTION takes a batch (N, d); default: one point (d,).")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that evaluate it.")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "nan"]),
    default="raise",
    show_default=True,
    help="What to do if FUNCTION raises.",
)
@click.option("--retries", type=click.IntRange(min=0), default=0, show_default=True, help="Repeats of a failed call.")
@click.option("--target", type=float, help="Stop at this value or lower.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), help="Seconds after which no step starts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random directions.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="File to save the run to and resume it from.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the solution.")
def command(
    function: str,
    dim: int | None,
    start: str,
    low: str | None,
    high: str | None,
    scale: str,
    optimizer: str,
    on_error: Any,
    out: Path | None,
    **given: Any,
) -> int:
    """Minimise FUNCTION, named as module:function or my_file.py:function, which takes a NumPy array.

    Prints a short table; Ctrl-C prints the best point so far.
    """
    f = load_callable(function)
    x0 = _numbers("--start", start)
    if x0.ndim == 0:
        if dim is None:
            raise InputError("--dim is missing; pass the number of coordinates, or --start FILE.npy")
        x0 = np.full(dim, float(x0))
    elif dim is not None and x0.size != dim:
        raise InputError(f"--dim is {dim}, but --start {start} holds {x0.size} numbers; leave out --dim")
    if out is not None:
        check_writable(out)
    bounds = None
    if low is not None or high is not None:
        bounds = (None if low is None else _numbers("--low", low), None if high is None else _numbers("--high", high))
    units = _numbers("--scale", scale)
    name, settings = named_optimizer(optimizer)
    solution = minimize(
        f,
        x0,
        shape=x0.shape,
        optimizer=name,
        bounds=bounds,
        scale=units if units.ndim else float(units),
        on_error=on_error,
        framework="numpy",
        progress=sys.stderr.isatty(),
        **given,
        **settings,
    )
    click.echo(repr(solution))
    if out is not None:
        write_text(out, json.dumps(_plain(solution), indent=2) + "\n")
        click.echo(f"solution: {out}")
    return 130 if solution.reason is StopReason.INTERRUPTED else 0


def _numbers(flag: str, text: str) -> np.ndarray[Any, Any]:
    """A number, or the array of an .npy file."""
    if text.endswith(".npy"):
        try:
            with Path(text).open("rb") as file:  # np.load leaves a damaged one open
                found = np.load(file, allow_pickle=False)
        except Exception as error:  # what damaged files raise is not documented, and of many kinds
            told = one_line(error)
            raise InputError(f"{flag} {text} cannot be read ({told}); expected an .npy file of numbers") from error
        if not isinstance(found, np.ndarray):
            raise InputError(f"{flag} {text} cannot be read (it is an archive); expected an .npy file of numbers")
        if found.dtype.kind not in "fiu":
            raise InputError(f"{flag} {text} holds {found.dtype}; expected numbers")
        return np.asarray(found, dtype=np.float64)
    try:
        return np.asarray(float(text))
    except ValueError:
        raise InputError(f"{flag} is {text!r}; expected a number, or an .npy file") from None


def _plain(solution: Solution) -> dict[str, Any]:
    assert isinstance(solution.reason, StopReason)
    assert isinstance(solution.chosen, Choice)
    measured = {"noise": solution.noise, "mu": solution.mu, "signal_to_noise": solution.signal_to_noise}
    return {
        "value": solution.value,
        "x": np.asarray(solution.x).tolist(),
        "last": np.asarray(solution.last).tolist(),
        "queries": solution.queries,
        "interrupted": solution.interrupted,
        "steps": int(solution.trajectory.steps[0]),
        "not_finite": int(solution.trajectory.non_finite[0]),
        "reason": solution.reason.name.lower(),
        "chosen": solution.chosen.name.lower(),
        # JSON has neither NaN (nobody measured) nor infinity (no noise).
        **{
            name: value if isinstance(value, float) and math.isfinite(value) else None
            for name, value in measured.items()
        },
    }
