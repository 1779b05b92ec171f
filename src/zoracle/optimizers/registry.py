"""The optimizers by name. A new one is one file beside this and one line here."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from zoracle.errors import InputError
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.descent.nes import NES
from zoracle.optimizers.descent.zo_adam import ZOAdam
from zoracle.optimizers.descent.zo_adamm import ZOAdaMM
from zoracle.optimizers.descent.zo_lbfgs import ZOLBFGS
from zoracle.optimizers.descent.zo_sgd import ZOSGD
from zoracle.optimizers.descent.zo_signsgd import ZOSignSGD
from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.optimizers.learned.paper import PaperLSTM
from zoracle.optimizers.learned.spectral.search import SpectralSearch
from zoracle.optimizers.learned.square_controllers import SquareControllers
from zoracle.optimizers.portfolio import Portfolio
from zoracle.optimizers.search.bandits import Bandits
from zoracle.optimizers.search.ma_es import MAES
from zoracle.optimizers.search.rays import RayS
from zoracle.optimizers.search.sign_hunter import SignHunter
from zoracle.optimizers.search.simba import SimBA
from zoracle.optimizers.search.snes import SNES
from zoracle.optimizers.search.square import SquareAttack


class Entry(NamedTuple):
    """One optimizer."""

    make: Callable[..., Optimizer[Any, Any]]
    summary: str
    learned: bool = False


REGISTRY: dict[str, Entry] = {
    "zo-sgd": Entry(ZOSGD, "gradient descent on the finite-difference estimate"),
    "zo-signsgd": Entry(ZOSignSGD, "steps of constant size along the signs of the estimate"),
    "zo-adam": Entry(ZOAdam, "Adam on the finite-difference estimate"),
    "zo-adamm": Entry(ZOAdaMM, "Adam with a non-decreasing denominator, on the finite-difference estimate"),
    "zo-lbfgs": Entry(ZOLBFGS, "quasi-Newton steps on full gradients, with differences adapted to the noise"),
    "nes": Entry(NES, "signed or normalised steps along an antithetic estimate"),
    "bandits": Entry(Bandits, "two queries per step around a prior that persists between steps (Bandits-TD)"),
    "snes": Entry(SNES, "a separable natural evolution strategy"),
    "ma-es": Entry(MAES, "an evolution strategy with limited memory (Loshchilov et al., 2019)"),
    "portfolio": Entry(Portfolio, "zo-lbfgs, ma-es and zo-lstm-universal on one budget: the default of minimize"),
    "square": Entry(SquareAttack, "random squares at the bounds of a ball (Andriushchenko et al., 2020)"),
    "simba": Entry(SimBA, "single coordinates in both directions, kept if they help (Guo et al., 2019)"),
    "simba-dct": Entry(
        partial(SimBA, basis="dct"), "single frequencies, lowest first, in both directions (Guo et al., 2019)"
    ),
    "sign-hunter": Entry(SignHunter, "flips ever smaller parts of the signs (Al-Dujaili and O'Reilly, 2020)"),
    "rays": Entry(RayS, "the nearest boundary along rays of signs, from labels only (Chen and Gu, 2020)"),
    "zo-lstm": Entry(GuidedLSTM, "learned steps, queries along learned guesses of the gradient", learned=True),
    "spectral-search": Entry(
        SpectralSearch, "learned patterns, then a learned model of the gradient's spectrum", learned=True
    ),
    "square-controllers": Entry(
        SquareControllers, "squares whose size and colour are learned (Yatsura et al., 2021)", learned=True
    ),
    "zo-lstm-paper": Entry(PaperLSTM, "the published form: UpdateRNN and QueryRNN", learned=True),
    "zo-lstm-no-query": Entry(partial(PaperLSTM, query="gaussian"), "its ablation: learned steps only", learned=True),
    "zo-lstm-no-update": Entry(partial(PaperLSTM, update="sgd"), "its ablation: learned directions only", learned=True),
    "zo-lstm-guided-es": Entry(
        partial(PaperLSTM, query="guided-es"), "its ablation: Guided-ES directions", learned=True
    ),
    "l2l": Entry(
        partial(PaperLSTM, query="gaussian", gradient="true"), "learned steps on the true gradient", learned=True
    ),
}


#: Names that were here before, and what took their place.
RETIRED = dict.fromkeys(
    (
        "zo-lstm-ball",
        *(f"zo-lstm-{norm}{task}" for norm in ("linf", "l2") for task in ("", "-digits", "-mnist")),
    ),
    'use "zo-lstm" (spectral-search) within a ball',
)


def make(name: str, **settings: Any) -> Optimizer[Any, Any]:
    """An optimizer by its registered name, untrained where it is a learned one.

    Raises:
        InputError: the name or a setting is unknown.
    """
    check_retired(name)
    if name not in REGISTRY:
        close = get_close_matches(name, REGISTRY, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"optimizer {name!r} is unknown; {hint}expected one of {', '.join(REGISTRY)}")
    return REGISTRY[name].make(**settings)


def check_retired(name: str) -> None:
    """Say where a name is that of an optimizer which is no longer part of zoracle.

    Raises:
        InputError: it is.
    """
    if name in RETIRED:
        raise InputError(f"optimizer {name!r} was removed from zoracle: {RETIRED[name]}")
