"""Meta-training: unrolls, meta-losses, schedules, checkpoints."""

from __future__ import annotations

from zoracle.metatrain.config import Family, Stage, TrainConfig, Validation, load, parse
from zoracle.metatrain.finetuning import FineTuning
from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.oracle import TrainingOracle, ValueKind
from zoracle.metatrain.trainer import Trainer, UnrollReport
from zoracle.metatrain.zoo import Member, trained

__all__ = [
    "Family",
    "FineTuning",
    "Member",
    "MetaLoss",
    "Stage",
    "TrainConfig",
    "Trainer",
    "TrainingOracle",
    "UnrollReport",
    "Validation",
    "ValueKind",
    "load",
    "parse",
    "trained",
]
