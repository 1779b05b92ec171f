r"""The noise of a function, and the distance of two points at which their difference exceeds it.

Along a line the k-th differences of a smooth function vanish like h^k, while those of noise grow. ECnoise reads the
noise from a few values at spacing h, whether it is random, rounding, or the last digits of a computation.

Source: Moré and Wild (2011), "Estimating computational noise"; Moré and Wild (2012), "Estimating derivatives of noisy
simulations", for the interval; Shi, Xie, Xuan and Nocedal (2022), "Adaptive finite-difference interval estimation for
noisy derivative-free optimization", for its test.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.errors import InputError

#: Fewest values that a noise can be read from: three levels of differences have to agree.
FEWEST = 6
_AGREE = 4.0  # levels agree where the largest is at most so many times the smallest
_TINY = 1e-37  # a float32 that is not zero


class Verdict(IntEnum):
    """What the values of a line say."""

    FOUND = 0
    """The noise was found."""
    TOO_CLOSE = 1
    """Half of the values equal their neighbours: f is rounded more coarsely than this spacing shows."""
    TOO_FAR = 2
    """f changes along the line by more than noise does: take a smaller spacing. The level is an upper bound."""
    UNKNOWN = 3
    """Values are missing (NaN)."""


class Noise(NamedTuple):
    """What the values of B lines say."""

    level: Tensor
    """(B,) standard deviation of the noise; of an unknown one NaN."""
    verdict: Tensor
    """(B,) int64, a :class:`Verdict`."""


def ecnoise(values: Tensor) -> Noise:
    r"""The noise of a function from its values at equally spaced points of a line.

    With T_{i,0} = f_i and T_{i,k+1} = T_{i+1,k} - T_{i,k}, noise of standard deviation \sigma has
    E[T_{i,k}^2] = \sigma^2 (2k)! / (k!)^2, so that level k estimates

    \sigma_k^2 = \frac{(k!)^2}{(2k)!} \frac{1}{n - k} \sum_i T_{i,k}^2 .

    The noise is the first \sigma_k that agrees with the two after it up to a factor of 4, of a level at which
    differences have both signs.

    Args:
        values: (B, n), n at least 6; 7 or 8 are usual.

    Raises:
        InputError: too few values.

    Source: Moré and Wild (2011), algorithm ECnoise.
    """
    if values.ndim != 2 or values.shape[1] < FEWEST:
        raise InputError(f"values are {tuple(values.shape)}; expected (B, n) with n at least {FEWEST}")
    table = values.detach().double()
    b, n = table.shape
    known = table.isfinite().all(1)
    table = torch.where(known.unsqueeze(1), table, 0.0)
    low, high = table.min(1).values, table.max(1).values
    closest = ((table[:, 1:] - table[:, :-1]) == 0).sum(1) >= n / 2
    levels, signs = [], []
    for k in range(1, n - 1):
        table = table[:, 1:] - table[:, :-1]
        gamma = math.factorial(k) ** 2 / math.factorial(2 * k)
        levels.append((gamma * table.square().mean(1)).sqrt())
        signs.append((table > 0).any(1) & (table < 0).any(1))
    level = torch.stack(levels, 1)
    some = level.unfold(1, 3, 1)
    agree = (some.amax(2) <= _AGREE * some.amin(2)) & torch.stack(signs, 1)[:, : some.shape[1]]
    found, first = agree.any(1), agree.int().argmax(1)
    noise = torch.where(found, level[torch.arange(b), first], level.min(1).values)
    steep = high - low > 0.1 * torch.maximum(low.abs(), high.abs())
    verdict = torch.full((b,), int(Verdict.TOO_FAR))
    verdict[found] = int(Verdict.FOUND)
    # Random noise may be as large as the values themselves; it still has both signs at the first level.
    verdict[found & steep & (first > 0)] = int(Verdict.TOO_FAR)
    verdict[closest] = int(Verdict.TOO_CLOSE)
    verdict[~known] = int(Verdict.UNKNOWN)
    return Noise(torch.where(known, noise, torch.nan), verdict.to(values.device))


def clear_distance(distances: Tensor, differences: Tensor, noise: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """The shortest distance from which on differences exceed the noise.

    Args:
        distances: (B, n), rising.
        differences: (B, n), f there less f at the middle; NaN where unknown.
        noise: (B,).
        factor: how many times the noise a difference has to be.

    Returns:
        That distance (B,), the last one where none stands out; and the signal to noise there (B,).
    """
    ratio = differences.abs() / noise.clamp(min=_TINY).unsqueeze(1)
    ratio = ratio.nan_to_num(nan=torch.inf)  # where f cannot be had it is not flat either
    clear = (ratio >= factor).flip(1).cumprod(1).flip(1)  # itself and all after it
    first = torch.where(clear.any(1), clear.argmax(1), distances.shape[1] - 1)
    rows = torch.arange(len(first), device=first.device)
    return distances[rows, first], ratio[rows, first]
