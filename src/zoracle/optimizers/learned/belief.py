"""A running belief about the gradient, corrected by each measurement, and how reliable it is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.estimators import combine
from zoracle.optimizers.learned.recurrent import Gates

#: Initial values of the gates: the share of the belief that is forgotten, and the gain of a correction.
_FIRST = (0.02, 0.6)
_SLOWLY = 0.1  # rate of the running means
_WATCHED = 6  # scalars with a running mean
_TINY = 1e-12
#: Scalars that describe the quality of the belief.
SCALARS = 17
#: Features of the belief per coordinate.
FEATURES = 3
#: Factor of estimates divided by their spread: about one over their size under pure noise.
SIZES = (2.0, 4.0)


class Belief(NamedTuple):
    """State of the belief, kept from step to step."""

    mean: Tensor
    """(B, d) h, the gradient as it is believed to be."""
    energy: Tensor
    """(B,) running mean of the gradient's squared norm, as the slopes tell it."""
    trend: Tensor
    """(B, 6) running means of some of the scalars."""


class Measured(NamedTuple):
    """Information from the slopes of a step."""

    energy: Tensor
    """(B,) running mean of the gradient's squared norm."""
    predicted: Tensor
    """(B, q) what the belief had said of the slopes; zero where they are not known, so that it stays as it was."""
    scalars: Tensor
    """(B, 17), without graph."""
    trend: Tensor
    """(B, 6)."""


def start(x: Tensor) -> Belief:
    """A belief without any information."""
    return Belief(torch.zeros_like(x), x.new_zeros(x.shape[0]), x.new_zeros((x.shape[0], _WATCHED)))


def gates(scalars: int, seed: int) -> Gates:
    """The forgotten share and the gain, computed from the scalars."""
    return Gates(scalars, _FIRST, seed=seed)


def measured(
    along: Tensor,
    known: Tensor,
    directions: Tensor,
    state: Belief,
    guesses: int,
    against: Tensor,
    memories: Tensor,
    started: Tensor,
) -> Measured:
    r"""How well the guesses and the belief were confirmed.

    The G guesses are exact, and the q - G other directions sample the space orthogonal to them, so with
    a_i the slope along the unit vector i,

    .. math:: |g|^2 \approx \sum_{i \le G} a_i^2 + \frac{d - G}{q - G} \sum_{i > G} a_i^2,

    which separates signal from noise: a mean of estimates is that long only if they agree.

    Args:
        along: (B, q) slopes along unit vectors; zero if unknown.
        known: (B, q) whether the slope is known.
        directions: (B, q, d), of length sqrt(d), the guesses first.
        state: state before the queries of the step.
        guesses: G.
        against: (B, 4) cosines of the estimate to the last step and to the memories.
        memories: (B, 3, d) running means of the estimates before the queries of the step.
        started: (B,) whether this is not the first step.

    Returns:
        With scalars: the share of the energy that lies along the guesses (logarithm), the correlation of the slopes in
        fresh directions with the belief's prediction, the squared lengths of memories and belief over the energy
        (logarithms), the cosines, running means of all but the lengths, and q / d (logarithm).
    """
    _, q, d = directions.shape
    predicted = torch.bmm(directions, state.mean.unsqueeze(2)).squeeze(2) / math.sqrt(d)
    predicted = torch.where(known, predicted, 0.0)
    fresh, said = along[:, guesses:].detach(), predicted[:, guesses:].detach()
    explained = along[:, :guesses].detach().square().sum(1)
    rest = fresh.square().sum(1) * (max(d - guesses, 0) / max(q - guesses, 1))
    now = explained + rest
    energy = torch.where(started, torch.lerp(state.energy, now, _SLOWLY), now)
    agreed = (fresh * said).sum(1) / (fresh.norm(dim=1) * said.norm(dim=1)).clamp(min=_TINY)
    lengths = torch.cat((memories, state.mean.unsqueeze(1)), 1).detach().square().sum(2)
    lengths = 0.3 * (lengths / energy.clamp(min=_TINY).unsqueeze(1) + 1e-3).log()
    share = 0.3 * (explained / now.clamp(min=_TINY) + 1e-3).log()
    watched = torch.cat((share.unsqueeze(1), agreed.unsqueeze(1), 3 * against), dim=1)
    trend = torch.where(started.unsqueeze(1), torch.lerp(state.trend, watched, _SLOWLY), watched)
    relation = torch.full_like(share, 0.3 * math.log(q / d)).unsqueeze(1)
    since = torch.cat((watched[:, :2], lengths, watched[:, 2:], trend), dim=1)
    return Measured(energy, predicted, torch.cat((torch.where(started.unsqueeze(1), since, 0.0), relation), 1), trend)


def corrected(
    net: Gates, inputs: Tensor, seen: Measured, along: Tensor, directions: Tensor, state: Belief, guesses: int
) -> Belief:
    r"""The belief after a step, h' = (1 - \phi) h + \rho \sum_i \lambda_i (a_i - (1 - \phi) h^T v_i) v_i.

    v_i are the unit vectors along the directions. Unlike a running mean of estimates, it loses nothing in directions
    that were not queried, except through \phi: for a constant gradient it becomes exact. \lambda_i is 1 for the
    guesses; for the others, which are not mutually orthogonal, it keeps their sum from overshooting.

    Source: sketch-and-project, as in SEGA (Hanzely, Mishchenko and Richtarik, 2018), algorithm 1.
    """
    _, q, d = directions.shape
    forgotten, gain = net(inputs).unbind(1)
    left = (1 - forgotten).unsqueeze(1)
    least = 1 / (1 + math.sqrt(2 * (q - guesses) / d)) ** 2
    limits = torch.cat((along.new_ones(guesses), along.new_full((q - guesses,), least)))
    change = gain.unsqueeze(1) * limits * (along - left * seen.predicted)
    return Belief(
        left * state.mean + combine(change / math.sqrt(d), directions),
        seen.energy,
        seen.trend,
    )


def features(mean: Tensor, memories: Tensor, square: Tensor, step: Tensor, rate: float) -> Tensor:
    r"""Features of the belief per coordinate, (B, 3, d): the belief, and two memories over their estimates' spread.

    The two memories are Adam's m / \sqrt{v}: small where estimates disagree.

    Args:
        mean: (B, d) the belief.
        memories: (B, 2, d).
        square: (B, d) running mean of squared estimates, started at zero.
        step: (B,) number of steps in ``square``.
        rate: rate of ``square``.
    """
    spread = (square / (1 - (1 - rate) ** step.to(square)).unsqueeze(1)).sqrt()
    floor = 1e-3 * torch.linalg.vector_norm(spread, dim=1, keepdim=True) / math.sqrt(mean.shape[1])
    over = memories / (spread + floor + _TINY).detach().unsqueeze(1)
    return torch.cat((mean.unsqueeze(1), over), dim=1)
