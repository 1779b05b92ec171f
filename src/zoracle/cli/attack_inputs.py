"""What is attacked: a task that comes with zoracle, or a target and images of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import torch

from zoracle.blackboxes.v2_protocol import clip
from zoracle.cli.options import Request
from zoracle.cli.target_options import flags, open_target, take, target_options
from zoracle.cli.threat_options import Threat, task_for
from zoracle.errors import InputError
from zoracle.images import LabelledImages, read_labelled
from zoracle.images.classes import Numbering
from zoracle.objectives.threat import ThreatModel
from zoracle.storage.files import exists
from zoracle.tasks import Task, names
from zoracle.tasks.given import GivenImages, ImageSet
from zoracle.tasks.image_attack import ImageData
from zoracle.tasks.source import built_in

F = TypeVar("F", bound=Callable[..., Any])

_LARGEST_SIDE = 10_000


class Inputs(NamedTuple):
    """What the options say of a target and of data."""

    target: str | None
    data: str | None
    labels: Path | None
    classes: Path | None
    images_key: str | None
    labels_key: str | None
    targets_key: str | None
    data_layout: str | None
    resize: str | None
    channels: str | None
    targets: str | None
    arguments: dict[str, Any]
    """Of the target."""


def input_options() -> Callable[[F], F]:
    """The options of a target and of data, which stand instead of ``--task``."""
    path = click.Path(path_type=Path)
    options = [
        click.option(
            "--data",
            metavar="SPEC",
            help="Images to attack, with --target: a folder, an .npz file, or digits, mnist, cifar10, imagenet.",
        ),
        click.option("--labels", type=path, help="CSV for a folder: file,label[,target]; default: its labels.csv."),
        click.option("--classes", type=path, help="File of class names in the target's order, one per line."),
        click.option("--images-key", help="Array of images in the .npz file; default: images."),
        click.option("--labels-key", help="Array of labels; default: labels."),
        click.option("--targets-key", help="Array of target classes; default: targets, if present."),
        click.option(
            "--data-layout", type=click.Choice(["NCHW", "NHWC"]), help="Layout of the images; default: from the shape."
        ),
        click.option("--resize", metavar="HxW", help="Resize the pictures of a folder; otherwise sizes must agree."),
        click.option(
            "--channels", type=click.Choice(["1", "3"]), help="Convert the pictures of a folder to grey or RGB."
        ),
        click.option(
            "--targets",
            metavar="column|none|CLASS",
            help="Target classes: those of the data (default if present), none, or one class for all images.",
        ),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        added: F = target_options()(command)
        return added

    return add


def take_inputs(options: dict[str, Any]) -> Inputs:
    """Take the options of a target and of data out of a command's options."""
    arguments = take(options)
    return Inputs(**{name: options.pop(name) for name in Inputs._fields[:-1]}, arguments=arguments)


def attacked(request: Request, inputs: Inputs) -> Task:
    """The task of ``--task``, or the one that ``--target`` and ``--data`` make.

    Raises:
        InputError: options that do not go together, or data or a target that cannot be used.
    """
    if inputs.target is None and inputs.data is None:
        _refuse_options(inputs)
        return task_for(request.task, request.threat)
    data, target = _both(inputs)
    source = click.get_current_context().get_parameter_source("task")
    if source is not None and source is not click.core.ParameterSource.DEFAULT:
        raise InputError(f"--task {request.task} was given with --target and --data; expected one or the other")
    server = target.lower().startswith(("http://", "https://"))
    if server and inputs.arguments.get("outputs") == "labels":
        raise InputError("--labels-only needs a function, a torch module or an ONNX file, but --target is a server")
    if server:
        _one_process(request.workers)
    made = _given(request.threat, inputs, data)
    if request.tune:
        try:
            made.ids("valid")
        except InputError:
            raise InputError(
                f"--tune needs validation images, and --data {inputs.data} has none; tune on other images with "
                "`zoracle tune --target ... --data ... --out tuned.json`, then pass --settings tuned.json"
            ) from None
    return made


class NamedImages(GivenImages):
    """Images and a target as the options name them, so that a worker can make them again from these names.

    Args:
        inputs: what the options say, :class:`Inputs` as JSON values.
        threat: what perturbations are allowed.
        reduce: search among coarse perturbations only.
        split: what images that come without splits are for, "test" or "valid".

    Attributes:
        notes: what whoever asked should know of how images were read.

    Raises:
        InputError: data or a target that cannot be used.
    """

    def __init__(
        self, *, inputs: Mapping[str, Any], threat: ThreatModel, reduce: str | None = None, split: str = "test"
    ) -> None:
        asked = Inputs(**{**inputs, **{name: inputs[name] and Path(inputs[name]) for name in ("labels", "classes")}})
        assert asked.data is not None
        assert asked.target is not None
        source = _built_in(asked.data, asked) if asked.data in names() else _own(asked, asked.data)
        kept = _targeted(source, asked.targets)
        if asked.data not in names():
            kept = kept._replace(splits={split: kept.data.ids})
        self.split = split
        left_out = len(source.data.labels) - len(kept.data.labels)
        more = (f"skipped {left_out} images that are already of class {asked.targets}",) if left_out else ()
        target = open_target(asked.target, asked.arguments, source.class_names or None)
        super().__init__(
            target.box,
            kept,
            name=asked.data if asked.data in names() else "images",
            target=target.description,
            target_file=target.file,
            threat=threat,
            reduce=reduce,
        )
        self.inputs = dict(inputs)
        self.notes = (*source.notes, *more)


