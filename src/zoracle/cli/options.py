"""Options that several commands share, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import torch
from rich.console import Console

from zoracle.comparison.compare import Comparison, Ensemble, Output, compare
from zoracle.comparison.named import load_named_optimizers, use_of
from zoracle.comparison.tune import Criterion
from zoracle.errors import InputError
from zoracle.evaluation.spec import RunSpec
from zoracle.objectives.threat import NAMES, ThreatModel
from zoracle.optimizers.pretrained import PLAIN, Loaded
from zoracle.optimizers.spelling import named_optimizer
from zoracle.tasks import Task, names, task
from zoracle.tasks.image_attack import AttackTask

F = TypeVar("F", bound=Callable[..., Any])


class Request(NamedTuple):
    """What a run was asked for, as the options say it: what runs, and how."""

    task: str
    spec: RunSpec
    optimizers: str | None = None
    threat: str = "minimise"
    eps: float | None = None
    reduce: str | None = None
    tune: bool = False
    every: bool = False
    workers: int = 1
    out: Path | None = None


def take_request(options: Mapping[str, Any]) -> Request:
    """The options of :func:`run_options` as one request.

    Raises:
        InputError: the file of ids cannot be used, or something was said twice.
    """
    if options["ids"] is not None and options["problems"] is not None:
        raise InputError("--ids and --problems were both given; expected one of them")
    ids = None if options["ids"] is None else tuple(read_ids(options["ids"]))
    how = {name: options[name] for name in RunSpec.__struct_fields__ if name in options}
    what = {name: value for name, value in options.items() if name not in how}
    return Request(**what, spec=RunSpec(**{**how, "ids": ids}))


def threat_option() -> Callable[[F], F]:
    """The option that says what an attack may do."""
    return click.option(
        "--threat",
        type=click.Choice(list(NAMES)),
        default="minimise",
        show_default=True,
        help="Small perturbations (in l1, or l2), or any within a ball of that norm.",
    )


def eps_option() -> Callable[[F], F]:
    """The option that says how large the ball is."""
    return click.option(
        "--eps", type=click.FloatRange(min=0, min_open=True), help="Radius of the ball; by default the task's."
    )


def reduce_option() -> Callable[[F], F]:
    """The option that makes the search space smaller."""
    return click.option(
        "--reduce",
        metavar="MAP",
        help="Coarse perturbations only: tile:2 (cells of 2 by 2 pixels), tile:14x14 (cells), or bilinear:14 (a grid).",
    )


def task_for(name: str, threat: str, eps: float | None, reduce: str | None = None) -> Task:
    """The task of a name under a threat model, in a smaller space where one is asked for.

    Args:
        name: what ``--task`` says: a name, and settings if needed, spelt like those of optimizers
            (``cifar10:network=resnet44``).
        threat: what ``--threat`` says.
        eps: what ``--eps`` says.
        reduce: what ``--reduce`` says.

    Raises:
        InputError: the task is no attack on images, a setting is unknown, is an option of its own, or a radius is
            given where there is no ball.
    """
    name, settings = named_optimizer(name)
    if own := [setting for setting in settings if setting in ("threat", "norm", "eps", "reduce")]:
        raise InputError(f"--task {name} was given {own[0]}; expected it by --threat, --eps or --reduce")
    plain = task(name, **settings)
    asked = {"--threat": None if threat == "minimise" else threat, "--reduce": reduce, "--eps": eps}
    if not isinstance(plain, AttackTask):
        for option, value in asked.items():
            if value is not None:
                raise InputError(f"{option} {value} is for attacks on images, and task {name} is none")
        return plain
    if reduce is not None:
        settings["reduce"] = reduce
    return task(name, threat=threat_model(threat, eps, plain.radii), **settings)


def threat_model(name: str, eps: float | None, radii: Mapping[str, float]) -> ThreatModel:
    """The threat model that the options name.

    Args:
        name: what ``--threat`` says.
        eps: what ``--eps`` says.
        radii: by norm, the radius of a ball where none was said; none where there is no usual one.

    Raises:
        InputError: a radius is given where there is no ball, or none where there is one.
    """
    if name.startswith("minimise"):
        if eps is not None:
            raise InputError(f"--eps {eps:g} is the radius of a ball; expected --threat linf or l2 beside it")
        return ThreatModel.named(name)
    eps = radii.get(name) if eps is None else eps
    if eps is None:
        raise InputError(f"--threat {name} needs --eps, the radius of the ball, where images are your own")
    return ThreatModel.named(name, eps)


#: How many processes share the work.
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the work, and the threads; one a core is fastest.",
)


def criterion_for(threat: str) -> Criterion:
    """What is tuned by: small losses, and within a ball, where a success ends the search, the queries until then."""
    return "ratio" if threat.startswith("minimise") else "queries"


#: The attacks that are made in a ball where none are named, by the ball's norm: the learned one, and of the others the
#: best two on the validation images of CIFAR-10.
ENSEMBLES = {"linf": (PLAIN, "square", "sign-hunter"), "l2": (PLAIN, "square", "simba")}


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
            help=f"One of {', '.join(names())}; with settings if needed (cifar10:network=resnet44).",
        ),
        threat_option(),
        eps_option(),
        reduce_option(),
        click.option(
            "--split", type=click.Choice(["valid", "test"]), default="test", show_default=True, help="Which problems."
        ),
        click.option("--ids", type=click.Path(path_type=Path), help="A file of problem ids, one a line, instead."),
        click.option("--problems", type=click.IntRange(min=1), help="How many of the split; by default the task's."),
        click.option(
            "--optimizers",
            help="Names or checkpoint folders, separated by commas, with settings if needed (zo-adam:lr=.02,mu=.02); "
            "see `zoracle optimizers`. By default "
            f"{','.join(default_optimizers('minimise', one=one))}; in a ball "
            f"{','.join(default_optimizers('linf', one=one))}.",
        ),
        click.option("--seeds", type=click.IntRange(min=1), default=default_seeds, show_default=True, help="Repeats."),
        click.option("--steps", type=click.IntRange(min=1), help="Steps; by default the task's, or the budget's."),
        click.option("--num-directions", type=click.IntRange(min=1), help="q, query directions a step."),
        click.option("--budget", type=click.IntRange(min=1), help="Queries that each problem may cost at most."),
        click.option(
            "--stop-on-success/--no-stop-on-success",
            default=None,
            help="Leave a problem at its first success; by default in a ball.",
        ),
        click.option(
            "--check-start/--no-check-start",
            default=check_start,
            show_default=True,
            help="Look for images that are wrong already, for one query each.",
        ),
        click.option(
            "--batch",
            type=click.IntRange(min=1),
            help="Problems at once, the next begins when one is done; memory and speed only.",
        ),
        workers_option,
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float64"]),
            default="float32",
            show_default=True,
            help="Of the points.",
        ),
        click.option("--tune", is_flag=True, help="Tune step sizes on validation problems first."),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            required=out_required,
            help="The run folder; the same one resumes the run.",
        ),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def read_ids(path: Path) -> list[int]:
    """Problem ids from a file, one a line.

    Raises:
        InputError: the file cannot be read, or a line is no whole number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"--ids {path} cannot be read: {error.strerror}; expected a file of ids") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--ids {path} is no text; expected one whole number a line") from error
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
                f"--ids {path}, line {number}: {text[:40]!r} is no id; expected one whole number a line"
            ) from None
    if not found:
        raise InputError(f"--ids {path} holds no ids; expected one whole number a line")
    return found


