"""Options that say what an attack may do, and the task that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import click

from zoracle.comparison.tune import Criterion
from zoracle.errors import InputError
from zoracle.objectives.threat import NAMES, ThreatModel
from zoracle.optimizers.spelling import named_optimizer
from zoracle.tasks import Task, task
from zoracle.tasks.image_attack import AttackTask

F = TypeVar("F", bound=Callable[..., Any])


class Threat(NamedTuple):
    """What the options say an attack may do; None where one was not given."""

    threat: str = "minimise"
    eps: float | None = None
    c: float | None = None
    confidence: float | None = None
    bits: int | None = None
    reduce: str | None = None

    @property
    def ball(self) -> bool:
        """Whether perturbations stay in a ball."""
        return not self.threat.startswith("minimise")

    @property
    def criterion(self) -> Criterion:
        """What is tuned by: small losses, and in a ball, where a success ends the search, the queries until then."""
        return "queries" if self.ball else "ratio"

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, and their values."""
        default = Threat()._asdict()
        return {f"--{name}": value for name, value in self._asdict().items() if value != default[name]}

    def model(self, radii: Mapping[str, float]) -> ThreatModel:
        """The threat model.

        Args:
            radii: by norm, the radius of a ball where none was said; none where there is no usual one.

        Raises:
            InputError: options that do not go together, or no radius where one is needed.
        """
        others = {"confidence": self.confidence or 0.0, "bits": self.bits}
        if not self.ball:
            if self.eps is not None:
                raise InputError(f"--eps {self.eps:g} is the radius of a ball; expected --threat linf or l2 beside it")
            return ThreatModel.named(self.threat, c=self.c, **others)
        if self.c is not None:
            raise InputError(f"--c {self.c:g} weighs the distance, and in a ball it is free; leave it out")
        eps = radii.get(self.threat) if self.eps is None else self.eps
        if eps is None:
            raise InputError(f"--threat {self.threat} needs --eps, the radius of the ball, where images are your own")
        return ThreatModel.named(self.threat, eps, **others)


_AMOUNT = click.FloatRange(min=0)


def threat_options() -> Callable[[F], F]:
    """The options that say what an attack may do."""
    options = [
        click.option(
            "--threat",
            type=click.Choice(list(NAMES)),
            default=Threat().threat,
            show_default=True,
            help="Small perturbations (in l1, or l2), or any within a ball of that norm.",
        ),
        click.option(
            "--eps", type=click.FloatRange(min=0, min_open=True), help="Radius of the ball; by default the task's."
        ),
        click.option("--c", type=_AMOUNT, help="Weight of the distance, without a ball; by default the task's."),
        click.option("--confidence", type=_AMOUNT, help="By how much the wrong class has to lead, in nats; default 0."),
        click.option(
            "--bits",
            type=click.IntRange(1, 16),
            help="Ask about pictures of so many bits a channel only: with 8, what is broken is broken as it is saved.",
        ),
        click.option(
            "--reduce",
            metavar="MAP",
            help="Coarse perturbations only: tile:2 (cells of 2 by 2 pixels), tile:14x14 (cells), or bilinear:14 "
            "(a grid).",
        ),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def take_threat(options: dict[str, Any]) -> Threat:
    """Take the options of :func:`threat_options` out of a command's options."""
    return Threat(**{name: options.pop(name) for name in Threat._fields})


def task_for(name: str, threat: Threat) -> Task:
    """The task of a name under a threat model, in a smaller space where one is asked for.

    Args:
        name: what ``--task`` says: a name, and settings if needed, spelt like those of optimizers
            (``cifar10:network=resnet44``).
        threat: what the options say.

    Raises:
        InputError: the task is no attack on images, a setting is unknown, is an option of its own, or a radius is
            given where there is no ball.
    """
    name, settings = named_optimizer(name)
    if own := [setting for setting in settings if setting in ("norm", *Threat._fields)]:
        raise InputError(f"--task {name} was given {own[0]}; expected it by --threat, --eps or --reduce")
    plain = task(name, **settings)
    if not isinstance(plain, AttackTask):
        for option, value in threat.given.items():
            raise InputError(f"{option} {value} is for attacks on images, and task {name} is none")
        return plain
    if threat.reduce is not None:
        settings["reduce"] = threat.reduce
    return task(name, threat=threat.model(plain.radii), **settings)
