r"""Gradient estimates: pure functions from values and directions to a gradient (B, d).

Values that are NaN are left out, and the mean is taken over the rest; where none is left the estimate is zero.
With directions of covariance \Sigma every estimate here has the mean \Sigma \nabla f + O(\mu).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoracle.errors import InputError


def forward_difference(
    values: Tensor, directions: Tensor, mu: float | Tensor, control_variate: bool | Tensor = False
) -> Tensor:
    r"""Forward-difference estimate from q + 1 values.

    \hat\nabla f = \frac{1}{q} \sum_i \frac{f(x + \mu u_i) - f(x)}{\mu} u_i

    With ``control_variate`` the mean of the q differences is subtracted from each of them, and the sum is divided
    by q - 1 instead, which keeps the mean: what all differences have in common, as the kink of an l1 term has,
    carries no information and only adds noise along the mean direction.

    Args:
        values: (B, q + 1), f(x) first.
        directions: (B, q, d), u.
        mu: smoothing radius, a number or (B,).
        control_variate: see above; needs at least two directions. A tensor (B,) of bool says it row by row.

    Returns:
        (B, d). Gradients flow through ``directions`` only: the values are detached.

    Raises:
        InputError: the shapes do not belong together.

    Source: Ghadimi and Lan (2013); Ruan et al. (2020), equation 2.
    """
    _check(values, directions, directions.shape[1] + 1)
    differences = slopes(values, mu)
    known = differences.isfinite()
    differences = torch.where(known, differences, 0.0)
    count = known.sum(1, keepdim=True)
    if directions.shape[1] > 1 and (isinstance(control_variate, Tensor) or control_variate):
        enough = count > 1
        if isinstance(control_variate, Tensor):
            enough = enough & control_variate.unsqueeze(1)
        mean = differences.sum(1, keepdim=True) / count.clamp(min=1)
        differences = torch.where(known & enough, differences - mean, differences)
        count = torch.where(enough, count - 1, count)
    return combine(differences / count.clamp(min=1), directions)


def forward_points(x: Tensor, directions: Tensor, mu: Tensor, out: Tensor | None = None) -> Tensor:
    r"""The points of a forward difference, x and then x + \mu u_i: (B, q + 1, d), with the graph of the directions.

    Args:
        x: (B, d).
        directions: (B, q, d), u.
        mu: smoothing radius (B,).
        out: where they are written, where no graph is kept.
    """
    base, mu = x.unsqueeze(1), mu[:, None, None]
    if torch.is_grad_enabled() and directions.requires_grad:
        return torch.cat((base, base + mu * directions), dim=1)
    points = x.new_empty((x.shape[0], directions.shape[1] + 1, x.shape[1])) if out is None else out
    points[:, 0] = x
    torch.addcmul(base, directions, mu, out=points[:, 1:])
    return points


def central_points(x: Tensor, directions: Tensor, mu: Tensor) -> Tensor:
    r"""The points of a central difference, x + \mu u_1, x - \mu u_1, x + \mu u_2, ...: (B, 2q, d).

    Args:
        x: (B, d).
        directions: (B, q, d), u.
        mu: smoothing radius (B,).
    """
    b, q, d = directions.shape
    points = x.new_empty((b, q, 2, d))
    for side, sign in ((0, 1.0), (1, -1.0)):
        torch.addcmul(x.unsqueeze(1), directions, mu[:, None, None], value=sign, out=points[:, :, side])
    return points.flatten(1, 2)


def slopes(values: Tensor, mu: float | Tensor) -> Tensor:
    r"""(f(x + \mu u_i) - f(x)) / \mu from values (B, q + 1), f(x) first: (B, q), detached."""
    values = values.detach()
    return (values[:, 1:] - values[:, :1]) / _column(mu, values)


def central_difference(values: Tensor, directions: Tensor, mu: float | Tensor) -> Tensor:
    r"""Central-difference estimate from q antithetic pairs: 2q values and no base.

    \hat\nabla f = \frac{1}{q} \sum_i \frac{f(x + \mu u_i) - f(x - \mu u_i)}{2 \mu} u_i

    Args:
        values: (B, 2q), f(x + mu u_1), f(x - mu u_1), f(x + mu u_2), ...
        directions: (B, q, d).
        mu: smoothing radius, a number or (B,).

    Raises:
        InputError: the shapes do not belong together.

    Source: Nesterov and Spokoiny (2017), section 3; Salimans et al. (2017) for the pairs.
    """
    _check(values, directions, 2 * directions.shape[1])
    pairs = values.detach().reshape(values.shape[0], -1, 2)
    differences = (pairs[..., 0] - pairs[..., 1]) / (2 * _column(mu, values))
    known = differences.isfinite()
    count = known.sum(1, keepdim=True).clamp(min=1)
    return combine(torch.where(known, differences, 0.0) / count, directions)


def coordinatewise_points(x: Tensor, mu: float, start: int = 0, stop: int | None = None) -> Tensor:
    r"""Points x + \mu e_i and x - \mu e_i for i = start .. stop - 1, alternating: (B, 2 (stop - start), d)."""
    d = x.shape[1]
    stop = d if stop is None else stop
    offsets = torch.zeros((stop - start, d), dtype=x.dtype, device=x.device)
    rows = torch.arange(stop - start, device=x.device)
    offsets[rows, rows + start] = mu
    return torch.stack((x.unsqueeze(1) + offsets, x.unsqueeze(1) - offsets), dim=2).flatten(1, 2)


def coordinatewise(values: Tensor, mu: float) -> Tensor:
    r"""Gradient coordinate by coordinate, (f(x + \mu e_i) - f(x - \mu e_i)) / (2 \mu).

    Args:
        values: (B, 2k), in the order of :func:`coordinatewise_points`.
        mu: smoothing radius.

    Returns:
        (B, k). A coordinate with a NaN value gets zero.

    Source: Kiefer and Wolfowitz (1952); Lian et al. (2016).
    """
    pairs = values.detach().reshape(values.shape[0], -1, 2)
    slope = (pairs[..., 0] - pairs[..., 1]) / (2 * mu)
    return torch.where(slope.isfinite(), slope, 0.0)


def aligned(rows: Tensor) -> Tensor:
    """Rows (B, n, d) with zeros up to a multiple of 16 numbers: the last bits of a product depend on how they lie."""
    extra = -rows.shape[2] % 16
    return functional.pad(rows, (0, extra)) if extra else rows


def combine(weights: Tensor, directions: Tensor) -> Tensor:
    """The weighted sum of directions: (B, q), (B, q, d) -> (B, d). The same for a problem alone and in a batch."""
    _, q, d = directions.shape
    # On some processors the last bits depend on where in memory the first direction of a problem begins.
    padded = aligned(directions) if q * d % 16 else directions
    return torch.bmm(weights.to(directions.dtype).unsqueeze(1), padded).squeeze(1)[:, :d].contiguous()


def default_mu(dtype: torch.dtype, scale: float = 1.0) -> float:
    r"""The default smoothing radius, scale \sqrt{\epsilon} / 30.

    sqrt(epsilon) balances truncation against rounding for a smooth function; a thirtieth of it keeps off the kinks
    that attack losses have at the starting point and at the pixel bounds. 1.2e-5 in float32 at scale 1.
    """
    return scale * math.sqrt(torch.finfo(dtype).eps) / 30


def smallest_mu(dtype: torch.dtype, scale: float = 1.0) -> float:
    """Below this smoothing radius differences are mostly rounding: 3e-6 in float32 at scale 1."""
    return scale * math.sqrt(torch.finfo(dtype).eps) / 115


def _column(mu: float | Tensor, values: Tensor) -> float | Tensor:
    return mu.to(values).unsqueeze(1) if isinstance(mu, Tensor) else mu


def _check(values: Tensor, directions: Tensor, expected: int) -> None:
    if values.ndim != 2 or directions.ndim != 3 or values.shape != (directions.shape[0], expected):
        raise InputError(
            f"values {tuple(values.shape)} and directions {tuple(directions.shape)} do not belong together; "
            f"expected values ({directions.shape[0]}, {expected})"
        )
