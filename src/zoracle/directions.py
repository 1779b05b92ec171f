r"""Query directions: pure functions from a key (seed, problem id, step) to directions (B, q, d).

All of them are scaled so that E[u u^T] = I where no covariance is asked for: then a forward difference along them
is an estimate of the gradient itself, not of a multiple of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.estimators.gradient import aligned
from zoracle.keyed import normal
from zoracle.types import Key

DirectionKind = Literal["gaussian", "orthogonal"]
KINDS: tuple[DirectionKind, ...] = ("gaussian", "orthogonal")

#: Numbers of a tensor, half a MiB in float32, of which a few fit the second-level cache of one core.
_CACHED = 2**17


def draw(kind: DirectionKind, key: Key, q: int, like: Tensor) -> Tensor:
    """Directions (B, q, d) of a named kind, with the type and device of ``like`` (B, d).

    Raises:
        InputError: the kind is unknown, or q is not positive.
    """
    if q < 1:
        raise InputError(f"number of directions is {q}; expected at least 1")
    if kind == "gaussian":
        return gaussian(key, q, like)
    if kind == "orthogonal":
        return orthogonal(key, q, like)
    raise InputError(f"directions {kind!r} are unknown; expected one of {', '.join(KINDS)}")


def gaussian(key: Key, q: int, like: Tensor) -> Tensor:
    """Standard normal directions z ~ N(0, I), (B, q, d)."""
    return normal(key, (q, like.shape[-1]), dtype=like.dtype).to(like.device)


def reparameterise(z: Tensor, std: Tensor) -> Tensor:
    r"""Directions with a diagonal covariance, u = \Sigma^{1/2} z.

    The forward difference along them estimates \Sigma \nabla f, a preconditioned gradient, not \nabla f.

    Args:
        z: standard normal directions (B, q, d).
        std: square root of the diagonal of Sigma, (B, d); gradients reach it through u.

    Source: Ruan et al. (2020), section on QueryRNN; Kingma and Welling (2014) for the trick.
    """
    return z * std.unsqueeze(1)


def orthogonal(key: Key, q: int, like: Tensor) -> Tensor:
    r"""Mutually orthogonal directions of length sqrt(d), each uniform on the sphere, (B, q, d).

    E[u u^T] = I, and the estimate along q of them has the variance of sampling without replacement. Where q > d,
    blocks of d orthogonal directions are independent of each other.

    Source: Choromanski et al. (2018), "Structured Evolution with Compact Architectures".
    """
    d = like.shape[-1]
    z = gaussian(key, q, like)
    blocks = [orthonormal_rows(block) for block in torch.split(z, d, dim=1)]
    return torch.cat(blocks, dim=1) * math.sqrt(d)


def orthonormal_rows(rows: Tensor) -> Tensor:
    """Orthonormal rows (B, k, d) that span the rows given, k <= d, in their order (signs as in Gram-Schmidt)."""
    return torch.stack([_orthonormal(row) for row in rows.transpose(1, 2).unbind(0)])


def _orthonormal(columns: Tensor) -> Tensor:
    # One matrix at a time, each in memory of its own: the last bits of a QR depend on how its input is aligned.
    q_factor, r_factor = torch.linalg.qr(columns.clone(memory_format=torch.contiguous_format))
    sign = torch.where(torch.diagonal(r_factor) < 0, -1.0, 1.0).to(columns.dtype)
    oriented: Tensor = q_factor * sign
    return oriented.t().contiguous()


def antithetic(directions: Tensor) -> Tensor:
    """Each direction followed by its opposite, (B, 2q, d)."""
    return torch.stack((directions, -directions), dim=2).flatten(1, 2)


def guided(
    key: Key,
    q: int,
    subspace: Tensor,
    alpha: float = 0.5,
    scaling: Literal["published", "balanced"] = "balanced",
) -> Tensor:
    r"""Guided-ES directions, which spend part of their variance in a subspace of k past directions, (B, q, d).

    u = \sqrt{\alpha} z_1 + \sqrt{1 - \alpha}\, s\, U z_2 with z_1 ~ N(0, I_d), z_2 ~ N(0, I_k) and U an orthonormal
    basis of the subspace. "balanced" takes s = \sqrt{d / k}, which is d times the covariance
    \alpha I / d + (1 - \alpha) U U^T / k of the paper, so that both parts are equally long; "published" takes s = 1,
    as the public code of Ruan et al. does, where the subspace hardly counts.

    Args:
        key: of B problems.
        q: number of directions.
        subspace: (B, k, d) vectors that span the subspace. Vectors that are zero, or dependent on those before them,
            are left out; a problem with none of them left gets standard normal directions.
        alpha: share of the variance that stays isotropic.
        scaling: see above.

    Source: Maheswaranathan et al. (2019), "Guided evolutionary strategies", equation 3.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}; expected 0 .. 1")
    k, d = subspace.shape[1:]
    basis, used = _basis(subspace)
    isotropic = gaussian(key, q, subspace[:, 0])
    within = normal(key, (q, k), stream=1, dtype=subspace.dtype).to(subspace.device) * used.unsqueeze(1)
    rank = used.sum(1).clamp(min=1)
    stretch = (d / rank).sqrt() if scaling == "balanced" else torch.ones_like(rank)
    has_subspace = used.any(1)
    a = torch.where(has_subspace, alpha, 1.0)[:, None, None].to(subspace.dtype)
    return a.sqrt() * isotropic + (1 - a).sqrt() * stretch[:, None, None] * torch.bmm(within, basis)


