"""The model of the losses of patterns: a mixture over families of networks, whose weights the answers change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from zoracle.optimizers.learned.spectral.basis import Array


class Odds(NamedTuple):
    r"""A mixture of K Gaussians for the warped losses w = asinh f of N patterns and their opposites; f < 0 succeeds.

    In family k, pattern p with sign s has

    .. math:: w_{ps} = m_p + s\,n_p + L_p u + s\,T_p v + e_p + s\,h_p, \qquad u, v \sim N(0, I),

    where the terms with s are what a pattern and its opposite differ by: much for halves of the image, next to nothing
    for a fine checkerboard.
    """

    weight: Array
    """(K,) probability of each family before any answer."""
    mean: Array
    """(K, N) m."""
    lean: Array
    """(K, N) n."""
    noise: Array
    """(K, N) variance of e, each pattern's own."""
    tilt: Array
    """(K, N) variance of h."""
    loadings: Array
    """(K, N, R) L, shared ups and downs of networks and images."""
    leanings: Array
    """(K, N, R) T."""

    def success(self, asked: Sequence[int], losses: Sequence[float], trust: float = 1.0) -> Array:
        """Probability (N, 2) that each pattern and its opposite succeed, given the losses of those queried so far.

        Args:
            asked: 1 + the index of each pattern, negative for its opposite.
            losses: their losses, positive as none has succeeded.
            trust: weight of an answer, since the model was fitted to networks other than the one under attack.
        """
        sign = np.array([1.0, -1.0])
        own = self.noise + self.tilt
        mean = self.mean[..., None] + sign * self.lean[..., None]  # (K, N, 2)
        variance = ((self.loadings**2).sum(2) + (self.leanings**2).sum(2) + own)[..., None].repeat(2, axis=2)
        weight = np.log(self.weight)
        if len(asked):
            rows, signs = np.abs(asked) - 1, np.sign(np.array(asked, dtype=np.float64))
            alike = np.arange(self.mean.shape[1])[:, None] == rows
            shared = self.loadings @ self.loadings[:, rows].transpose(0, 2, 1) + alike * self.noise[..., None]
            turned = self.leanings @ self.leanings[:, rows].transpose(0, 2, 1) + alike * self.tilt[..., None]
            across = shared[:, :, None] + sign[:, None] * signs * turned[:, :, None]  # (K, N, 2, k)
            among = shared[:, rows] + signs[:, None] * signs * turned[:, rows]  # (K, k, k)
            among = among + np.eye(len(rows)) * (own[:, rows] * (1 / trust - 1))[:, None]
            miss = np.arcsinh(losses) - self.mean[:, rows] - signs * self.lean[:, rows]
            inverse = np.linalg.inv(among)
            told = (inverse @ miss[..., None])[..., 0]
            mean = mean + np.einsum("knsa,ka->kns", across, told)
            variance = variance - ((across @ inverse[:, None]) * across).sum(3)
            weight = weight - 0.5 * ((miss * told).sum(1) + np.linalg.slogdet(among)[1])
        chance = torch.special.ndtr(torch.from_numpy(-mean / np.sqrt(np.maximum(variance, 1e-6)))).numpy()
        share = np.exp(weight - weight.max())
        made: Array = np.einsum("k,kns->ns", share / share.sum(), chance)
        return made
