"""Optimizers of this package and of others, run as a stranger would: with no setting chosen for the problem."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import NamedTuple

from zoracle.errors import InputError
from zoracle.experiments.untuned.ars import ARS
from zoracle.experiments.untuned.asking import Answer, Method, Question
from zoracle.experiments.untuned.classical import NGOPT, PY_BOBYQA, scipy_method
from zoracle.experiments.untuned.house import house
from zoracle.experiments.untuned.strategies import pycma

#: The label of :func:`zoracle.minimize` as it is, the one that the others are compared with.
DEFAULT = "minimize"


class Untuned(NamedTuple):
    """One method."""

    answer: Method
    module: str = ""
    """Modules that it needs; empty if none."""
    extra: str = ""
    """The extra that installs it."""
    most: int | None = None
    """The largest dimension that it is run in; None if unlimited."""


METHODS: dict[str, Untuned] = {
    DEFAULT: Untuned(house(None)),
    "zo-lstm-universal": Untuned(house("zo-lstm-universal")),
    "snes": Untuned(house("snes")),
    "zo-lbfgs": Untuned(house("zo-lbfgs")),
    "ma-es": Untuned(house("ma-es")),
    "pycma": Untuned(pycma("full"), "cma", "baselines"),
    "pycma-sep": Untuned(pycma("diagonal"), "cma", "baselines"),
    "pycma-vkd": Untuned(pycma("vkd"), "cma", "baselines"),
    "scipy-l-bfgs-b": Untuned(scipy_method("L-BFGS-B"), "scipy", "scipy"),
    "scipy-powell": Untuned(scipy_method("Powell"), "scipy", "scipy"),
    "ngopt": Untuned(NGOPT, "nevergrad", "nevergrad"),
    "py-bobyqa": Untuned(PY_BOBYQA, "pybobyqa", "coco", most=80),  # its model is dense
    "ars": Untuned(ARS),
}


def known(names: Sequence[str]) -> dict[str, Untuned]:
    """Methods by name.

    Raises:
        InputError: a name is unknown, or there is none.
    """
    for name in names:
        if name not in METHODS:
            close = get_close_matches(name, METHODS, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InputError(f"method {name!r} is unknown; {hint}expected one of {', '.join(METHODS)}")
    if not names:
        raise InputError(f"methods is empty; expected some of {', '.join(METHODS)}")
    return {name: METHODS[name] for name in names}


def available(names: Sequence[str]) -> tuple[dict[str, Untuned], list[str]]:
    """The methods that can run here, and a sentence for each missing package.

    Raises:
        InputError: as in :func:`known`.
    """
    there, missing = {}, []
    for name, method in known(names).items():
        if method.module and find_spec(method.module) is None:
            missing.append(
                f"{name} was left out: {method.module} is not installed; install it with: "
                f"pip install 'zoracle[{method.extra}]'"
            )
        else:
            there[name] = method
    return there, missing


__all__ = ["DEFAULT", "METHODS", "Answer", "Question", "Untuned", "available", "known"]
