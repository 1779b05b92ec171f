"""Options that say how a target is called, and the black box that they make."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

import click

from zoracle import blackboxes
from zoracle.blackboxes import BlackBox
from zoracle.blackboxes.onnx import data_files
from zoracle.errors import InputError
from zoracle.storage.files import exists
from zoracle.storage.hashing import file_hash

F = TypeVar("F", bound=Callable[..., Any])

_COUNT = click.IntRange(min=1)
_AMOUNT = click.FloatRange(min=0, min_open=True)


class _Option(NamedTuple):
    """One option, and the argument of the black box that it becomes."""

    flag: str
    argument: str
    kind: Any
    """A type of click."""
    help: str
    matters: bool
    """Whether the numbers of a run may depend on it, and not only whether and when they arrive."""


_TABLE = (
    _Option(
        "--outputs",
        "outputs",
        click.Choice(["auto", "logits", "probabilities", "log-probabilities", "labels"]),
        "What the target returns; default: inferred from its answers, or from the outputs of an ONNX file.",
        True,
    ),
    _Option("--mean", "mean", click.STRING, "Subtracted from pixels: a number, or one per channel (.5,.4,.4).", True),
    _Option("--std", "std", click.STRING, "Divides pixels afterwards: a number, or one per channel.", True),
    _Option(
        "--input-layout",
        "layout",
        click.Choice(["NCHW", "NHWC", "flat"]),
        "Layout of the target's inputs; default: NCHW.",
        True,
    ),
    _Option("--pixel-max", "pixel_max", _AMOUNT, "The target's value for white: 1, the default, or 255.", True),
    _Option("--input-name", "input", click.STRING, "Name of the input for the images.", True),
    _Option("--output-name", "output", click.STRING, "Name of the output with the scores.", True),
    _Option("--top-k", "top_k", click.STRING, "Names of two outputs, LABELS,SCORES, of a top-k target.", True),
    _Option("--num-classes", "classes", click.IntRange(min=2), "Number of classes, with --top-k.", True),
    _Option("--device", "device", click.STRING, "Device of a torch module: cpu, cuda, ...", False),
    _Option("--timeout", "timeout", _AMOUNT, "Seconds allowed for one attempt of a request.", False),
    _Option("--attempts", "attempts", _COUNT, "Maximum number of attempts of a request.", False),
    _Option("--concurrency", "concurrency", _COUNT, "Maximum number of requests in flight.", False),
    _Option("--request-images", "chunk", _COUNT, "Maximum number of images in a request.", False),
    _Option("--requests-per-second", "requests_per_second", _AMOUNT, "Rate limit.", False),
    _Option("--images-per-second", "images_per_second", _AMOUNT, "Rate limit.", False),
    _Option("--api-key-env", "api_key_env", click.STRING, "Environment variable that holds the API key.", False),
    _Option("--api-key-header", "api_key_header", click.STRING, "Header in which the API key is sent.", False),
)


class Target(NamedTuple):
    """A black box, and what tells it from others."""

    box: BlackBox
    description: str
    """Without secrets and paths."""
    file: Path | None
    """The file that it was made from, where it was."""


def target_options() -> Callable[[F], F]:
    """The option ``--target`` and those that go with it."""
    options = [
        click.option(
            "--target",
            metavar="SPEC",
            help="Your model, with --data: module:function, my_file.py:function, torch:module:factory, a file "
            "model.onnx, or the http address of a server.",
        ),
        click.option(
            "--labels-only", "target_labels_only", is_flag=True, help="Use only the target's labels (--outputs labels)."
        ),
        *(click.option(one.flag, _parameter(one), type=one.kind, help=one.help) for one in _TABLE),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def take(options: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of the target out of a command's options; those that were not given are left out.

    Raises:
        InputError: one cannot be read.
    """
    found = {one.argument: options.pop(_parameter(one)) for one in _TABLE}
    given = {name: value for name, value in found.items() if value is not None}
    if options.pop("target_labels_only") and given.setdefault("outputs", "labels") != "labels":
        raise InputError(f"--labels-only and --outputs {given['outputs']} were both given; expected one of them")
    mean, std = given.pop("mean", None), given.pop("std", None)
    if mean is not None or std is not None:
        if mean is None or std is None:
            raise InputError("only one of --mean and --std was given; expected both")
        given["preprocess"] = (_numbers("--mean", mean), _numbers("--std", std))
    if "top_k" in given:
        names = tuple(name.strip() for name in given["top_k"].split(","))
        if len(names) != 2 or not all(names):
            raise InputError(f"--top-k is {given['top_k']!r}; expected the names of two outputs, LABELS,SCORES")
        given["top_k"] = names
    return given


def flags(arguments: Mapping[str, Any]) -> list[str]:
    """What the arguments that :func:`take` found are called on the command line."""
    return [one.flag for one in _TABLE if one.argument in arguments] + ["--mean"] * ("preprocess" in arguments)


def open_target(spec: str, arguments: Mapping[str, Any], class_names: Sequence[str] | None = None) -> Target:
    """The black box that ``--target`` names.

    Args:
        spec: what the option says.
        arguments: what :func:`take` found.
        class_names: names of the classes in the model's order, where a file of them was given.

    Raises:
        InputError: there is none, or an option does not go with it.
    """
    named = {} if class_names is None or "top_k" not in arguments else {"class_names": list(class_names)}
    opened = blackboxes.open_target(spec, **arguments, **named)
    where, _, attribute = spec.rpartition(":")
    in_file = where.endswith(".py") and _is_file(Path(where))
    file = Path(where if in_file else spec)
    is_file = _is_file(file)
    kept = {one.argument for one in _TABLE if one.matters} | {"preprocess"}
    settings = json.dumps({name: value for name, value in sorted(arguments.items()) if name in kept})
    name = file.name if is_file else without_secrets(spec)
    if in_file:
        name = f"{name}:{attribute}"
    told = name if settings == "{}" else f"{name} {settings}"
    if is_file and file.suffix.lower() == ".onnx":
        told += "".join(f" {one.name} {file_hash(one)[:16]}" for one in data_files(file))
    source = file if is_file else _source(where.removeprefix("torch:"))
    return Target(opened, told, source)


def _source(module: str) -> Path | None:
    """The file of a module that was imported; what else it imports is not looked at."""
    found = getattr(sys.modules.get(module), "__file__", None)
    return None if found is None or not _is_file(Path(found)) else Path(found)


def without_secrets(spec: str) -> str:
    """An address without user, password, query and fragment, any of which may hold a key; others as they are."""
    if "://" not in spec:
        return spec
    try:
        parts = urlsplit(spec)
    except ValueError:
        return spec.partition("://")[0] + "://"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _parameter(option: _Option) -> str:
    return f"target_{option.argument}"


def _numbers(flag: str, text: str) -> float | list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{flag} is {text!r}; expected a number, or one per channel separated by commas") from None
    return found[0] if len(found) == 1 else found


def _is_file(path: Path) -> bool:
    return exists(path) and path.is_file()