def cached(count: int, numbers: int) -> Iterator[slice]:
    """Slices of 0 .. count - 1, so many at a time that tensors of ``numbers`` numbers each stay in the cache."""
    together = max(1, _CACHED // numbers)
    for start in range(0, count, together):
        yield slice(start, min(start + together, count))


def orthonormalise(vectors: Tensor, spare: Callable[[], Tensor]) -> Tensor:
    """Orthonormal rows (B, k, d) by Gram-Schmidt; those of ``spare()`` (B, k, d) replace dependent vectors.

    Rows that neither gives, as those beyond d have to be, are zero.
    """
    d = vectors.shape[2]
    vectors = aligned(vectors)
    rows = vectors[:, :0]
    instead: Tensor | None = None
    for index in range(vectors.shape[1]):
        chosen, real = _orthogonal(vectors[:, index : index + 1], rows)
        if not bool(real.all()):
            instead = aligned(spare()) if instead is None else instead
            other, there = _orthogonal(instead[:, index : index + 1], rows)
            chosen = torch.where(real, chosen, torch.where(there, other, 0.0))
            real = real | there
        length = torch.linalg.vector_norm(chosen, dim=2, keepdim=True)
        rows = torch.cat((rows, chosen / torch.where(real, length, 1.0)), dim=1)
    return rows[:, :, :d]


def _orthogonal(vector: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of vectors (B, 1, d) outside the span of orthonormal rows, and whether that is not just rounding."""
    rest = vector
    if rows.shape[1]:
        for _ in range(2):  # twice is enough: one pass leaves rounding errors in nearly dependent vectors
            rest = torch.baddbmm(rest, torch.bmm(rest, rows.transpose(1, 2)), rows, alpha=-1)
    before, after = (torch.linalg.vector_norm(v, dim=2, keepdim=True) for v in (vector, rest))
    return rest, after > 1e-5 * before


def complement(vectors: Tensor, basis: Tensor) -> Tensor:
    """Vectors (B, n, d) less their part in the span of orthonormal rows (B, k, d)."""
    wide, rows = aligned(vectors), aligned(basis)
    return torch.baddbmm(wide, torch.bmm(wide, rows.transpose(1, 2)), rows, alpha=-1)[:, :, : vectors.shape[2]]


def orthogonal_to(basis: Tensor, z: Tensor, std: Tensor) -> Tensor:
    r"""Directions \sigma z less their part in the span of a basis, of length sqrt(d) each, (B, n, d).

    Args:
        basis: (B, k, d) orthonormal rows.
        z: standard normal directions (B, n, d).
        std: sigma, square root of a diagonal covariance, (B, d).
    """
    rest = complement(reparameterise(z, std), basis)
    length: Tensor = torch.linalg.vector_norm(rest, dim=2, keepdim=True)
    return rest * (math.sqrt(z.shape[2]) / length.clamp(min=1e-12))


def _basis(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis (B, k, d) by Gram-Schmidt, and which of its rows are real (B, k); the others are zero."""
    rows: list[Tensor] = []
    used: list[Tensor] = []
    for vector in vectors.unbind(1):
        rest, real = _remainder(vector, rows)
        length = torch.where(real, rest.norm(dim=1, keepdim=True), 1.0)
        rows.append(torch.where(real, rest / length, 0.0))
        used.append(real.squeeze(1).to(vectors.dtype))
    return torch.stack(rows, 1), torch.stack(used, 1)


def _remainder(vector: Tensor, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What is left of a vector (B, d) outside the span of orthonormal rows, and whether that is more than rounding."""
    rest = vector
    for row in rows + rows:  # twice is enough: one pass leaves rounding errors in nearly dependent vectors
        rest = rest - (rest * row).sum(1, keepdim=True) * row
    before = vector.norm(dim=1, keepdim=True)
    return rest, rest.norm(dim=1, keepdim=True) > 1e-5 * before
