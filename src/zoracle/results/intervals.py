"""95 % intervals: of a mean over problems that were each run under several seeds, and of a share of images."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

from torch import Tensor


class Interval(NamedTuple):
    """A mean and its interval; NaN where there is nothing to take a mean, or an interval, of."""

    mean: float
    low: float
    high: float


def clustered(values: Tensor, level: float = 0.95) -> Interval:
    r"""The mean over problems with a t interval clustered by problem.

    Seeds are repeats of the same problems, so S times P values are not S P independent ones. Each problem is first
    averaged over its seeds; with y_p these averages and s their standard deviation,

    .. math:: \bar y \pm t_{P-1}\, s / \sqrt{P}.

    The y_p differ by problem and by what is left of the seeds' chance after averaging, so s holds both levels: for a
    balanced design this is the exact interval of the two-level random-effects model. It speaks of new problems from
    the same family, with new seeds. With one problem it can only speak of new seeds for that problem, and does.

    Args:
        values: (S, P), seeds by problems. NaN marks a value that does not exist; a problem without any is left out.
        level: coverage, in (0, 1).
    """
    means = values.double().nanmean(0)
    means = means[~means.isnan()]
    if values.shape[1] == 1:
        means = values.double().flatten()
        means = means[~means.isnan()]
    n = means.numel()
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(means.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan)
    half = t_quantile(0.5 + level / 2, n - 1) * float(means.std()) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def wilson(count: int, number: int) -> Interval:
    r"""A share of independent images with its 95 % score interval; NaN where there are none.

    With p = count / n and z = 1.96, the shares that a test at 5 % does not reject:

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if number == 0:
        return Interval(math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf(0.975)
    share, scale = count / number, 1 + z * z / number
    middle = (share + z * z / (2 * number)) / scale
    half = z * math.sqrt(share * (1 - share) / number + (z / (2 * number)) ** 2) / scale
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


@lru_cache
def t_quantile(p: float, dof: int) -> float:
    """The p-quantile, p in [0.5, 1), of Student's t with an integer of degrees of freedom, by bisection."""
    low, high = 0.0, 1.0
    while _t_cdf(high, dof) < p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _t_cdf(middle, dof) < p else (low, middle)
    return high


def _t_cdf(t: float, dof: int) -> float:
    """P(T <= t) for t >= 0: the finite sums of Abramowitz and Stegun (1964), 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(dof))
    square = math.cos(theta) ** 2
    odd = dof % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0 if dof == 1 else term
    for k in range(3 if odd else 2, dof - 1, 2):
        term *= square * (k - 1) / k
        total += term
    between = (2 / math.pi) * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
    return 0.5 + between / 2
