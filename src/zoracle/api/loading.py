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


def chosen_optimizer(
    optimizer: str | Path | Optimizer[Any, Any], settings: dict[str, Any], use: Use
) -> Optimizer[Any, Any]:
    """What a caller named or made, with these settings; the plain name "zo-lstm" goes by the use.

    Raises:
        InputError: it is neither a name, a folder nor an optimizer, or settings came with a made one.
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
