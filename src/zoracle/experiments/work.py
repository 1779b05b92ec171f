"""How much an experiment has to do."""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """What a form of an experiment has to do, about: the search for step sizes ends when it ends."""

    queries: float
    """Points evaluated."""
    training: float = 0
    """Steps of one problem in meta-training."""
