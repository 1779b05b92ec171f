"""What quasi-Newton steps are made of: the product with the inverse Hessian, and parabolas through a line search."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-37  # a float32 that is not zero


def parabola(t: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least squares by a + b t + c t^2 over [0, 1]: the lowest value of the fit, where it is, and a, (B,) each.

    Where the parabola has no minimum within, the end that is lower; NaN where too few values are known.
    """
    known = values.isfinite()
    weight = known.to(torch.float64)
    t, y = t.double(), torch.where(known, values, 0.0).double()
    design = torch.stack((torch.ones_like(t), t, t.square()), 2) * weight.unsqueeze(2)
    normal = design.transpose(1, 2) @ design + 1e-12 * torch.eye(3, dtype=torch.float64, device=t.device)
    a, b, c = torch.linalg.solve(normal, (design.transpose(1, 2) @ (y * weight).unsqueeze(2))).squeeze(2).unbind(1)
    inner = torch.where(c > 0, (-b / (2 * c.clamp(min=_TINY))).clamp(0, 1), torch.where(b + c < 0, 1.0, 0.0))
    low = a + b * inner + c * inner.square()
    enough = known.sum(1) >= 4
    return torch.where(enough, low, torch.nan).to(values.dtype), inner.to(values.dtype), a.to(values.dtype)


def vertex(t: Tensor, values: Tensor) -> Tensor:
    """Where the parabola through three points (B, 3) is lowest, (B,); NaN where it has no minimum."""
    (t0, t1, t2), (f0, f1, f2) = t.unbind(1), values.unbind(1)
    left, right = (f1 - f0) / (t1 - t0), (f2 - f1) / (t2 - t1)
    bend = (right - left) / (t2 - t0)
    at = (t0 + t1) / 2 - left / (2 * bend)
    return torch.where(bend > 0, at, torch.nan).clamp(t0, t2)


def two_loop(gradient: Tensor, steps: Tensor, changes: Tensor, first: Tensor, has: Tensor) -> Tensor:
    """The inverse Hessian's approximation times a gradient.

    Args:
        gradient: (B, d).
        steps: (B, M, d) s_k, the newest last; zero where there is none.
        changes: (B, M, d) y_k, those of the gradient.
        first: (B,) the multiple of the identity that it starts from where there is no pair; s^T y / y^T y of the newest
            pair elsewhere.
        has: (B,) whether there is a pair.

    Returns:
        (B, d).

    Source: Nocedal (1980); Nocedal and Wright (2006), algorithm 7.4.
    """
    q = gradient
    curve = (steps * changes).sum(2)
    rho = torch.where(curve > 0, 1 / curve.clamp(min=_TINY), 0.0)
    alphas = []
    memory = steps.shape[1]
    for i in reversed(range(memory)):
        alpha = rho[:, i] * (steps[:, i] * q).sum(1)
        q = q - alpha.unsqueeze(1) * changes[:, i]
        alphas.append(alpha)
    scale = first
    if memory:
        newest = curve[:, -1] / changes[:, -1].square().sum(1).clamp(min=_TINY)
        scale = torch.where(has, newest, first)
    q = q * scale.unsqueeze(1)
    for i, alpha in zip(range(memory), reversed(alphas), strict=True):
        beta = rho[:, i] * (changes[:, i] * q).sum(1)
        q = q + (alpha - beta).unsqueeze(1) * steps[:, i]
    return q
