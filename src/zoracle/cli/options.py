"""Options that several commands share, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import torch
from click.core import ParameterSource
from rich.console import Console

from zoracle.cli.threat_options import Threat, take_threat, threat_options
from zoracle.comparison.compare import Comparison, Ensemble, Output, compare
from zoracle.comparison.named import load_named_optimizers, use_of
from zoracle.comparison.rivals import Minimiser
from zoracle.errors import InputError
from zoracle.evaluation.pool import Pool
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import PLAIN, Loaded
from zoracle.results.tuned import read_tuned
from zoracle.tasks import Task, names
from zoracle.tasks.given_function import GivenFunction

F = TypeVar("F", bound=Callable[..., Any])


class Request(NamedTuple):
    """What a run was asked for, as the options say it: what runs, and how."""

    task: str
    spec: RunSpec
    optimizers: str | None = None
    threat: Threat = Threat()
    tune: bool = False
    settings: Path | None = None
    every: bool = False
    verify: bool = True
    workers: int = 1
    out: Path | None = None


def take_request(options: dict[str, Any]) -> Request:
    """The options of :func:`run_options` as one request.

    Raises:
        InputError: the file of ids cannot be used, or something was said twice.
    """
    if options["ids"] is not None and options["problems"] is not None:
        raise InputError("--ids and --problems were both given; expected one of them")
    ids = None if options["ids"] is None else tuple(read_ids(options["ids"]))
    threat, first = take_threat(options), options.pop("seed")
    if first:
        options["seeds"] = tuple(range(first, first + options["seeds"]))
    how = {name: options[name] for name in RunSpec.__struct_fields__ if name in options}
    what = {name: value for name, value in options.items() if name not in how}
    return Request(**what, threat=threat, spec=RunSpec(**{**how, "ids": ids}))


#: How many processes share the work.
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the work and the CPU threads; one per core is fastest.",
)


def processes(workers: int) -> int | Pool:
    """What shares the work: so many processes, or those that torchrun started.

    Raises:
        InputError: there are both.
    """
    ctx = click.get_current_context()
    if ctx.obj is None:
        return workers
    if ctx.get_parameter_source("workers") is ParameterSource.COMMANDLINE:
        raise InputError(f"--workers is {workers}, and torchrun started processes already; leave one of them out")
    pool: Pool = ctx.obj
    return pool


#: The default ensemble within a ball, by norm: the learned attack and two others. In linf balls these broke most of 60
#: validation images of CIFAR-10 among four that were tried. In l2 balls no pair of square, sign-hunter, simba and
#: simba-dct broke more than these on 12 validation images of CIFAR-10 and 24 of digits, and three quarters of the
#: budget for the learned attack broke 3 of the 12 where half broke 4.
ENSEMBLES = {"linf": (PLAIN, "square", "sign-hunter"), "l2": (PLAIN, "square", "simba")}


#: The default optimizers for a user's function.
OF_FUNCTIONS = ("portfolio", PLAIN, "zo-adam", "snes")
#: The default attack where the target returns labels only.
BY_LABELS = ("rays",)


def default_optimizers(threat: str, *, one: bool = False) -> tuple[str, ...]:
    """The optimizers that run where none are named: a learned one first, then its rivals.

    Args:
        threat: what ``--threat`` says.
        one: whether they are attacks on images, and not rivals to compare: a ball's ensemble, else the learned one.
    """
    if one:
        return ENSEMBLES.get(threat, (PLAIN,))
    if threat.startswith("minimise"):
        return (PLAIN, "zo-sgd", "zo-signsgd", "zo-adam")
    return (PLAIN, "square", "sign-hunter", "simba", "simba-dct", "nes", "bandits", "zo-signsgd", "zo-adamm", "snes")


def run_options(
    default_seeds: int, *, one: bool = False, out_required: bool = False, check_start: bool = False
) -> Callable[[F], F]:
    """The options of commands that run optimizers on a task; whether starts are checked is each one's own default."""
    options = [
        click.option(
            "--task",
            default="digits",
            show_default=True,
            metavar="NAME",
            help=f"One of {', '.join(names())}, optionally with settings (cifar10:network=resnet44).",
        ),
        threat_options(),
        click.option(
            "--split",
            type=click.Choice(["valid", "test"]),
            default="test",
            show_default=True,
            help="Split of the task.",
        ),
        click.option("--ids", type=click.Path(path_type=Path), help="File of problem ids to use, one per line."),
        click.option("--problems", type=click.IntRange(min=1), help="Number of problems; default: the task's."),
        click.option(
            "--optimizers",
            help="Names or training folders, separated by commas, optionally with settings (zo-adam:lr=.02,mu=.02); "
            "see `zoracle optimizers`. Default: "
            f"{','.join(default_optimizers('minimise', one=one))}; within a ball "
            f"{','.join(default_optimizers('linf', one=one))}.",
        ),
        click.option(
            "--seeds", type=click.IntRange(min=1), default=default_seeds, show_default=True, help="Number of seeds."
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0, max=2**62),
            default=0,
            show_default=True,
            help="First seed; determines starting points and directions.",
        ),
        click.option("--steps", type=click.IntRange(min=1), help="Number of steps; default: from the budget or task."),
        click.option("--num-directions", type=click.IntRange(min=1), help="q, query directions per step."),
        click.option("--budget", type=click.IntRange(min=1), help="Maximum number of queries per problem."),
        click.option(
            "--stop-on-success/--no-stop-on-success",
            default=None,
            help="Stop a problem at its first success; default within a ball.",
        ),
        click.option(
            "--check-start/--no-check-start",
            default=check_start,
            show_default=True,
            help="First check which images are already misclassified, one query each.",
        ),
        click.option(
            "--batch",
            type=click.IntRange(min=1),
            help="Problems run at once; affects memory and speed only.",
        ),
        workers_option,
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float64"]),
            default="float32",
            show_default=True,
            help="Type of the points.",
        ),
        click.option("--tune", is_flag=True, help="First tune step sizes on validation problems."),
        click.option(
            "--settings",
            type=click.Path(path_type=Path),
            help="File of tuned settings, written by `zoracle tune` or --tune.",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            required=out_required,
            help="Run folder; use the same folder to resume.",
        ),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def read_ids(path: Path) -> list[int]:
    """Problem ids from a file, one per line.

    Raises:
        InputError: the file cannot be read, or a line is not an integer.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"--ids {path} cannot be read: {error.strerror}; expected a file of ids") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--ids {path} is not text; expected one integer per line") from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        try:
            found.append(int(text))
            torch.tensor(found[-1], dtype=torch.int64)  # what ids are kept in
        except (ValueError, RuntimeError, OverflowError):
            raise InputError(
                f"--ids {path}, line {number}: {text[:40]!r} is not an id; expected one integer per line"
            ) from None
    if not found:
        raise InputError(f"--ids {path} contains no ids; expected one integer per line")
    return found


def run_comparison(
    request: Request,
    made: Task,
    *,
    title: str | None = None,
    attack: bool = False,
    command: Any = None,
    rivals: Mapping[str, Minimiser] | None = None,
    others: Sequence[tuple[str, Optimizer[Any, Any]]] = (),
) -> Comparison:
    """Run what the options ask for.

    Args:
        request: the options.
        made: the task that they name.
        title: heading of the table and the report.
        attack: whether it is an attack on images, which leaves adversarial examples.
        command: JSON values, what is to be kept of the options.
        rivals: minimisers of other libraries, by label.
        others: further optimizers.

    Raises:
        InputError: something that they name cannot be used; nothing was queried.
    """
    spec = request.spec
    if spec.problems is not None and spec.problems > (available := len(made.ids(spec.split))):
        raise InputError(f"--problems is {spec.problems}; the {spec.split} split of {made.name} has {available}")
    blind = getattr(made, "outputs", None) == "labels"
    default = (
        BY_LABELS
        if blind
        else OF_FUNCTIONS
        if isinstance(made, GivenFunction)
        else default_optimizers(request.threat.threat, one=attack)
    )
    names = request.optimizers or ",".join(default)
    loaded = load_named_optimizers(names, use_of(made))
    if isinstance(made, GivenFunction) and spec.steps is None:  # as `zoracle minimize` has them
        budget = spec.budget or made.defaults.steps * (made.defaults.num_directions + 1)
        loaded = [(label, one._replace(optimizer=one.optimizer.planned(made.dim, budget))) for label, one in loaded]
    together = attack and request.optimizers is None and len(loaded) > 1
    return compare(
        made,
        [*((label, one.optimizer) for label, one in loaded), *others],
        spec,
        tuning="fresh" if request.tune else "stored",
        settings=() if request.settings is None else read_tuned(request.settings),
        rivals=rivals,
        ensemble=Ensemble(every=request.every) if together else None,
        workers=processes(request.workers),
        out=Output(request.out, title, attack, weights_of(loaded), request.verify, command),
        console=Console(),
    )


def weights_of(loaded: Sequence[tuple[str, Loaded]]) -> dict[str, str]:
    """What the weights of some labels are called, where the label is another name."""
    shipped = {label: one.metadata.get("shipped") for label, one in loaded}
    return {label: name for label, name in shipped.items() if name is not None and label.partition(":")[0] != name}
