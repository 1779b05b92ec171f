"""The model of the gradient of one problem, and its correction by an answer."""

from __future__ import annotations

import math

import numpy as np

from zoracle.optimizers.learned.spectral.arrays import SMALL
from zoracle.optimizers.learned.spectral.basis import Array, Basis
from zoracle.optimizers.learned.spectral.nets import Prior
from zoracle.optimizers.learned.spectral.state import Learned, SpectralSearchConfig

# Share of the margin to be overcome that one step across the ball along an average direction overcomes.
_FIRST_GUESS = 0.3
# Number of answers over which the gradient's size is averaged, and the cap on a surprise, in variances.
_MEMORY, _SURPRISE = 50.0, 6.0


class Belief:
    """The model of the gradient of one problem while answers are put into it."""

    def __init__(self, config: SpectralSearchConfig, basis: Basis, prior: Prior, known: Learned) -> None:
        self.config, self.basis, self.prior = config, basis, prior
        self.known = known
        self.coefficients, self.open, self.traits, self.precision = (
            a.copy() for a in (known.coefficients, known.open, known.traits, known.precision)
        )
        self.total, self.weight = known.power

    def begin(self, level: float, far: float) -> None:
        """The prior size of the gradient, such that a step across the ball would overcome the loss.

        Args:
            level: loss at the centre.
            far: Euclidean length of the longest move from the centre.
        """
        size = abs(level) / max(_FIRST_GUESS * far, SMALL)
        self.total, self.weight = max(size * size / self.coefficients.size, SMALL), 1.0

    def correct(self, move: Array, change: float, *, window: bool = False) -> None:
        """A Kalman step with a diagonal covariance, and a step of the likelihood for the prior's size and traits."""
        move = move.astype(np.float32, copy=False)
        along = self.basis.forward(move, window=window)
        spectrum = self.prior.spectrum(self.traits)
        gain = spectrum * self.open * along
        explained = float(np.vdot(gain, along))
        beyond = 0.0 if self.basis.whole else max(float(np.vdot(move, move)) - float(np.vdot(along, along)), 0.0)
        variance = explained * (1 + self.config.noise) + beyond * float(spectrum.min())
        power = self.total / self.weight
        if not variance > 0 or not math.isfinite(change):
            return
        miss = change - float(np.vdot(self.coefficients, along))
        surprise = min(miss * miss / (variance * power + SMALL), _SURPRISE)
        share = gain / np.float32(variance)
        told = share * along
        self.coefficients += share * np.float32(miss)
        self.open *= 1 - told
        self.open += np.float32(self.config.forget) * (1 - self.open)
        np.maximum(self.open, np.float32(1e-4), out=self.open)
        np.minimum(self.open, np.float32(1), out=self.open)
        self.total, self.weight = self.total + surprise * power, self.weight + 1
        if self.weight > _MEMORY:
            self.total, self.weight = self.total * _MEMORY / self.weight, _MEMORY
        slope = self.prior.loadings.T @ told
        slope -= self.prior.loadings.T @ (spectrum / np.float32(spectrum.size))  # the spectrum keeps its mean
        self.precision += 0.5 * np.outer(slope, slope).astype(np.float32)
        self.traits += np.linalg.solve(self.precision, 0.5 * (surprise - 1) * slope).astype(np.float32)
        np.clip(self.traits, -3, 3, out=self.traits)

    def told(
        self, *, level: float | None = None, gains: list[float] | None = None, side: float | None = None
    ) -> Learned:
        """The fields with what has changed."""
        known = self.known
        return known._replace(
            level=known.level if level is None else level,
            gains=known.gains if gains is None else gains,
            side=known.side if side is None else side,
            coefficients=self.coefficients,
            open=self.open,
            traits=self.traits,
            precision=self.precision,
            power=(self.total, self.weight),
        )
