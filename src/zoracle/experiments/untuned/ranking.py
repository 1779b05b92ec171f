"""Ranks of methods on the same problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def mean_ranks(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean over problems of each method's rank, 1 for the lowest value; ties share the mean of their ranks.

    Args:
        values: of each method, one per problem, infinite where it failed.
    """
    table = np.array(list(values.values()), dtype=np.float64)
    lower = (table[None] < table[:, None]).sum(1)
    level = (table[None] == table[:, None]).sum(1)  # itself included
    ranks = (1 + lower + (level - 1) / 2).mean(1)
    return dict(zip(values, ranks.tolist(), strict=True))


def places(cells: Sequence[Mapping[str, float]]) -> dict[str, list[int]]:
    """The place of each method in each of its cells, 1 for the lowest number."""
    found: dict[str, list[int]] = {}
    for cell in cells:
        for name, number in cell.items():
            found.setdefault(name, []).append(1 + sum(other < number for other in cell.values()))
    return found
