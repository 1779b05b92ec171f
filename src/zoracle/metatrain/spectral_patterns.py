"""The loss that the patterns' network of a spectral search is trained by: a mixture over families of networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.optimizers.learned.spectral.nets import PLAIN

#: Weight of the log-likelihood beside the loss of the predicted successes.
_LIKELIHOOD = 0.1
#: Margins that an image's likelihood counts for when it is assigned to families: all of them would be certain at once.
_EFFECTIVE = 20.0


class Families(NamedTuple):
    """The parameters of :class:`zoracle.optimizers.learned.spectral.odds.Odds`, with a gradient."""

    log_weight: Tensor
    mean: Tensor
    lean: Tensor
    noise: Tensor
    tilt: Tensor
    loadings: Tensor
    leanings: Tensor


def families(out: Tensor, count: int) -> Families:
    """The parameters in the output (N, K (5 + 2 R)) of the patterns' network, for K families."""
    parts = out.view(len(out), count, -1).transpose(0, 1)
    weight, mean, lean, noise, tilt = parts[..., :PLAIN].unbind(2)
    loadings, leanings = parts[..., PLAIN:].chunk(2, 2)
    noise, tilt = (v.clamp(-6, 6).exp() for v in (noise, tilt))
    return Families(weight.mean(1).log_softmax(0), mean, lean, noise, tilt, loadings, leanings)


def pattern_loss(model: Families, warped: Tensor, asked: Tensor) -> Tensor:
    """Negative log-likelihood of warped margins, and cross-entropy of successes given the margins of some.

    Args:
        model: of these patterns.
        warped: (n, N, 2) margins of each pattern and of its opposite.
        asked: (n, k) those that are known, 2 index, + 1 for the opposite.
    """
    even, odd = (warped[..., 0] + warped[..., 1]) / 2, (warped[..., 0] - warped[..., 1]) / 2
    fit = _low_rank(even - model.mean.unsqueeze(1), model.loadings, model.noise)
    fit = fit + _low_rank(odd - model.lean.unsqueeze(1), model.leanings, model.tilt)
    assigned = (model.log_weight.unsqueeze(1) + _EFFECTIVE * fit).logsumexp(0) / _EFFECTIVE
    right = nn.functional.binary_cross_entropy(chances(model, warped, asked), (warped < 0).float())
    return right - _LIKELIHOOD * assigned.mean()


def chances(model: Families, warped: Tensor, asked: Tensor) -> Tensor:
    """Predicted probabilities of success (n, N, 2), given the warped margins (n, N, 2) of those asked (n, k)."""
    rows, signs = asked // 2, 1.0 - 2 * (asked % 2)
    sign = warped.new_tensor([1.0, -1.0])
    mean = (model.mean.unsqueeze(2) + sign * model.lean.unsqueeze(2)).unsqueeze(1)  # (K, 1, N, 2)
    total = model.loadings.square().sum(2) + model.leanings.square().sum(2) + model.noise + model.tilt
    alike = (torch.arange(warped.shape[1])[:, None] == rows.unsqueeze(1)).float()  # (n, N, k)
    shared = torch.einsum("knr,kbar->kbna", model.loadings, model.loadings[:, rows])
    shared = shared + alike * model.noise[:, None, :, None]
    turned = torch.einsum("knr,kbar->kbna", model.leanings, model.leanings[:, rows])
    turned = turned + alike * model.tilt[:, None, :, None]
    across = shared.unsqueeze(3) + sign[:, None] * (signs[:, None] * turned).unsqueeze(3)  # (K, n, N, 2, k)
    chosen = (rows * 2 + asked % 2).unsqueeze(0).expand(len(mean), -1, -1)
    flat = across.flatten(2, 3)
    among = flat.gather(2, chosen.unsqueeze(3).expand(-1, -1, -1, rows.shape[1]))
    centred = (warped.unsqueeze(0) - mean).flatten(2)
    miss = centred.gather(2, chosen)
    factor = torch.linalg.cholesky(among + 1e-5 * torch.eye(rows.shape[1]))
    told = torch.cholesky_solve(miss.unsqueeze(3), factor)
    gained = torch.linalg.solve_triangular(factor, flat.transpose(2, 3), upper=False).square().sum(2)
    variance = (total.unsqueeze(2).expand(-1, -1, 2).flatten(1).unsqueeze(1) - gained).clamp(min=1e-4)
    after = mean.flatten(2) + (flat @ told).squeeze(3)
    evidence = -0.5 * (miss * told.squeeze(3)).sum(2) - factor.diagonal(dim1=2, dim2=3).log().sum(2)
    share = (model.log_weight.unsqueeze(1) + evidence).softmax(0)
    # 1.702 makes the logistic function close to the normal distribution's.
    chance = torch.sigmoid(-1.702 * after / variance.sqrt()).clamp(1e-6, 1 - 1e-6)
    made: Tensor = (share.unsqueeze(2) * chance).sum(0).view_as(warped)
    return made


def to_ask(warped: Tensor, model: Families, number: int, seed: int) -> Tensor:
    """Up to five patterns (n, k) that fail: random ones every other time, else those that begin with good chances."""
    g = keyed.generator(seed, 6, number)
    count = int(torch.randint(0, 6, (), generator=g))
    score = torch.rand(warped.shape, generator=g)
    if number % 2:
        score = score - 2 * torch.einsum("k,kn->n", model.log_weight.exp(), model.mean).detach().unsqueeze(1)
    return score.masked_fill(warped < 0, -torch.inf).flatten(1).topk(count, dim=1).indices


def _low_rank(error: Tensor, loadings: Tensor, noise: Tensor) -> Tensor:
    """Log-likelihood of each image a margin, (K, n): errors (K, n, N), loadings (K, N, R), variances (K, N)."""
    weight = noise.rsqrt()
    scaled, white = loadings * weight.unsqueeze(2), error * weight.unsqueeze(1)
    inner = torch.eye(loadings.shape[2]) + scaled.transpose(1, 2) @ scaled
    seen = white @ scaled
    quadratic = white.square().sum(2) - (seen * torch.linalg.solve(inner, seen.transpose(1, 2)).transpose(1, 2)).sum(2)
    spread = noise.log().sum(1) + torch.logdet(inner)
    made: Tensor = -0.5 * (quadratic + spread.unsqueeze(1)) / error.shape[2]
    return made
