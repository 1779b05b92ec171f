"""The methods by name. A new one is one file beside this and one line here."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from zoracle.errors import InputError
from zoracle.finetune.methods.adam import Adam
from zoracle.finetune.methods.base import Method
from zoracle.finetune.methods.fzoo import FZOO
from zoracle.finetune.methods.hizoo import HiZOO
from zoracle.finetune.methods.learned import Learned
from zoracle.finetune.methods.lozo import LOZO
from zoracle.finetune.methods.mezo import MeZO
from zoracle.finetune.methods.momentum import Momentum
from zoracle.finetune.methods.sparse import SparseMeZO
from zoracle.settings import convert

METHODS: dict[str, type[Method]] = {
    "mezo": MeZO,
    "mezo-momentum": Momentum,
    "mezo-adam": Adam,
    "fzoo": FZOO,
    "lozo": LOZO,
    "hizoo": HiZOO,
    "sparse-mezo": SparseMeZO,
    "learned": Learned,
}


def make(name: str, **settings: Any) -> Method:
    """A method by name.

    Args:
        name: a key of METHODS.
        settings: its settings.

    Raises:
        InputError: the name is unknown, or a setting is unknown or out of range.
    """
    if name not in METHODS:
        close = get_close_matches(name, METHODS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"method {name!r} is unknown; {hint}expected one of {', '.join(METHODS)}")
    kind = METHODS[name]
    try:
        made = convert(settings, kind.Config)
    except InputError as error:
        known = ", ".join(kind.Config.__struct_fields__)
        raise InputError(f"settings of {name}: {error}; it has {known}") from error
    return kind(made)
