"""Probing at a learned distance: what a function looks like from farther away than a finite difference sees."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.estimators import combine
from zoracle.optimizers.recurrent import Gates

#: The learned distance lies between these multiples of eta, evenly in its logarithm.
_NEAREST, _FARTHEST = 0.02, 20.0
#: What the gates start from: the rate of the memory, how much wide slopes count in the estimate, the distance (eta).
_FIRST = (0.2, 0.5, math.log(1 / _NEAREST) / math.log(_FARTHEST / _NEAREST))
#: Scalars that tell how it goes out there.
SCALARS = 6
#: Features that each coordinate has of it.
FEATURES = 2
_TINY = 1e-12


class Wide(NamedTuple):
    """What is kept of it from step to step."""

    reach: Tensor
    """(B,) mu of the wide directions."""
    trust: Tensor
    """(B,) what their slopes are multiplied by in the estimate, in (0, 1)."""
    memory: Tensor
    """(B, d) running mean of the wide estimates."""


class Probed(NamedTuple):
    """What a step's values say."""

    along: Tensor
    """(B, q) slopes over sqrt(d), those of wide directions less what all of them share, all of them finite."""
    bend: Tensor
    """(B,) what wide differences share, in [-1, 1] of their size: 1 where f curves up more than it slopes."""
    wide: Tensor
    """(B, d) the wide estimate."""


def start(mu: Tensor, x: Tensor) -> Wide:
    """The first step probes as near as any difference; nothing is known of the scale yet."""
    return Wide(mu.to(x), torch.full_like(mu, 0.5).to(x), torch.zeros_like(x))


def gates(scalars: int, seed: int) -> Gates:
    """Rate, trust and distance from the scalars."""
    return Gates(scalars, _FIRST, seed=seed)


def distances(mu: Tensor, state: Wide, q: int, wide: int) -> Tensor:
    """The distance of each direction, (B, q), the last ``wide`` of them the wide ones."""
    near, far = mu.to(state.reach).unsqueeze(1), state.reach.unsqueeze(1)
    return torch.cat((near.expand(-1, q - wide), far.expand(-1, wide)), dim=1)


def probed(values: Tensor, directions: Tensor, mu: Tensor, state: Wide, wide: int) -> Probed:
    r"""Slopes, near and wide.

    A wide difference is a slope and a bend, :math:`f(x + r u) - f(x) \approx r\,u^T \nabla \bar f + b`, and b, from
    curvature, ripples and kinks, is about the same in all directions. It is taken off; what is left points along
    the gradient of :math:`\bar f`, which is f seen through a blur of width r.

    Args:
        values: (B, q + 1).
        directions: (B, q, d).
        mu: (B,) of the others.
        state: of the step that asked.
        wide: how many directions, the last ones, are wide.
    """
    b, q, d = directions.shape
    change = values[:, 1:] - values[:, :1]
    change = torch.where(change.isfinite(), change, 0.0)
    near, far = change[:, : q - wide], change[:, q - wide :]
    # One alone cannot tell a slope from a bend.
    shared = far.mean(1, keepdim=True) if wide > 1 else far.new_zeros((b, 1))
    size = (far.square().sum(1) / max(wide, 1)).sqrt().clamp(min=_TINY)
    slopes = torch.cat((near, far - shared), 1) / distances(mu, state, q, wide).to(values)
    along = slopes.to(directions.dtype) / math.sqrt(d)
    estimate = combine(along[:, q - wide :] / math.sqrt(d), directions[:, q - wide :])
    return Probed(along, (shared.squeeze(1) / size).detach().to(directions.dtype), estimate)


def scalars(seen: Probed, gradient: Tensor, memory: Tensor, state: Wide, eta: Tensor, q: int) -> Tensor:
    """How it goes out there, (B, 6), without graph.

    The wide estimate's cosine to its own memory and to the estimates' (d times the mean of what is of size one),
    the bend, the wide estimate's size against the estimate's, the distance against eta, and q / d.
    """
    d = gradient.shape[1]
    wide = _unit(seen.wide)
    norms = torch.linalg.vector_norm(seen.wide, dim=1), torch.linalg.vector_norm(gradient, dim=1)
    columns = (
        3 * (wide * _unit(state.memory)).mean(1),
        3 * (wide * _unit(memory)).mean(1),
        seen.bend,
        0.5 * ((norms[0] + _TINY) / (norms[1] + _TINY)).log().clamp(-4, 4),
        0.3 * (state.reach / eta).clamp(min=_TINY).log().clamp(-10, 10),
        torch.full_like(eta, 0.3 * math.log(q / d)),
    )
    return torch.stack([column.detach() for column in columns], dim=1)


def step(net: Gates, inputs: Tensor, seen: Probed, state: Wide, eta: Tensor, mu: Tensor, started: Tensor) -> Wide:
    """What is kept for the next step."""
    rate, trust, distance = net(inputs).unbind(1)
    span = math.log(_FARTHEST / _NEAREST)
    reach = torch.maximum(_NEAREST * eta * (span * distance).exp(), mu.to(eta))
    memory = torch.lerp(state.memory, seen.wide, torch.where(started, rate, 1.0).unsqueeze(1))
    return Wide(reach, trust, memory)


def _unit(v: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return v / (length / math.sqrt(v.shape[1]) + _TINY)
