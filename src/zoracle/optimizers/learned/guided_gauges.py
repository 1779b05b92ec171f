"""Progress of a run of the scale-free ZO-LSTM, as scalars shared by all coordinates of a problem."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.optimizers.learned.guided_search import taken
from zoracle.optimizers.learned.guided_state import GuidedLSTMState

#: Number of scalars returned by :func:`scalars`.
SCALARS = 7
TINY = 1e-12


class Gauges(NamedTuple):
    """Losses and norms (B,) after the answers of a step."""

    started: Tensor
    """Whether a step was taken before."""
    progress: Tensor
    """Share of the run that is behind it."""
    loss: Tensor
    first_loss: Tensor
    lowest: Tensor
    norm: Tensor
    """Of the estimate."""
    first_norm: Tensor
    mean_norm: Tensor
    """Running mean of the norms."""


def read(state: GuidedLSTMState, value: Tensor, gradient: Tensor) -> Gauges:
    """The gauges of a step whose iterate has this value (B,), and whose estimate is (B, d)."""
    started = taken(state) > 0
    loss = torch.where(value.isfinite(), value, state.loss.to(value)).detach().to(state.x.dtype)
    norm = gradient.norm(dim=1)
    return Gauges(
        started=started,
        progress=(taken(state).to(state.x) / state.radius.horizon.to(state.x)).clamp(max=1),
        loss=loss,
        first_loss=torch.where(started, state.first_loss, loss),
        lowest=torch.where(started, torch.minimum(state.lowest, loss), loss),
        norm=norm,
        first_norm=torch.where(started, state.first_norm, norm.detach()),
        mean_norm=torch.where(started, 0.9 * state.norm + 0.1 * norm.detach(), norm.detach()),
    )


def scalars(state: GuidedLSTMState, at: Gauges, away: Tensor, eta: Tensor) -> Tensor:
    """Progress of the run, (B, 7): time and last step's gain, two forms each; norms against earlier ones; distance.

    Args:
        state: state before the step.
        at: quantities after its answers.
        away: (B, d) displacement from the start.
        eta: (B,) the unit of steps.
    """
    change = torch.where(at.started, at.loss - state.loss, 0.0)
    dropped = at.first_loss - at.lowest
    # Detached: where little gain was predicted, the gradient of the quotient would dominate all others.
    promised = (state.gradient * state.step).sum(1).abs().detach() * eta
    columns = (
        2 * at.progress - 1,
        2 * torch.exp(-25 * at.progress) - 1,
        (change / promised.clamp(min=TINY)).clamp(-2, 2),
        (50 * change / dropped.clamp(min=TINY)).clamp(-2, 2),
        0.5 * (at.norm / at.first_norm.clamp(min=TINY) + 1e-4).log().clamp(-4, 4),
        (at.norm / at.mean_norm.clamp(min=TINY) + 1e-3).log().clamp(-2, 2),
        0.5 * (rms(away).squeeze(1) / eta + 1e-2).log(),
    )
    return torch.stack(columns, dim=1)


def cosines(state: GuidedLSTMState, gradient: Tensor) -> Tensor:
    """Cosines (B, 4) of the estimate to the last step and to the memories."""
    earlier = torch.cat((state.step.unsqueeze(1), state.memories), dim=1)
    # Detached: training should learn the response to the cosines, not how to influence them.
    return (unit(gradient).unsqueeze(1) * unit(earlier)).detach().mean(2)


def soft(v: Tensor) -> Tensor:
    """Softly limited to ten."""
    return v / (1 + 0.1 * v.abs())


def rms(v: Tensor) -> Tensor:
    """Root mean square over coordinates: (..., d) -> (..., 1)."""
    length: Tensor = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return length / math.sqrt(v.shape[-1])


def unit(v: Tensor) -> Tensor:
    """Divided by the root mean square over coordinates; zero stays zero."""
    return v / (rms(v) + TINY)
