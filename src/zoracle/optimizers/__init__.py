"""Optimizers: everything that implements ``init``, ``ask`` and ``tell``."""

from __future__ import annotations

from zoracle.optimizers.base import (
    Config,
    Optimizer,
    Positive,
    SamplingConfig,
    Share,
    Start,
    directions_of,
    with_directions,
    with_settings,
)
from zoracle.optimizers.finite_difference import DescentOptimizer, FiniteDifferenceOptimizer
from zoracle.optimizers.pretrained import PLAIN, Loaded, Use, load_optimizer, resolve, save_optimizer, shipped
from zoracle.optimizers.registry import REGISTRY, Entry, make

__all__ = [
    "PLAIN",
    "REGISTRY",
    "Config",
    "DescentOptimizer",
    "Entry",
    "FiniteDifferenceOptimizer",
    "Loaded",
    "Optimizer",
    "Positive",
    "SamplingConfig",
    "Share",
    "Start",
    "Use",
    "directions_of",
    "load_optimizer",
    "make",
    "resolve",
    "save_optimizer",
    "shipped",
    "with_directions",
    "with_settings",
]