def _given(threat: Threat, inputs: Inputs, data: str, split: str = "test") -> NamedImages:
    radii = _built_in(data, inputs).radii if data in names() else {}
    plain = inputs._asdict() | {
        name: path and str(path) for name, path in (("labels", inputs.labels), ("classes", inputs.classes))
    }
    made = NamedImages(inputs=plain, threat=threat.model(radii), reduce=threat.reduce, split=split)
    for note in made.notes:
        click.echo(clip(note, 2000))  # it may hold names of classes
    return made


def for_validation(threat: Threat, inputs: Inputs, workers: int) -> NamedImages:
    """Images and a target of the user's own to tune on: all of them, as the split "valid".

    Raises:
        InputError: they cannot be used, or a server would be asked by several workers.
    """
    data, target = _both(inputs)
    if target.lower().startswith(("http://", "https://")):
        _one_process(workers)
    return _given(threat, inputs, data, "valid")


def _one_process(workers: int) -> None:
    """Raise where several processes would ask one server."""
    if workers > 1:
        raise InputError(f"--workers is {workers}; expected 1 for a server, use --concurrency instead")
    if click.get_current_context().obj is not None:
        raise InputError("torchrun started several processes; expected one for a server, use --concurrency instead")


def _both(inputs: Inputs) -> tuple[str, str]:
    """Data and target, of which neither goes without the other."""
    if inputs.target is None or inputs.data is None:
        given, missing = ("--data", "--target") if inputs.target is None else ("--target", "--data")
        raise InputError(f"{given} was given without {missing}; expected both, or --task")
    return inputs.data, inputs.target


def _built_in(name: str, inputs: Inputs) -> ImageSet:
    for option in ("labels", "classes", "images_key", "labels_key", "targets_key", "data_layout", "resize", "channels"):
        if getattr(inputs, option) is not None:
            raise InputError(
                f"--{option.replace('_', '-')} was given with --data {name}; expected it with your own images only"
            )
    return built_in(name)


def _own(inputs: Inputs, data: str) -> ImageSet:
    read = _read(inputs, data)
    ids = range(len(read.labels))
    white = 255 if read.images.dtype == torch.uint8 else 1
    return ImageSet(
        ImageData(read.images, read.labels, ids, read.targets), {"test": ids}, white, read.class_names, notes=read.notes
    )


def _read(inputs: Inputs, data: str) -> LabelledImages:
    path = Path(data)
    if not data or not exists(path):
        raise InputError(
            f"--data {data!r} does not exist; expected a folder, an .npz file, or digits, mnist, cifar10, imagenet"
        )
    return read_labelled(
        path,
        labels=inputs.labels,
        classes=inputs.classes,
        images_key=inputs.images_key,
        labels_key=inputs.labels_key,
        targets_key=inputs.targets_key,
        layout=inputs.data_layout,  # type: ignore[arg-type]  # click checked it
        size=None if inputs.resize is None else _size(inputs.resize),
        channels=None if inputs.channels is None else int(inputs.channels),  # type: ignore[arg-type]  # likewise
    )


def _targeted(source: ImageSet, asked: str | None) -> ImageSet:
    """The images with the classes to reach; those that cannot be asked to are left out."""
    given = source.data
    if asked is None:
        return source
    if asked == "none":
        return source._replace(data=given._replace(targets=None))
    if asked == "column":
        if given.targets is None:
            raise InputError("--targets is column, but the data have no target classes; add them, or name a class")
        return source
    number = Numbering(source.class_names).number(asked, "--targets")
    kept = (given.labels != number).nonzero().flatten()
    if not len(kept):
        raise InputError(f"--targets is {asked}, the class of every image; expected another class")
    ids = tuple(given.ids[row] for row in kept)
    labels = given.labels[kept]
    there = set(ids)
    return source._replace(
        data=ImageData(given.images[kept], labels, ids, torch.full_like(labels, number)),
        splits={split: tuple(i for i in some if i in there) for split, some in source.splits.items()},
    )


def _refuse_options(inputs: Inputs) -> None:
    """Raise where an option goes with a target or data, and there are none."""
    own = [f"--{name.replace('_', '-')}" for name in Inputs._fields[2:-1] if getattr(inputs, name) is not None]
    for flag in (*own, *flags(inputs.arguments)):
        raise InputError(f"{flag} was given without --target and --data; expected all of them")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    # Not more than pictures have: a slip would ask for all memory that there is.
    if all(side.isascii() and side.isdigit() and 0 < int(side[:9]) <= _LARGEST_SIDE for side in (height, width)):
        return int(height), int(width)
    raise InputError(f"--resize is {text!r}; expected HxW such as 32x32, at most {_LARGEST_SIDE} each")
