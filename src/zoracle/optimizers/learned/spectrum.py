r"""A learned covariance of query directions that is diagonal in the cosine transform of an image.

Gradients of image classifiers are smooth: most of their energy lies in a few low frequencies, the same for all images.
A covariance diagonal over pixels cannot express this. With B the orthonormal cosine transform (DCT-II) over height,
width and channels,

.. math:: u = \Sigma^{1/2} B^T \mathrm{diag}(s)\, z, \qquad z \sim N(0, I),

s is the output of a small network shared by all frequencies. Its inputs are the position of a frequency (in cycles per
pixel and per image, grey or colour), the time, and the energy of the estimates' running means near it in
this run. The network does not depend on the size of the image.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoracle.directions import orthogonal_to
from zoracle.errors import InputError

#: Number of inputs for the position of a frequency, and for this run's measurements near it.
PLACE, RUN = 6, 2
_TINY = 1e-12

#: The covariance of directions that lie along no guess. "learned" is all that the weights have: sigma of each pixel and
#: the spectrum of this run. "pixel" and "spectrum" are one of the two; "prior" is the spectrum as it is before the
#: first estimate, for the whole run; "fixed" is a spectrum that nothing has learned, 1 / (1 + cycles per image);
#: "isotropic" is neither.
Covariance = Literal["learned", "pixel", "spectrum", "prior", "fixed", "isotropic"]
COVARIANCES: tuple[Covariance, ...] = get_args(Covariance)
#: Those that need a learned spectrum, those that have any, and those with a sigma for each pixel.
LEARNED: tuple[Covariance, ...] = ("spectrum", "prior")
SPECTRAL: tuple[Covariance, ...] = ("learned", "spectrum", "prior", "fixed")
PIXEL: tuple[Covariance, ...] = ("learned", "pixel")


class Spectrum(nn.Module):
    """The standard deviation of each frequency.

    Args:
        seed: keys the initial weights.
        width: of the layer between.
    """

    def __init__(self, seed: int, width: int = 12) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        inputs = PLACE + RUN + 2
        self.inner = nn.Parameter(torch.randn(width, inputs, generator=g) / math.sqrt(inputs))
        self.inner_bias = nn.Parameter(torch.zeros(width))
        self.outer = nn.Parameter(torch.randn(width, generator=g) * 0.05)
        # An untrained one falls with the frequency, as the gradients of smooth functions of images do.
        self.straight = nn.Parameter(torch.tensor([-1.0, *[0.0] * (inputs - 1)]))

    def forward(self, memories: Tensor, progress: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Standard deviations (B, d) with a root mean square of one.

        Args:
            memories: (B, 2, d) running means of the estimates, in pixels.
            progress: (B,) completed share of the run.
            shape: channels, height and width of an image, d in all.
        """
        place = _places(*shape).to(memories)
        run = _about(transform(memories.detach(), shape), shape)
        time = torch.stack((2 * progress - 1, 2 * torch.exp(-25 * progress) - 1), dim=1).to(memories)
        inner, inner_bias, outer, straight = (
            weight.to(memories.dtype) for weight in (self.inner, self.inner_bias, self.outer, self.straight)
        )
        # Sums of products instead of matrix products, so that the batch does not change the last bits of a problem.
        columns = [*place.unsqueeze(1), *run.transpose(0, 1), *time.t().unsqueeze(2)]
        total = sum(column * weight for column, weight in zip(columns, straight, strict=True))
        for row, bias, out in zip(inner, inner_bias, outer, strict=True):
            middle = sum(column * weight for column, weight in zip(columns, row, strict=True))
            total = total + out * torch.tanh(middle + bias)
        std = total.clamp(-6, 6).exp()
        unit: Tensor = std / (std.square().mean(1, keepdim=True).sqrt() + _TINY)
        return unit


def check(covariance: Covariance, spectral: bool) -> None:
    """Raise an InputError if a covariance needs a learned spectrum and the weights have none."""
    if covariance in LEARNED and not spectral:
        rest = ", ".join(other for other in COVARIANCES if other not in LEARNED)
        raise InputError(f"covariance is {covariance!r}, and these weights have no spectrum; expected one of {rest}")


