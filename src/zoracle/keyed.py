"""Randomness keyed by (seed, problem, step): the same numbers in any batch, in any order, after any restart.

torch's CPU generator is the fastest source at hand, but it is seeded by 32 bits only, so the key is mixed
well first (the finaliser of SplitMix64; Steele, Lea and Flood, 2014). Draws are made in float32 on the CPU and
then cast, so that float32, float64 and every device see the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zoracle.types import Key

__all__ = [
    "START_STREAM",
    "generator",
    "integers",
    "mix",
    "normal",
    "permutation",
    "signs",
    "uniform",
]

#: Keys starting points, apart from the draws of optimizers under the same seed, problem and step.
START_STREAM = 101

_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """A well-mixed 32-bit number from any number of integers; the order matters."""
    h = 0x9E3779B97F4A7C15
    for word in words:
        h = (h ^ (word & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB & _MASK
        h ^= h >> 31
    return h >> 32


def generator(*words: int) -> torch.Generator:
    """A CPU generator for this key. It is made for one use and thrown away."""
    return torch.Generator().manual_seed(mix(*words))


def normal(key: Key, shape: Sequence[int], stream: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal draws (B, *shape) for a key of B problems.

    Args:
        key: seed, problem and step, (B,) each.
        shape: shape of each problem's draw.
        stream: distinguishes several draws under one key.
        dtype: what the draws are cast to.
    """
    out = torch.empty((key.seed.shape[0], *shape), dtype=torch.float32)
    g = torch.Generator()
    for row, words in zip(out, _rows(key), strict=True):
        g.manual_seed(mix(*words, stream))
        row.normal_(generator=g)
    return out.to(dtype)


def uniform(key: Key, stream: int = 0) -> Tensor:
    """One uniform draw in [0, 1) a problem, (B,) float64."""
    return torch.tensor([mix(*words, stream) / 2**32 for words in _rows(key)], dtype=torch.float64)


def integers(key: Key, below: int | Tensor, n: int, stream: int = 0) -> Tensor:
    """Uniform draws from 0 .. below - 1, (B, n) int64: a counter hashed with the key, for all problems at once.

    Args:
        key: seed, problem and step, (B,) each.
        below: how many values there are, at most 2 ** 31; a number, or one per problem and draw (B, n) or (B, 1).
        n: draws per problem.
        stream: distinguishes several draws under one key. Draw j of a stream is that of every larger n.
    """
    words = [part.numpy().astype(np.uint64)[:, None] for part in key]
    words += [np.full((1, 1), stream, np.uint64), np.arange(n, dtype=np.uint64)[None]]
    h = np.full((1, 1), 0x9E3779B97F4A7C15, np.uint64)
    for word in words:  # as mix, on unsigned integers that wrap
        h = (h ^ word) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = h ^ (h >> np.uint64(31))
    # The 32 bits as a fraction of ``below``; no value is likelier than another by more than one in 2 ** 32 / below.
    return (torch.from_numpy((h >> np.uint64(32)).astype(np.int64)) * below) >> 32


def signs(key: Key, n: int, stream: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draws that are 1 or -1 with equal chance, (B, n)."""
    return (1 - 2 * integers(key, 2, n, stream)).to(dtype)


def permutation(n: int, *words: int) -> np.ndarray:
    """A permutation of 0 .. n - 1 for this key, the same on every platform (NumPy's PCG64)."""
    return np.random.Generator(np.random.PCG64([word & _MASK for word in words])).permutation(n)


def _rows(key: Key) -> list[tuple[int, int, int]]:
    return list(zip(key.seed.tolist(), key.problem.tolist(), key.step.tolist(), strict=True))
