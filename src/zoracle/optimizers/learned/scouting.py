r"""Steps at the start of a run that test whether local slopes predict the function farther away.

In the first S steps the iterate stays where it is, and directions are probed in pairs: at mu, and again at a distance
r. With a_i and b_i the two slopes along u_i, each less its mean over the step,

.. math:: \rho = \frac{\sum_i a_i b_i}{\sqrt{\sum_i a_i^2 \sum_i b_i^2}}

is near 1 if f is smooth on the scale of r, and near 0 if f is full of local minima that lie closer together
than r: local slopes are then no guide, and the run probes at a distance. The exception is an f that rises (or
falls) at that distance in all directions by much more than the directions differ: the minimum then lies nearer.
Some directions are therefore also probed at the whole reach, and the mean of their slopes is divided by their
standard deviation. In a bowl whose minimum lies at an RMS distance of delta per coordinate, that is about
reach sqrt(d) / (2 delta), hence a threshold that grows with d. The same holds around a local minimum of ripples, but
there the rise soon ends, and the mean slope at the whole reach is smaller than that at r.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: The distance r, in units of the reach under test.
DISTANCE = 1 / 3
#: Minimum correlation at which slopes count as agreeing.
_AGREE = 0.35
#: Mean of the slopes at the whole reach, in units of their standard deviation, above which there is nothing to learn
#: there, in up to as many dimensions. Functions and ripples have at most 8, attacks on ResNet-20 16 to 150.
_ALIKE, _DIMENSIONS = 8.0, 1000
#: Minimum number of slopes for a standard deviation.
_PROBED = 4
#: Mean slope at the whole reach, in units of that at r, above which f counts as still rising.
_RISES = 0.6
#: Share of a run after which a run that probes near has reached mu. It also begins at r: its first steps
#: then choose among valleys by more than the slope at one point.
_UNTIL = 0.05
#: Largest share of a run spent on scouting.
_MOST = 0.02
#: One direction in this many is probed at the whole reach.
_WIDE = 5
_TINY = 1e-30


class Tally(NamedTuple):
    """Sums over the probes so far."""

    near: Tensor
    """(B,) sum of a_i^2."""
    far: Tensor
    """(B,) sum of b_i^2."""
    both: Tensor
    """(B,) sum of a_i b_i, of pairs of two finite slopes."""
    rise: Tensor
    """(B,) sum of the slopes at r themselves, of these pairs."""
    pairs: Tensor
    """(B,) how many they are."""
    wide: Tensor
    """(B,) sum of the finite slopes at the whole reach."""
    squares: Tensor
    """(B,) sum of their squares."""
    probed: Tensor
    """(B,) how many these are."""


class Told(NamedTuple):
    """The decision where a run probes."""

    reach: Tensor
    """(B,) at first."""
    until: Tensor
    """(B,) share of the run that it falls to mu over."""


def steps(wanted: int, num_directions: int, horizon: Tensor) -> Tensor:
    """Number of scouting steps (B,) of a run of the given length; none if q is less than two pairs and one."""
    if num_directions < _WIDE:
        return torch.zeros_like(horizon)
    return (_MOST * horizon).to(horizon.dtype).clamp(max=wanted)


def near(reach: Tensor, until: Tensor, rows: Tensor) -> Told:
    """Make the given rows (B,) bool probe near; others stay unchanged."""
    return Told(torch.where(rows, reach * DISTANCE, reach), until.masked_fill(rows, _UNTIL))


def start(x: Tensor) -> Tally:
    """An empty tally."""
    return Tally(*(x.new_zeros(x.shape[0]) for _ in Tally._fields))


def points(x: Tensor, drawn: Tensor, q: int, mu: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """The points (B, q + 1, d) of a step, x first, and their directions (B, q, d).

    In this order: pairs near, the same ones at r, the first ones at the whole reach, and the first near once more where
    pairs do not come out even.

    Args:
        x: (B, d).
        drawn: (B, :func:`pairs`, d) directions; each is brought to the length sqrt(d), so that slopes differ by what f
            does and not by how far off they were measured.
        q: directions of a step.
        mu: (B,).
        reach: (B,).
    """
    n, wide = drawn.shape[1], q // _WIDE
    drawn = drawn * (math.sqrt(x.shape[1]) / drawn.norm(dim=2, keepdim=True).clamp(min=_TINY))
    left = q - 2 * n - wide
    u = torch.cat((drawn, drawn, drawn[:, :wide], drawn[:, :left]), dim=1)
    distance = torch.stack((mu, reach * DISTANCE, reach, mu), dim=1).to(x)
    along = distance.repeat_interleave(torch.tensor([n, n, wide, left], device=x.device), dim=1)
    return torch.cat((x.unsqueeze(1), x.unsqueeze(1) + along.unsqueeze(2) * u), dim=1), u


def pairs(q: int) -> int:
    """Number of directions probed twice in a step with q queries besides that of x."""
    return (q - q // _WIDE) // 2


def counted(tally: Tally, values: Tensor, mu: Tensor, reach: Tensor) -> Tally:
    """The tally after a step.

    Args:
        tally: before it.
        values: (B, q + 1) of its points.
        mu: (B,).
        reach: (B,).
    """
    q = values.shape[1] - 1
    n, wide = pairs(q), q // _WIDE
    change = values.detach()[:, 1:] - values.detach()[:, :1]
    parts = zip((0, n, 2 * n), (n, n, wide), (mu, reach * DISTANCE, reach), strict=True)
    a, b, c = (change[:, first : first + many] / along.to(change).unsqueeze(1) for first, many, along in parts)
    known = a.isfinite() & b.isfinite()

    def centred(slopes: Tensor) -> Tensor:
        slopes = torch.where(known, slopes, 0.0)
        mean = slopes.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
        return torch.where(known, slopes - mean, 0.0)

    rise = torch.where(known, b, 0.0).sum(1)
    a, b = centred(a), centred(b)
    finite = c.isfinite()
    c = torch.where(finite, c, 0.0)
    more = (
        *(a.square().sum(1), b.square().sum(1), (a * b).sum(1), rise, known.sum(1)),
        *(c.sum(1), c.square().sum(1), finite.sum(1)),
    )
    return Tally(*(old + new.to(old) for old, new in zip(tally, more, strict=True)))


def told(tally: Tally, reach: Tensor, until: Tensor, dim: int) -> Told:
    """Decide where to probe: far if local slopes are no guide, else near, and at mu if all directions are alike.

    Args:
        tally: of all steps. With an empty tally a run probes near.
        reach: (B,) that the run has.
        until: (B,) likewise.
        dim: d.
    """
    agreement = tally.both / (tally.near.sqrt() * tally.far.sqrt()).clamp(min=_TINY)
    stays = near(reach, until, (tally.far <= 0) | (agreement >= _AGREE))
    mean = tally.wide / tally.probed.clamp(min=1)
    variance = tally.squares / tally.probed.clamp(min=1) - mean.square()
    rises = mean.abs() >= _RISES * (tally.rise / tally.pairs.clamp(min=1)).abs()
    alike = (tally.probed >= _PROBED) & rises & (mean.square() > _ALIKE**2 * max(1.0, dim / _DIMENSIONS) * variance)
    return Told(stays.reach.masked_fill(alike, 0.0), stays.until)
