"""Training that continues from weights trained before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoracle.errors import InputError
from zoracle.optimizers.pretrained import resolve


def start_from(name: str, kind: str, module: nn.Module) -> None:
    """Load the weights of a trained optimizer of the same kind.

    Parts that only the module has are unchanged; those that it lacks, as a training without ``spectral`` lacks the
    spectrum, are left out. Inputs that only the module has, the last columns of its weights, are zero at first.

    Args:
        name: of a shipped optimizer, or its folder.
        kind: registered name of the optimizer to train.
        module: the module to train.

    Raises:
        InputError: the name is unknown, the optimizer is of another kind, or its weights do not fit.
    """
    loaded = resolve(name)
    if loaded.metadata.get("name") != kind or not isinstance(loaded.optimizer, nn.Module):
        raise InputError(f"initial = {name!r} is a {loaded.metadata.get('name')}; expected a trained {kind}")
    own, given = module.state_dict(), loaded.optimizer.state_dict()
    has = {key.split(".")[0] for key in own}
    given = {key: weight for key, weight in given.items() if key.split(".")[0] in has}
    parts = {key.split(".")[0] for key in given}
    wrong = [key for key in own.keys() | given.keys() if key.split(".")[0] in parts and not _fits(key, own, given)]
    if wrong:
        raise InputError(
            f"initial = {name!r} does not fit: {sorted(wrong)[0]} is missing or of another shape; "
            "expected one with the settings of this training"
        )
    widened = {}
    for key, weight in given.items():
        widened[key] = torch.zeros_like(own[key])
        widened[key][..., : weight.shape[-1]] = weight
    module.load_state_dict({**own, **widened})


def _fits(key: str, own: dict[str, Tensor], given: dict[str, Tensor]) -> bool:
    if key not in own or key not in given:
        return False
    (*rows, inputs), (*given_rows, given_inputs) = own[key].shape, given[key].shape
    return rows == given_rows and given_inputs <= inputs
