"""Settings and state of the spectral search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from zoracle.optimizers.base import Config, Positive, Share
from zoracle.optimizers.learned.spectral.basis import Array
from zoracle.settings import Few, NonNegative, Size
from zoracle.types import Key, Space

#: Kinds of queries: a pattern, the centre of the ball, a probe of one frequency, a window, a run of pixels.
PATTERN, MIDDLE, PROBE, WINDOW, RUN = 0, 1, 2, 3, 4


class SpectralSearchArchitecture(Config, frozen=True, kw_only=True):
    """Settings that determine the shape of the weights.

    Attributes:
        hidden: hidden units of the network of the spectrum.
        wide: the same of the network of the patterns.
        traits: R, numbers that tell one network's spectrum from another's.
        families: of networks, in the mixture that patterns' losses follow.
        factors: of either kind that patterns' losses share within a family.
        weight_seed: keys the initial weights.
    """

    hidden: Size = 32
    wide: Size = 80
    traits: Size = 6
    families: Size = 5
    factors: Size = 2
    weight_seed: int = 0


class SpectralSearchConfig(Config, frozen=True, kw_only=True):
    """Settings of a run of the spectral search.

    Attributes:
        patterns: maximum number of patterns queried at the start.
        chance: patterns continue while one of them has at least this chance of success.
        trust: weight of the answer for one pattern in the chances of others; 1 is the fitted model's own.
        probe: size of a probe, in standard deviations of the probed coefficient.
        noise: unexplained variance of an answer, as a share of the variance that the linear model explains.
        forget: share of the information about a coefficient that each step discards, since gradients change.
        windows: windows that are weighed for each one that is asked; 0 asks for none, nor for runs.
        start: "learned", patterns by their learned chances; or "stripes", vertical ones of random colours once, as
            Square Attack begins. For ablations, as are the next four.
        spectrum: "learned"; or "flat", which gives every frequency the same variance.
        rejected: whether answers for rejected moves also correct the model.
        textures: whether windows also take the signs of good patterns, beside one sign per channel and the opposite of
            the present values.
        runs: whether runs of pixels are asked beside probes and windows.
    """

    patterns: Few = 16
    chance: Share = 0.01
    trust: Share = 0.2
    probe: Positive = 2.0
    noise: NonNegative = 0.05
    forget: Share = 0.001
    windows: Few = 8
    start: Literal["learned", "stripes"] = "learned"
    spectrum: Literal["learned", "flat"] = "learned"
    rejected: bool = True
    textures: bool = True
    runs: bool = True


class SpectralSearchState(NamedTuple):
    """State of the spectral search."""

    x: Tensor
    """(B, d) the best point so far; the starting point until a value is known."""
    key: Key
    space: Space
    middle: Tensor
    """(B, d) the feasible point at the start, from which patterns are laid."""
    best: Tensor
    """(B,) loss at x, infinite until one is known."""
    level: Tensor
    """(B,) loss at the middle, NaN until it is known."""
    asked: Tensor
    """(B, S) int64 the patterns asked for, 1 + their index, negative where the sign was; 0 where there was none."""
    answers: Tensor
    """(B, S) float64 their losses, NaN where there was none."""
    coefficients: Tensor
    """(B, M) float32 the gradient as far as it is known, in the basis."""
    open: Tensor
    """(B, M) float32 the share of each coefficient's prior variance that is still open."""
    traits: Tensor
    """(B, R) float32 z, what kind of spectrum this network has."""
    precision: Tensor
    """(B, R, R) float32 how sure that is."""
    power: Tensor
    """(B, 2) float64 running sum of the squared size of the gradient, and of its weights."""
    gains: Tensor
    """(B, 3) float64 running mean of what a probe, a window and a run won, as a share of the loss."""
    side: Tensor
    """(B,) float64 present side of windows, as a share of the image's; each is drawn from half to twice that."""
    runs: Tensor
    """(B,) int64 runs asked for."""


class Choice(NamedTuple):
    """The query of a step."""

    kind: Tensor
    """(B,) int64."""
    pattern: Tensor
    """(B,) int64 as in ``asked``."""


class Learned(NamedTuple):
    """What an answer changes, of one problem: the state's fields as numbers and as NumPy arrays.

    After a network has filled the processor's cache each call of torch or NumPy takes several microseconds, so small
    fields change hands for all problems at once.
    """

    level: float
    asked: list[int]
    answers: list[float]
    coefficients: Array
    open: Array
    traits: Array
    precision: Array
    power: tuple[float, float]
    gains: list[float]
    side: float
    runs: int

    @classmethod
    def of(cls, state: SpectralSearchState) -> list[Self]:
        """Those of all problems. The arrays share memory with the state and are not to be written to."""
        fields = (
            getattr(state, name).numpy() if name in _ARRAYS else getattr(state, name).tolist() for name in cls._fields
        )
        return [cls(*parts) for parts in zip(*fields, strict=True)]

    @staticmethod
    def put(state: SpectralSearchState, rows: Sequence[Learned]) -> SpectralSearchState:
        """The state with these fields for each of its problems."""
        changed: dict[str, Tensor] = {}
        for name, parts in zip(Learned._fields, zip(*rows, strict=True), strict=True):
            old = getattr(state, name)
            new = torch.from_numpy(np.stack(parts)) if name in _ARRAYS else torch.tensor(parts, dtype=old.dtype)
            changed[name] = new.to(old.device)
        return state._replace(**changed)  # type: ignore[arg-type]  # tensors all


_ARRAYS = frozenset(("coefficients", "open", "traits", "precision"))
