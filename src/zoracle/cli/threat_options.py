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
        """Whether perturbations stay within a ball."""
        return not self.threat.startswith("minimise")

    @property
    def criterion(self) -> Criterion:
        """The tuning criterion: the loss, or within a ball, where a success ends the search, the queries until then."""
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
                raise InputError(f"--eps {self.eps:g} was given without a ball; expected --threat linf or l2 with it")
            return ThreatModel.named(self.threat, c=self.c, **others)
        if self.c is not None:
            raise InputError(f"--c {self.c:g} was given with a ball, which has no weight of the distance; leave it out")
        eps = radii.get(self.threat) if self.eps is None else self.eps
        if eps is None:
            raise InputError(f"--threat {self.threat} was given without --eps; pass the radius of the ball")
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
            help="Minimise the perturbation (in l1 or l2), or search within a ball of that norm.",
        ),
        click.option(
            "--eps", type=click.FloatRange(min=0, min_open=True), help="Radius of the ball; default: the task's."
        ),
        click.option("--c", type=_AMOUNT, help="Weight of the distance when minimising it; default: the task's."),
        click.option(
            "--confidence", type=_AMOUNT, help="Margin by which the wrong class must lead, in nats; default 0."
        ),
        click.option(
            "--bits",
            type=click.IntRange(1, 16),
            help="Query only images of this many bits per channel; with 8, a broken image is broken as saved.",
        ),
        click.option(
            "--reduce",
            metavar="MAP",
            help="Coarse perturbations only: tile:2 (cells of 2 by 2 pixels), tile:14x14 (14 by 14 cells), or "
            "bilinear:14 (a grid).",
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
        InputError: the task is not an attack on images, a setting is unknown, is an option of its own, or a radius is
            given where there is no ball.
    """
    name, settings = named_optimizer(name)
    if own := [setting for setting in settings if setting in ("norm", *Threat._fields)]:
        raise InputError(f"--task {name} was given the setting {own[0]}; use --threat, --eps or --reduce instead")
    plain = task(name, **settings)
    if not isinstance(plain, AttackTask):
        for option, value in threat.given.items():
            raise InputError(
                f"{option} {value} was given for task {name}, which is not an attack on images; leave it out"
            )
        return plain
    if threat.reduce is not None:
        settings["reduce"] = threat.reduce
    return task(name, threat=threat.model(plain.radii), **settings)
