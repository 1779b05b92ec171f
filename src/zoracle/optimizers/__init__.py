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
from zoracle.optimizers.learned import spectrum
from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.optimizers.pretrained import PLAIN, Loaded, Use, load_optimizer, resolve, save_optimizer, shipped
from zoracle.optimizers.registry import REGISTRY, Entry, make

__all__ = [
    "PLAIN",
    "REGISTRY",
    "Config",
    "DescentOptimizer",
    "Entry",
    "FiniteDifferenceOptimizer",
    "GuidedLSTM",
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
    "spectrum",
    "with_directions",
    "with_settings",
]
