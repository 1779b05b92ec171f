"""Optimizers as a user names them: registered names, names of shipped ones, and folders of trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoracle.errors import InputError, printable
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Loaded, Use, resolve
from zoracle.optimizers.spelling import named_optimizer, split_list
from zoracle.tasks.base import Task
from zoracle.tasks.image_attack import AttackTask


def use_of(made: Task) -> Use:
    """The use of an optimizer on a task."""
    ball = made.threat.norm if isinstance(made, AttackTask) and made.threat.ball else None
    return Use(made.name, ball, made.dim)


def named_optimizers(names_or_folders: str, use: Use) -> list[tuple[str, Optimizer[Any, Any]]]:
    """Labels and optimizers of a comma-separated list.

    Raises:
        InputError: the list is empty, or holds something unknown, or one twice.
    """
    return [(label, loaded.optimizer) for label, loaded in load_named_optimizers(names_or_folders, use)]


def load_named_optimizers(names_or_folders: str, use: Use) -> list[tuple[str, Loaded]]:
    """As :func:`named_optimizers`, with what the files say of themselves."""
    wanted = split_list(names_or_folders)
    if not wanted:
        raise InputError("--optimizers is empty; expected names or folders, separated by commas")
    found: dict[str, Loaded] = {}
    for name in wanted:
        if wanted.count(name) > 1:
            raise InputError(f"--optimizers names {name} more than once; expected each once")
        plain, settings = named_optimizer(name)
        loaded = resolve(plain, use, **settings)
        named = loaded.metadata.get("shipped") is not None or plain == loaded.metadata.get("name")
        label = loaded.metadata.get("label") or (plain if named else printable(_folder(plain)))
        if settings:
            label = f"{label}:{name.rpartition(':')[2]}"
        # Folders of one name under different parents; which is which is in the config, by the hash of the weights.
        unique, number = str(label), 2
        while unique in found:
            unique, number = f"{label}-{number}", number + 1
        found[unique] = loaded
    return list(found.items())


def _folder(name: str) -> str:
    """The last part of a folder's name, or of the folder that the weights lie in."""
    path = Path(name).resolve()
    return path.name if path.is_dir() else path.parent.name
