"""Training that goes on from weights trained before."""

from __future__ import annotations

from torch import nn

from zoracle.checkpoint import resolve
from zoracle.errors import InputError


def start_from(name: str, kind: str, module: nn.Module) -> None:
    """Give a module the weights of a trained optimizer of its kind; parts that only the module has stay as they are.

    Args:
        name: of a shipped optimizer, or its folder.
        kind: the registry's name of what is trained.
        module: what is trained.

    Raises:
        InputError: nothing has this name, it is of another kind, or its weights do not fit.
    """
    loaded = resolve(name)
    if loaded.metadata.get("name") != kind or not isinstance(loaded.optimizer, nn.Module):
        raise InputError(f"initial = {name!r} is a {loaded.metadata.get('name')}; expected a trained {kind}")
    own, given = module.state_dict(), loaded.optimizer.state_dict()
    parts = {key.split(".")[0] for key in given}
    wrong = [key for key in own.keys() | given.keys() if key.split(".")[0] in parts and not _fits(key, own, given)]
    if wrong:
        raise InputError(
            f"initial = {name!r} does not fit: {sorted(wrong)[0]} is missing or of another shape; "
            "expected one with the settings of this training"
        )
    module.load_state_dict({**own, **given})


def _fits(key: str, own: dict[str, object], given: dict[str, object]) -> bool:
    return key in own and key in given and getattr(own[key], "shape", None) == getattr(given[key], "shape", None)