def deviations(
    net: Spectrum | None, covariance: Covariance, memories: Tensor, progress: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """Standard deviations (B, d) of the frequencies under a covariance of :data:`SPECTRAL`.

    Args:
        net: the learned spectrum; None only for "fixed".
        covariance: which.
        memories: (B, 2, d) running means of the estimates, in pixels.
        progress: (B,) completed share of the run.
        shape: channels, height and width of an image.
    """
    if covariance == "fixed" or net is None:
        return fixed(memories, shape)
    if covariance == "prior":
        memories, progress = torch.zeros_like(memories), torch.zeros_like(progress)
    found: Tensor = net(memories, progress, shape)
    return found


def fixed(like: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Standard deviations (B, d) in proportion to 1 / (1 + cycles per image), of the type of (B, ..., d)."""
    std = torch.exp(-_places(*shape)[0]).to(like)
    return (std / std.square().mean().sqrt()).expand(like.shape[0], -1)


def is_image(shape: tuple[int, int, int]) -> bool:
    """Whether points of this shape have meaningful frequencies: at least four rows and columns."""
    return min(shape[1:]) >= 4


def transform(x: Tensor, shape: tuple[int, int, int], *, inverse: bool = False) -> Tensor:
    """The orthonormal cosine transform of points (B, n, d) over all three axes of an image, or its inverse."""
    b, n, d = x.shape
    c, h, w = shape
    rows, columns, channels = (_basis(size, x.dtype, x.device) for size in (h, w, c))
    if inverse:
        rows, columns, channels = rows.t(), columns.t(), channels.t()
    x = torch.bmm(x.reshape(b, n * c * h, w), columns.t().expand(b, w, w))
    x = torch.bmm(x.view(b, n * c, h, w).transpose(2, 3).reshape(b, n * c * w, h), rows.t().expand(b, h, h))
    x = x.view(b, n, c, w, h).transpose(3, 4)
    if c > 1:
        x = (x.unsqueeze(2) * channels.view(c, c, 1, 1)).sum(3)
    return x.reshape(b, n, d)


def orthonormal(rows: Tensor) -> Tensor:
    """Rows (B, n, d) of length sqrt(d) each made orthogonal in their order, n well below d.

    Smooth directions lie close together, and the slopes along them would count the same part of the gradient
    more than once.
    """
    d = rows.shape[2]
    gram = torch.stack([row @ row.t() for row in rows]) / d
    gram = gram + 1e-5 * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    lower = torch.linalg.cholesky(gram)
    return torch.stack(
        [torch.linalg.solve_triangular(factor, row, upper=False) for factor, row in zip(lower, rows, strict=True)]
    )


@lru_cache(maxsize=64)
def _basis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows of the orthonormal DCT-II (size, size)."""
    k = torch.arange(size, dtype=torch.float64).unsqueeze(1)
    i = torch.arange(size, dtype=torch.float64).unsqueeze(0)
    basis = torch.cos(math.pi * (i + 0.5) * k / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.to(device, dtype)


@lru_cache(maxsize=16)
def _places(channels: int, height: int, width: int) -> Tensor:
    """Inputs of the network for the position of each frequency, (6, d) float32."""
    c, i, j = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (channels, height, width)), indexing="ij")
    rows, columns = i / (2 * height), j / (2 * width)  # cycles per pixel
    radius = (rows.square() + columns.square()).sqrt()
    cycles = (i.square() + j.square()).sqrt() / 2  # per image
    slant = (rows - columns).abs() / (radius + 0.02)
    grey = (c == 0).double()
    features = torch.stack((cycles.log1p(), 4 * radius, (radius + 0.02).log() + 2, slant, grey, torch.ones_like(grey)))
    return features.flatten(1).float()


def _about(frequencies: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The logarithm of the energy about each frequency against its mean, for each of (B, n, d)."""
    b, n, d = frequencies.shape
    c, h, w = shape
    energy = frequencies.square().reshape(b * n * c, 1, h, w)
    around = functional.avg_pool2d(energy, 3, 1, 1, count_include_pad=False).reshape(b, n, d)
    return 0.3 * (around / (around.mean(2, keepdim=True) + _TINY) + 1e-3).log()


class Waves(NamedTuple):
    """The spectrum of a step's directions."""

    std: Tensor
    """(B, d) of each frequency."""
    shape: tuple[int, int, int]
    """Channels, height and width."""


def others(guesses: Tensor, z: Tensor, std: Tensor, waves: Waves | None) -> Tensor:
    """Directions (B, q - G, d) orthogonal to the guesses."""
    if waves is None or z.shape[1] == 0:
        return orthogonal_to(guesses, z, std)
    smooth = transform(z * waves.std.unsqueeze(1), waves.shape, inverse=True)
    return orthonormal(orthogonal_to(guesses, smooth, std))
