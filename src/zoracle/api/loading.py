"""Optimizers by name, by folder, or as objects."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from zoracle.errors import InputError, UnknownSettingError
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.pretrained import Use, resolve

#: Names that other packages and the command line have for arguments of ours.
_ELSEWHERE = {
    "threat": "norm", "epsilon": "eps", "epsilons": "eps", "query_limit": "budget", "max_queries": "budget",
    "max_evals": "budget", "maxfev": "budget", "maxfun": "budget", "maxfevals": "budget", "n_trials": "budget",
    "maxiter": "steps", "max_iter": "steps", "random_state": "seed", "sigma0": "scale", "ftarget": "target",
    "method": "optimizer",
}  # fmt: skip


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
    optimizer: str | Path | Optimizer[Any, Any],
    settings: dict[str, Any],
    use: Use,
    caller: Callable[..., Any] | None = None,
) -> Optimizer[Any, Any]:
    """An optimizer from a name, a folder or an object, with these settings; what "zo-lstm" means depends on the use.

    Args:
        optimizer: which.
        settings: settings by name.
        use: what it is for.
        caller: the function whose remaining keywords the settings are. An unknown one that resembles an argument of
            it was probably meant as that.

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
    try:
        return resolve(str(optimizer), use, **settings).optimizer
    except UnknownSettingError as error:
        if caller is None or (meant := _argument(error.setting, caller)) is None:
            raise
        raise InputError(f"{caller.__name__} has no argument {error.setting!r}; did you mean {meant}?") from error


def _argument(name: str, caller: Callable[..., Any]) -> str | None:
    """The argument of a function that a name resembles, if any."""
    arguments = signature(caller).parameters
    if (elsewhere := _ELSEWHERE.get(name)) in arguments:
        return elsewhere
    return next(iter(get_close_matches(name, arguments, 1, cutoff=0.75)), None)
