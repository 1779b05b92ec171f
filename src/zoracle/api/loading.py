"""Optimizers by name, by folder, or as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoracle.errors import InputError
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Use, resolve


def load(name: str | Path = "zo-lstm", **settings: Any) -> Optimizer[Any, Any]:
    """A ready optimizer by name, or a learned one from its folder.

    Args:
        name: what ``zoracle optimizers`` lists, or a folder that ``zoracle train`` wrote.
        settings: settings changed on top of the optimizer's own (``num_directions=50``).

    Raises:
        InputError: nothing has this name, or a setting is unknown.
        CheckpointError: the folder's weights cannot be used.
    """
    return resolve(str(name), **settings).optimizer


def named_optimizer(text: str) -> tuple[str, dict[str, Any]]:
    """A name and the settings behind it: ``zo-adam:lr=.02,mu=.02``.

    Raises:
        InputError: a setting has another form than NAME=VALUE.
    """
    name, colon, rest = text.rpartition(":")
    if not colon or "=" not in rest:
        return text.strip(), {}
    settings: dict[str, Any] = {}
    for part in rest.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and key.isidentifier() and value):
            raise InputError(f"{part.strip()!r} in {text!r} is no setting; expected NAME=VALUE, lr=.02 say")
        if key in settings:
            raise InputError(f"{text!r} gives {key} twice; expected it once")
        settings[key] = _value(value)
    return name.strip(), settings


def _value(text: str) -> Any:
    """A setting as a whole number, a number, true or false, or none; else as the text that it is."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def chosen_optimizer(
    optimizer: str | Path | Optimizer[Any, Any], settings: dict[str, Any], use: Use
) -> Optimizer[Any, Any]:
    """What a caller named or made, with these settings; the plain name "zo-lstm" goes by the use.

    Raises:
        InputError: it is neither a name, a folder nor an optimizer, or settings came with a made one.
    """
    if isinstance(optimizer, Optimizer):
        if settings:
            raise InputError(f"settings {', '.join(settings)} go with an optimizer's name; this is a made optimizer")
        return optimizer
    if not isinstance(optimizer, str | Path):
        raise InputError(f"optimizer is a {type(optimizer).__name__}; expected a name, a folder, or an optimizer")
    return resolve(str(optimizer), use, **settings).optimizer