def run_comparison(
    request: Request, made: Task, *, title: str | None = None, attack: bool = False, command: Any = None
) -> Comparison:
    """Run what the options ask for.

    Args:
        request: the options.
        made: the task that they name.
        title: heading of the table and the report.
        attack: whether it is an attack on images, which leaves adversarial examples.
        command: JSON values, what is to be kept of the options.

    Raises:
        InputError: something that they name cannot be used; nothing was queried.
    """
    spec = request.spec
    if spec.problems is not None and spec.problems > (available := len(made.ids(spec.split))):
        raise InputError(f"--problems is {spec.problems}; the {spec.split} split of {made.name} has {available}")
    names = request.optimizers or ",".join(default_optimizers(request.threat, one=attack))
    loaded = load_named_optimizers(names, use_of(made))
    together = attack and request.optimizers is None and len(loaded) > 1
    return compare(
        made,
        [(label, one.optimizer) for label, one in loaded],
        spec,
        tuning="fresh" if request.tune else "stored",
        ensemble=Ensemble(every=request.every) if together else None,
        workers=request.workers,
        out=Output(request.out, title, attack, weights_of(loaded), command),
        console=Console(),
    )


def weights_of(loaded: Sequence[tuple[str, Loaded]]) -> dict[str, str]:
    """What the weights of some labels are called, where the label is another name."""
    shipped = {label: one.metadata.get("shipped") for label, one in loaded}
    return {label: name for label, name in shipped.items() if name is not None and label.partition(":")[0] != name}
