"""What the scale-free ZO-LSTM keeps from step to step, and what passes through it within one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from zoracle.optimizers.belief import Belief
from zoracle.optimizers.recurrent import Hidden
from zoracle.types import Key


class GuidedLSTMState(NamedTuple):
    """State."""

    x: Tensor
    key: Key
    mu: Tensor
    reach: Tensor
    """(B,) distance that directions are probed at in the first step, if not below mu."""
    horizon: Tensor
    """(B,) T."""
    origin: Tensor
    """(B, d) the starting point."""
    guesses: Tensor
    """(B, G, d) guesses of the gradient for the next step, of any length."""
    std: Tensor
    """(B, d) square root of the diagonal covariance of the other directions."""
    memories: Tensor
    """(B, M, d) running means of the estimates."""
    square: Tensor
    """(B, d) running mean of their squares."""
    step: Tensor
    """(B, d) the last step in units of eta."""
    gradient: Tensor
    """(B, d) the last estimate."""
    loss: Tensor
    """(B,) the last iterate's loss."""
    first_loss: Tensor
    """(B,) the first iterate's loss."""
    lowest: Tensor
    """(B,) the lowest loss of an iterate."""
    norm: Tensor
    """(B,) running mean of the estimates' norms."""
    first_norm: Tensor
    """(B,) the first estimate's norm."""
    pace: Tensor
    """(B,) logarithm of what eta is multiplied by; of the scale where it is not adaptive."""
    hidden: Hidden
    belief: tuple[Belief, ...] = ()
    """Of the gradient; empty where none is kept."""


class Seen(NamedTuple):
    """What the LSTM sees of the coordinates, (B, d) where nothing else is said."""

    gradient: Tensor
    memories: Tensor
    """(B, M, d)."""
    away: Tensor
    """Displacement from the start."""
    step: Tensor
    """The last one."""
    spread: Tensor
    """Half the logarithm of the estimates' size against that of the last one; zero before there was a step."""
    belief: Tensor
    """(B, 3, d) the belief, and two memories over the estimates' spread; or (B, 0, d)."""
    h: Tensor
    """(B, H, d)."""
    c: Tensor
    """(B, H, d)."""


class Shared(NamedTuple):
    """What all coordinates of a problem share."""

    size: Tensor
    """(B, M + 2, 1) one over the root mean squares of gradient, memories and displacement."""
    near: Tensor
    """(B, 2, 1) what displacements are multiplied by: a tanh then tells far from farther, and the start from near."""
    half: Tensor
    """(B, 1) half of one over eta."""
    belief: Tensor
    """(B, 3, 1) what these are multiplied by, or (B, 0, 1)."""
    gain: Tensor
    """(B, 1) of the step's length at this time."""
    gates: Tensor
    head: Tensor


class Made(NamedTuple):
    """What the LSTM makes of the coordinates."""

    step: Tensor
    """(B, d) in units of eta."""
    guesses: Tensor
    """(B, G, d)."""
    std: Tensor
    """(B, d) sigma up to its size."""
    h: Tensor
    c: Tensor
