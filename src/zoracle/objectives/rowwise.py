"""Arithmetic whose result for a point does not depend on the points beside it, down to the last bit.

A matrix product rounds a row differently when it is computed with others. These objectives are cheap, so they do
without products: then a problem alone gives exactly what it gives in any batch, however the batch is cut into calls.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Numbers in the largest intermediate of one call: 16 MiB in float32.
_NUMBERS = 2**22


def matvec(matrix: Tensor, points: Tensor) -> Tensor:
    """The product of a matrix (n, d) with each of N points (N, d), (N, n)."""
    width = max(1, _NUMBERS // max(1, matrix.numel()))
    return torch.cat([(matrix * part.unsqueeze(1)).sum(2) for part in torch.split(points, width)])


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), element by element.

    torch's own sigmoid rounds the elements at the end of a tensor, those that fill no vector register, differently;
    its tanh rounds all alike.
    """
    return 0.5 * (1 + (0.5 * x).tanh())


def groups(problem: Tensor, step: Tensor | None) -> Iterator[tuple[slice, int, int | None]]:
    """Runs of rows that share problem and step: the rows, the problem, the step.

    Args:
        problem: (N,) int64.
        step: (N,) int64 or None.
    """
    keys = problem.unsqueeze(1) if step is None else torch.stack((problem, step.to(problem)), dim=1)
    runs, counts = torch.unique_consecutive(keys, dim=0, return_counts=True)
    start = 0
    for run, count in zip(runs.tolist(), counts.tolist(), strict=True):
        yield slice(start, start + count), run[0], None if step is None else run[1]
        start += count
