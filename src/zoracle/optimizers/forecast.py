r"""What a run will reach with the queries that are left, told from the values it has reached so far.

A converging run gains less and less. With g_1 and g_2 its gains over the last two of three equal parts of its turns,
and R how many more such parts there are queries for, the gains are continued as a geometric series,

.. math:: \hat v = v - g_2 \sum_{i=1}^{R} \rho^i , \qquad \rho = \min(1, g_2 / g_1) ,

Aitken's extrapolation of a sequence. A run whose gains grow is continued with the last one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_ROOM = 16  # marks kept of a run; when they are full every second one goes
FEWEST = 3
"""Marks that a forecast needs."""


class History(NamedTuple):
    """Values that M members of B portfolios had reached after each of their turns, at equal distances."""

    values: Tensor
    """(B, M, K)."""
    marks: Tensor
    """(B, M) int64, how many of them there are."""
    pace: Tensor
    """(B, M) int64, turns from one to the next."""
    turns: Tensor
    """(B, M) int64, turns since the last."""

    @property
    def young(self) -> Tensor:
        """Whether there are too few marks for a forecast, (B, M)."""
        return self.marks < FEWEST

    @property
    def long(self) -> Tensor:
        """About how many turns the runs have had, (B, M)."""
        return self.marks * self.pace

    @property
    def gain(self) -> Tensor:
        """What the members have gained since their runs began, (B, M); 0 where there is no mark."""
        return (self.values[:, :, 0] - self.last).nan_to_num(nan=0.0).clamp(min=0)

    @property
    def last(self) -> Tensor:
        """The last marks, (B, M)."""
        return self.values.gather(2, (self.marks - 1).clamp(min=0).unsqueeze(2)).squeeze(2)


def begun(like: Tensor, members: int) -> History:
    """No marks yet, of B portfolios."""
    b = like.shape[0]
    zero = torch.zeros((b, members), dtype=torch.int64, device=like.device)
    return History(like.new_full((b, members, _ROOM), torch.inf), zero, zero + 1, zero)


def forgotten(history: History, member: int) -> History:
    """The history with a member's run forgotten."""
    fresh = begun(history.values[:, 0, 0], history.marks.shape[1])
    parts = []
    for old, new in zip(history, fresh, strict=True):
        part = old.clone()
        part[:, member] = new[:, member]
        parts.append(part)
    return History(*parts)


def marked(history: History, member: int, value: Tensor) -> History:
    """The history after a turn of a member that has now reached a value (B,); one that is not finite leaves no mark."""
    values, marks, pace, turns = (part.clone() for part in history)
    due = value.isfinite() & ((turns[:, member] + 1 >= pace[:, member]) | (marks[:, member] == 0))
    turns[:, member] = torch.where(due, 0, turns[:, member] + 1)
    full = due & (marks[:, member] == _ROOM)
    thin = torch.cat((values[:, member, ::2], torch.full_like(values[:, member, ::2], torch.inf)), 1)
    values[:, member] = torch.where(full.unsqueeze(1), thin, values[:, member])
    marks[:, member] = torch.where(full, _ROOM // 2, marks[:, member])
    pace[:, member] = torch.where(full, 2 * pace[:, member], pace[:, member])
    at = marks[:, member].clamp(max=_ROOM - 1).unsqueeze(1)
    put = values[:, member].scatter(1, at, value.unsqueeze(1))
    values[:, member] = torch.where(due.unsqueeze(1), put, values[:, member])
    marks[:, member] += due.to(torch.int64)
    return History(values, marks, pace, turns)


def forecast(history: History, left: Tensor, error: Tensor) -> Tensor:
    """What each member will reach if it is given all the turns that are left, (B, M); minus infinity of a young run.

    Args:
        history: of the members.
        left: (B, M) turns.
        error: (B,) gains below this are none, as under noise.
    """
    third = ((history.marks - 1) // 2).clamp(min=1).minimum(((history.marks + 2) // 3).clamp(min=1))
    at = torch.stack([(history.marks - 1 - k * third).clamp(min=0) for k in (2, 1, 0)], 2)
    before, middle, now = history.values.gather(2, at).unbind(2)
    first, second = (
        (a - b - error.unsqueeze(1)).nan_to_num(nan=0.0).clamp(min=0) for a, b in ((before, middle), (middle, now))
    )
    ratio = torch.where(first > 0, second / first.clamp(min=torch.finfo(first.dtype).tiny), 1.0).clamp(max=1)
    parts = left.to(now) / (third * history.pace)
    series = torch.where(ratio < 1, ratio * (1 - ratio**parts) / (1 - ratio).clamp(min=1e-6), parts)
    return torch.where(history.young, -torch.inf, now - second * series.minimum(parts))
