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
from zoracle.optimizers.learned.spectral.odds import Odds

#: Outputs of the patterns' network for each family, beside two sets of loadings.
PLAIN = 5
# Initial size of the first weights of the patterns' network, beside the usual: its inputs are mostly indicators, and
# which of them meet has to be told from the start.
_STEEP = 4.0


class Prior(NamedTuple):
    """A log-linear family of spectra over one basis."""

    mean: Array
    """(M,) log variance of each coefficient, up to a constant, of the average network."""
    loadings: Array
    """(M, R) what each trait z of a network changes it by: log S(z) = mean + loadings z, with z ~ N(0, I)."""

    def spectrum(self, z: Array) -> Array:
        """S(z), (M,), of mean one."""
        made: Array = self.loadings @ z
        made += self.mean
        made -= made.max()
        np.exp(made, out=made)
        made /= made.mean(dtype=np.float64).astype(np.float32)
        return made


class SpectralNets(nn.Module):
    """Both networks: one hidden layer each, over features with the same meaning at any image size.

    Args:
        hidden: hidden units of the spectrum's network.
        wide: hidden units of the patterns' network.
        traits: R of a spectrum.
        families: K of the patterns' losses.
        factors: R of the patterns' losses.
        seed: keys the initial weights.
    """

    def __init__(self, hidden: int, wide: int, traits: int, families: int, factors: int, seed: int) -> None:
        super().__init__()
        self.families = families
        self.spectrum = _net(12, hidden, 1 + traits, mix(seed, 1))
        self.patterns = _net(24, wide, families * (PLAIN + 2 * factors), mix(seed, 2), first=_STEEP)
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
        parts = out.reshape(len(out), self.families, -1).transpose(1, 0, 2)
        weight, mean, lean, noise, tilt = parts[..., :PLAIN].transpose(2, 0, 1)
        # A family's weight is the mean of what its patterns say.
        share = np.exp(weight.mean(1) - weight.mean(1).max())
        loadings, leanings = np.split(parts[..., PLAIN:], 2, axis=2)
        noise, tilt = (np.exp(np.clip(v, -6, 6)) for v in (noise, tilt))
        return Odds(share / share.sum(), mean, lean, noise, tilt, loadings, leanings)


def _net(inputs: int, hidden: int, outputs: int, seed: int, first: float = 1.0) -> nn.Sequential:
    # Constructed without torch's initial weights, which would use its global generator.
    front, last = (
        nn.utils.skip_init(nn.Linear, *sizes)  # type: ignore[no-untyped-call]
        for sizes in ((inputs, hidden), (hidden, outputs))
    )
    net = nn.Sequential(front, nn.Tanh(), last)
    g = generator(seed)
    with torch.no_grad():
        for part, scale in ((front, first), (last, 1 / first)):
            assert isinstance(part, nn.Linear)
            part.weight.normal_(0, scale / math.sqrt(part.in_features), generator=g)
            part.bias.zero_()
    return net


def _run(net: nn.Sequential, given: Array) -> Array:
    first, last = net[0], net[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    weights = [p.detach().float().cpu().numpy() for p in (first.weight, first.bias, last.weight, last.bias)]
    out: Array = np.tanh(given @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
    return out.astype(np.float32)
