"""Estimators of gradients and of noise, as pure functions of values."""

from __future__ import annotations

from zoracle.estimators.gradient import (
    central_difference,
    central_points,
    combine,
    coordinatewise,
    coordinatewise_points,
    default_mu,
    forward_difference,
    forward_points,
    slopes,
    smallest_mu,
)

__all__ = [
    "central_difference",
    "central_points",
    "combine",
    "coordinatewise",
    "coordinatewise_points",
    "default_mu",
    "forward_difference",
    "forward_points",
    "slopes",
    "smallest_mu",
]
