"""Meta-training: unrolls, meta-losses, schedules, checkpoints."""

from __future__ import annotations

from zoracle.metatrain.config import Family, Stage, TrainConfig, Validation, load, parse
from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.oracle import TrainingOracle, ValueKind
from zoracle.metatrain.trainer import Report, Trainer

__all__ = [
    "Family",
    "MetaLoss",
    "Report",
    "Stage",
    "TrainConfig",
    "Trainer",
    "TrainingOracle",
    "Validation",
    "ValueKind",
    "load",
    "parse",
]
