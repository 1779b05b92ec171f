"""Optimizers as the command line spells them, settings and all: ``zo-adam:lr=.02,mu=.02``."""

from __future__ import annotations

from typing import Any

from zoracle.errors import InputError


def split_list(text: str) -> list[str]:
    """The parts of a comma-separated list; one of the form NAME=VALUE belongs to the optimizer before it."""
    parts: list[str] = []
    for part in (piece.strip() for piece in text.split(",")):
        if parts and "=" in part and ":" not in part and "=" in parts[-1].rpartition(":")[2]:
            parts[-1] += f",{part}"
        elif part:
            parts.append(part)
    return parts


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
            raise InputError(f"{part.strip()!r} in {text!r} is not a setting; expected NAME=VALUE, such as lr=.02")
        if key in settings:
            raise InputError(f"{text!r} sets {key} twice; expected it once")
        settings[key] = _value(value)
    return name.strip(), settings


def _value(text: str) -> Any:
    """A setting as an integer, a number, true or false, or none; else as the text that it is."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
