"""Preparing a step takes the memory of blocks, and directions take none after they are reserved."""

from __future__ import annotations

import math

import pytest
import torch

from zoracle.finetune.methods.sparse import smallest
from zoracle.finetune.noise import INTEGERS
from zoracle.finetune.signs import Stretches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 1000, 300_000])
def test_the_kth_smallest_by_counting_is_that_of_sorting(dtype, n):
    x = torch.randn(2 * n, generator=torch.Generator().manual_seed(n)).to(dtype)
    if n > 2:
        x[: n // 2], x[n] = 0.0, math.inf  # ties, and a number without a neighbour
    for k in {1, (n + 1) // 2, n}:
        assert torch.equal(smallest(x[::2], k), x[::2].abs().float().kthvalue(k).values)


def test_words_of_directions_are_made_in_the_same_memory():
    """New memory between forward passes would fragment the heap."""
    kind, made = INTEGERS[torch.float32], []
    store = Stretches(1000, torch.device("cpu"))
    for name in range(60):
        signs = torch.full((1000,), name, dtype=kind.dtype)
        found = store.of((name,), lambda signs=signs: (signs, None), kind)
        assert torch.equal(found[1], signs << 1 | kind.alternate)
        made.append(found.data_ptr())
    assert len(set(made)) == len(set(made[:30])) < 30


def test_words_longer_than_what_was_reserved_find_room():
    kind, store = INTEGERS[torch.float64], Stretches(10, torch.device("cpu"))
    signs = torch.arange(50)
    assert torch.equal(
        store.of((0,), lambda: (signs, ~signs), kind)[1], (signs << 1 & ~kind.alternate) | (~signs & kind.alternate)
    )
