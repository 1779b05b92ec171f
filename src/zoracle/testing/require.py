"""How a check fails: with a sentence, also where Python runs without its assertions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zoracle.state import flatten


def require(truth: Any, sentence: str) -> None:
    """Raise where something is not as it has to be.

    Raises:
        AssertionError: with the sentence.
    """
    if not bool(truth):
        raise AssertionError(sentence)


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a state, with NaN as a number, so that they can be compared."""
    return [torch.nan_to_num(leaf.to(torch.float64)) for leaf in flatten(tree).values()]


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same to the last bit."""
    mine, other = leaves(a), leaves(b)
    return len(mine) == len(other) and all(torch.equal(x, y) for x, y in zip(mine, other, strict=True))


@contextmanager
def global_state_left_alone() -> Iterator[None]:
    """Require that nothing within touches torch's global generator or default type.

    Raises:
        AssertionError: something did.
    """
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    yield
    require(torch.equal(torch.get_rng_state(), before), "torch's global random state was used; key draws instead")
    require(torch.get_default_dtype() is dtype, "torch's default type was changed")
