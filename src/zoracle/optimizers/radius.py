r"""How far from the iterate directions are probed: a smoothing radius that falls over the run.

A run that begins with reach R probes its directions, in the step after t of T, at the distance

.. math:: \max(\mu,\ R\, (1 - t / (\theta T))),

so that its first slopes are those of f seen through a blur: past ripples and kinks that are shorter than R. The share
of the run over which the distance falls is \theta.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_TINY = 1e-12
#: Steps that a schedule is stretched over where the run does not say how many it will take.
OPEN_HORIZON = 200


class Radius(NamedTuple):
    """The schedule of each of B runs. Tensors, so that a state can keep it."""

    reach: Tensor
    """(B,) R, in units of x."""
    until: Tensor
    """(B,) theta."""
    horizon: Tensor
    """(B,) T."""

    def at(self, taken: Tensor, mu: Tensor) -> Tensor:
        """The distance (B,) of the step after ``taken`` (B,) steps; mu (B,) from the share theta on."""
        gone = taken.to(mu) / (self.until * self.horizon.to(mu)).clamp(min=_TINY)
        return torch.maximum(mu, self.reach * (1 - gone))


def schedule(reach: float, until: float, horizon: Tensor, scale: float, like: Tensor) -> tuple[Radius, ...]:
    """The schedule that settings ask for, of the type and device of a tensor (B,); none where there is no reach.

    Args:
        reach: R in units of the scale.
        until: theta.
        horizon: (B,) T, 0 where the run is open.
        scale: typical size of a coordinate.
        like: (B,).
    """
    if not reach:
        return ()
    steps = torch.where(horizon > 0, horizon, OPEN_HORIZON).to(like.device)
    return (Radius(torch.full_like(like, reach * scale), torch.full_like(like, until), steps),)


def centred(slopes: Tensor, known: Tensor, far: Tensor) -> Tensor:
    """Slopes (B, q) less their mean in the rows that probe afar.

    What differences over a distance share comes from curvature, ripples and kinks, and says nothing of where to go.

    Args:
        slopes: (B, q), zero where they are not known.
        known: (B, q) whether they are.
        far: (B,) which rows.
    """
    shared = slopes.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
    return torch.where(known & far.unsqueeze(1), slopes - shared, slopes)
