"""The learned networks of the search: the spectrum of gradients, and the value of patterns. Evaluated in NumPy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from zoracle.keyed import generator, mix
from zoracle.optimizers.learned.spectral import basis, patterns
from zoracle.optimizers.learned.spectral.basis import Array, Shape

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Prior(NamedTuple):
    """A log-linear family of spectra over one basis."""

    mean: Array
    """(M,) log variance of each coefficient, up to a constant, of the average network."""
    loadings: Array
    """(M, R) what each trait z of a network changes it by: log S(z) = mean + loadings z, with z ~ N(0, I)."""

    def spectrum(self, z: Array) -> Array:
        """S(z), (M,), of mean one."""
        log = self.mean + self.loadings @ z
        spectrum = np.exp(log - log.max())
        made: Array = spectrum / spectrum.mean(dtype=np.float64).astype(np.float32)
        return made


class Odds(NamedTuple):
    """A Gaussian model of the warped losses w = asinh f of the patterns of a bank; f < 0 is a success."""

    mean: Array
    """(N,)."""
    loadings: Array
    """(N, R) shared ups and downs of networks and images."""
    noise: Array
    """(N,) variance that is each pattern's own."""

    def success(self, asked: list[int], losses: list[float], trust: float = 1.0) -> Array:
        """Probability (N,) that each pattern succeeds, given the losses of the patterns queried so far.

        An answer has the weight ``trust``, since the model was fitted to networks other than the one under attack.
        """
        if asked:
            scale = np.sqrt(self.noise[asked] / trust)
            seen = self.loadings[asked] / scale[:, None]
            surprise = (np.arcsinh(losses) - self.mean[asked]) / scale
            inner = np.linalg.inv(np.eye(seen.shape[1]) + seen.T @ seen)
            mean = self.mean + self.loadings @ (inner @ (seen.T @ surprise))
        else:
            inner, mean = np.eye(self.loadings.shape[1]), self.mean
        variance = ((self.loadings @ inner) * self.loadings).sum(1) + self.noise
        chances: Array = 0.5 * (1 + _erf(-mean / np.sqrt(2 * variance)))
        return chances


class SpectralNets(nn.Module):
    """Both networks: one hidden layer each, over features with the same meaning at any image size.

    Args:
        hidden: hidden units of each.
        traits: R, for both networks.
        seed: keys the initial weights.
    """

    def __init__(self, hidden: int, traits: int, seed: int) -> None:
        super().__init__()
        self.spectrum = _net(12, hidden, 1 + traits, mix(seed, 1))
        self.patterns = _net(22, hidden, 2 + traits, mix(seed, 2))
        self.requires_grad_(False)

    def prior(self, shape: Shape) -> Prior:
        """The spectra of gradients at points of a shape; flat if points are not images."""
        size = basis.basis_of(shape).size
        out = _run(self.spectrum, basis.features(shape))
        if 1 in shape[1:]:
            return Prior(np.zeros(size, np.float32), np.zeros((size, out.shape[1] - 1), np.float32))
        return Prior(np.ascontiguousarray(out[:, 0]), np.ascontiguousarray(out[:, 1:]))

    def odds(self, shape: Shape, reach: float) -> Odds:
        """The model of the losses of a shape's patterns, for a given mean change per pixel."""
        out = _run(self.patterns, patterns.features(shape, reach)).astype(np.float64)
        return Odds(out[:, 0], out[:, 2:], np.exp(np.clip(out[:, 1], -6, 6)))


def _net(inputs: int, hidden: int, outputs: int, seed: int) -> nn.Sequential:
    # Constructed without torch's initial weights, which would use its global generator.
    first, last = (
        nn.utils.skip_init(nn.Linear, *sizes)  # type: ignore[no-untyped-call]
        for sizes in ((inputs, hidden), (hidden, outputs))
    )
    net = nn.Sequential(first, nn.Tanh(), last)
    g = generator(seed)
    with torch.no_grad():
        for part in (first, last):
            assert isinstance(part, nn.Linear)
            part.weight.normal_(0, 1 / math.sqrt(part.in_features), generator=g)
            part.bias.zero_()
    return net


def _run(net: nn.Sequential, given: Array) -> Array:
    first, last = net[0], net[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    weights = [p.detach().float().cpu().numpy() for p in (first.weight, first.bias, last.weight, last.bias)]
    out: Array = np.tanh(given @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
    return out.astype(np.float32)
