"""Optimizers by name, by folder, or as objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoracle.errors import InputError
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Use, resolve


def load(name: str | Path = "zo-lstm", **settings: Any) -> Optimizer[Any, Any]:
    """Load an optimizer by name, or a learned one from its folder.

    Args:
        name: a name listed by ``zoracle optimizers``, or a folder written by ``zoracle train``.
        settings: settings that override the optimizer's own (``num_directions=50``).

    Raises:
        InputError: the name or a setting is unknown.
        CheckpointError: the folder's weights cannot be used.
    """
    return resolve(str(name), **settings).optimizer


def chosen_optimizer(
    optimizer: str | Path | Optimizer[Any, Any], settings: dict[str, Any], use: Use
) -> Optimizer[Any, Any]:
    """An optimizer from a name, a folder or an object, with these settings; what "zo-lstm" means depends on the use.

    Raises:
        InputError: it is neither a name, a folder nor an optimizer, or settings were given with an object.
    """
    if isinstance(optimizer, Optimizer):
        if settings:
            raise InputError(
                f"settings {', '.join(settings)} were given with an optimizer object; expected them with a name only"
            )
        return optimizer
    if not isinstance(optimizer, str | Path):
        raise InputError(f"optimizer is a {type(optimizer).__name__}; expected a name, a folder, or an optimizer")
    return resolve(str(optimizer), use, **settings).optimizer
