"""Several optimizers on the same problems: entries, tuning, and their common run folder."""

from __future__ import annotations

from zoracle.comparison.compare import Comparison, Output, compare
from zoracle.comparison.ensemble import Ensemble
from zoracle.comparison.entries import OnProgress, Tuning, folder, sentence
from zoracle.comparison.named import load_named_optimizers, use_of
from zoracle.comparison.progress import Display, shown
from zoracle.comparison.rivals import Call, Minimiser
from zoracle.comparison.tune import GRIDS, Axis, Criterion, tunable, tune, untouched

__all__ = [
    "GRIDS",
    "Axis",
    "Call",
    "Comparison",
    "Criterion",
    "Display",
    "Ensemble",
    "Minimiser",
    "OnProgress",
    "Output",
    "Tuning",
    "compare",
    "folder",
    "load_named_optimizers",
    "sentence",
    "shown",
    "tunable",
    "tune",
    "untouched",
    "use_of",
]
