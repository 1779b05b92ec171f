"""Settings and state of the scale-free ZO-LSTM, and the quantities passed around within a step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from zoracle.optimizers.base import Config, Positive, SamplingConfig, Share
from zoracle.optimizers.learned.belief import Belief
from zoracle.optimizers.learned.recurrent import Hidden
from zoracle.optimizers.learned.scouting import Tally
from zoracle.optimizers.learned.spectrum import Covariance
from zoracle.optimizers.radius import Radius
from zoracle.settings import Few, Number, Size
from zoracle.types import Key


class GuidedLSTMArchitecture(Config, frozen=True, kw_only=True):
    """Settings that determine the shape and meaning of the weights.

    Attributes:
        guesses: G, number of the q directions that lie along guesses of the gradient, 1 to 4.
        hidden: hidden size of the LSTM.
        adaptive: whether eta is learned as the run goes, so that it fits problems of any scale; it starts as
            ``step_size`` times the scale that the run was told.
        believing: whether a belief of the gradient is kept beside the running means of its estimates, and inputs tell
            signal from noise. Needs ``adaptive``.
        spectral: whether the other directions have a learned spectrum, where points are images
            (:mod:`zoracle.optimizers.learned.spectrum`).
        weight_seed: keys the initial weights.
    """

    guesses: Few = 4
    hidden: Size = 12
    adaptive: bool = False
    believing: bool = False
    spectral: bool = False
    weight_seed: int = 0


class GuidedLSTMConfig(SamplingConfig, frozen=True, kw_only=True):
    """Settings of a run.

    Attributes:
        step_size: eta at the start, the unit that steps are made in, in units of x.
        last_step: share of it that is left at the end of the run, where it falls to linearly.
        cap: longest step of a coordinate in units of eta.
        horizon: length of the schedule in steps if the run does not specify its own.
        scouting: S, number of steps at the start that determine whether to probe at a distance at all, as in
            :mod:`zoracle.optimizers.learned.scouting`; at most 2 % of the run, and a run too short for
            scouting probes near. 0 uses ``reach`` as given.
    """

    step_size: Positive = 0.02
    last_step: Share = 0.03
    cap: Positive = 5.0
    horizon: Number = 200
    scouting: Few = 0
    covariance: Covariance = "learned"


class GuidedLSTMState(NamedTuple):
    """State."""

    x: Tensor
    key: Key
    mu: Tensor
    radius: Radius
    """How far directions are probed; its horizon is T without the steps that scout."""
    scouting: Tensor
    """(B,) S."""
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
    tally: tuple[Tally, ...] = ()
    """Of the steps that scout; empty where none do."""
    shape: tuple[Tensor, ...] = ()
    """(B, 3) channels, height and width of a point; empty where the other directions have no spectrum."""


class Seen(NamedTuple):
    """Inputs of the LSTM per coordinate, (B, d) unless stated otherwise."""

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
    """Inputs shared by all coordinates of a problem."""

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


class Proposal(NamedTuple):
    """Outputs of the LSTM per coordinate."""

    step: Tensor
    """(B, d) in units of eta."""
    guesses: Tensor
    """(B, G, d)."""
    std: Tensor
    """(B, d) sigma up to its size."""
    h: Tensor
    c: Tensor
