r"""Steps at the start of a run that find out whether slopes nearby say anything of what lies farther off.

In the first S steps the iterate stays where it is, and directions are probed in pairs: at mu, and again at a distance
r. With a_i and b_i the two slopes along u_i, each less its mean over the step,

.. math:: \rho = \frac{\sum_i a_i b_i}{\sqrt{\sum_i a_i^2 \sum_i b_i^2}}

is near 1 where f is smooth on the scale of r, and near 0 where it is full of local minima that lie closer together
than r: what is nearby is then no guide, and the run probes at a distance. Not so where f rises in most directions by
much more than the directions differ by: there the point lies in a valley as wide as r, and only what is nearby tells
the way along it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: The distance r, in units of the reach that is to be decided on.
DISTANCE = 1 / 3
#: Slopes agree from this correlation on.
_AGREE = 0.35
#: What all slopes at a distance share, in units of what they differ by, from which on a point lies in a valley.
_VALLEY = 2.0
#: Share of a run after which one that is told to stay near is at mu. It begins at r all the same: its first steps
#: then choose among valleys by more than the slope at one point.
_UNTIL = 0.05
#: Share of a run that may be spent on it.
_MOST = 0.02
_TINY = 1e-30


class Tally(NamedTuple):
    """What the pairs have said so far."""

    near: Tensor
    """(B,) sum of a_i^2."""
    far: Tensor
    """(B,) sum of b_i^2."""
    both: Tensor
    """(B,) sum of a_i b_i."""
    shared: Tensor
    """(B,) sum of the means that were taken off the b_i, one for each pair."""
    pairs: Tensor
    """(B,) how many pairs had two finite slopes."""


def steps(wanted: int, num_directions: int, horizon: Tensor) -> Tensor:
    """How many steps a run of so many in all can spend on it, (B,): not with fewer than two pairs a step."""
    if num_directions < 4:
        return torch.zeros_like(horizon)
    return (_MOST * horizon).to(horizon.dtype).clamp(max=wanted)


def told_near(rows: Tensor, reach: Tensor, until: Tensor) -> tuple[Tensor, Tensor]:
    """Reach and the share of the run that it falls over, (B,) each, with some rows (B,) bool told to stay near."""
    return torch.where(rows, reach * DISTANCE, reach), until.masked_fill(rows, _UNTIL)


def start(x: Tensor) -> Tally:
    """Nothing is known yet."""
    return Tally(*(x.new_zeros(x.shape[0]) for _ in Tally._fields))


def points(x: Tensor, drawn: Tensor, q: int, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """The points (B, q + 1, d) of a step, x first, and their directions (B, q, d): all near, then the same ones far.

    Args:
        x: (B, d).
        drawn: (B, q // 2, d) directions. An odd q asks for the first of them near once more.
        q: directions of a step.
        near: (B,) mu.
        far: (B,) r.
    """
    pairs = drawn.shape[1]
    u = torch.cat((drawn, drawn, drawn[:, : q - 2 * pairs]), dim=1)
    distance = torch.stack((near, far, near), dim=1).to(x)
    along = distance.repeat_interleave(torch.tensor([pairs, pairs, q - 2 * pairs], device=x.device), dim=1)
    return torch.cat((x.unsqueeze(1), x.unsqueeze(1) + along.unsqueeze(2) * u), dim=1), u


def counted(tally: Tally, values: Tensor, near: Tensor, far: Tensor) -> Tally:
    """The tally after a step.

    Args:
        tally: before it.
        values: (B, q + 1) of its points.
        near: (B,) mu.
        far: (B,) r.
    """
    pairs = (values.shape[1] - 1) // 2
    change = values.detach()[:, 1 : 2 * pairs + 1] - values.detach()[:, :1]
    a, b = change[:, :pairs] / near.to(change).unsqueeze(1), change[:, pairs:] / far.to(change).unsqueeze(1)
    known = a.isfinite() & b.isfinite()
    count = known.sum(1)

    def split(slopes: Tensor) -> tuple[Tensor, Tensor]:
        slopes = torch.where(known, slopes, 0.0)
        mean = slopes.sum(1, keepdim=True) / count.clamp(min=1).unsqueeze(1)
        return torch.where(known, slopes - mean, 0.0), mean.squeeze(1)

    (a, _), (b, mean) = split(a), split(b)
    more = (a.square().sum(1), b.square().sum(1), (a * b).sum(1), mean * count, count)
    return Tally(*(old + new.to(old) for old, new in zip(tally, more, strict=True)))


def far_is_better(tally: Tally) -> Tensor:
    """(B,) whether slopes nearby are no guide. Not where nothing is known."""
    agreement = tally.both / (tally.near.sqrt() * tally.far.sqrt()).clamp(min=_TINY)
    spread, mean = (tally.far / tally.pairs.clamp(min=1)).sqrt(), tally.shared / tally.pairs.clamp(min=1)
    return (tally.far > 0) & (agreement < _AGREE) & (mean < _VALLEY * spread)
