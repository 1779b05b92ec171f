"""Options that name a function of one's own, and the task that it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from zoracle.errors import InputError
from zoracle.tasks.given_function import GivenFunction

F = TypeVar("F", bound=Callable[..., Any])


class Function(NamedTuple):
    """What the options say of a function; None where one was not given."""

    objective: str | None = None
    dim: int | None = None
    start: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    vectorized: bool = False

    def task(self) -> GivenFunction | None:
        """The task, or None where no function is named.

        Raises:
            InputError: it cannot be used, or an option is given without it.
        """
        given = {name: value for name, value in self._asdict().items() if value is not None and value is not False}
        if self.objective is None:
            if given:
                raise InputError(f"--{next(iter(given))} was given without --objective; expected both")
            return None
        if self.dim is None:
            raise InputError("--objective was given without --dim; expected both")
        given["function"] = given.pop("objective")
        if "start" in given:
            given["x0"] = given.pop("start")
        return GivenFunction(**given)


def function_options() -> Callable[[F], F]:
    """The options of a function of one's own, which stand instead of ``--task``."""
    number = click.FLOAT
    options = [
        click.option("--objective", metavar="SPEC", help="Your own function: module:function or my_file.py:function."),
        click.option("--dim", type=click.IntRange(min=1), help="Number of coordinates of the function."),
        click.option("--start", type=number, help="Starting value of every coordinate; default: 0."),
        click.option(
            "--spread", type=number, help="Spread of starting points around it, in units of --scale; default: 0."
        ),
        click.option("--low", type=number, help="Lower bound of every coordinate."),
        click.option("--high", type=number, help="Upper bound of every coordinate."),
        click.option("--scale", type=number, help="Typical change of a coordinate; default: 1."),
        click.option("--vectorized", is_flag=True, help="The function takes a batch (N, d); default: one point (d,)."),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def take_function(options: dict[str, Any]) -> Function:
    """Take the options of :func:`function_options` out of a command's options."""
    return Function(**{name: options.pop(name) for name in Function._fields})
