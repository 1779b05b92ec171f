"""The position of a training, and the file from which it continues to the same bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from zoracle.errors import CheckpointError
from zoracle.metatrain.config import TrainConfig
from zoracle.storage.files import read_tensors, write_tensors

CHECKPOINT = "training.safetensors"
FORMAT = "zoracle-training"

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """Progress of a training."""

    stage: int = 0
    unroll: int = 0
    """Unrolls done in this stage."""
    updates: int = 0
    """Updates done in this stage."""
    seconds: float = 0.0
    spent: dict[str, int] = field(default_factory=dict)
    """Points that were evaluated, and true gradients ("gradients"), counted one each, validation by itself."""
    validated: float = math.inf
    """The criterion of the weights that the last finished stage kept."""
    initial: float = math.inf
    """The criterion of the weights that training started from, where it did not start from fresh ones."""
    best: float = math.inf
    """The lowest criterion in this stage."""

    def count(self, what: str, number: int) -> None:
        """Add to the spent cost."""
        self.spent[what] = self.spent.get(what, 0) + number

    def next_stage(self) -> None:
        """Begin the next stage from the best weights of this one."""
        self.validated = self.best
        self.stage, self.unroll, self.updates, self.best = self.stage + 1, 0, 0, math.inf


@dataclass
class Kept:
    """The tensors of a training: weights, those that validated best, their running mean, and Adam's state."""

    weights: Weights
    best: Weights
    ema: Weights
    adam: dict[int, Weights]


def save(folder: Path, config: TrainConfig, progress: Progress, kept: Kept) -> None:
    """Write the checkpoint, whole or not at all."""
    tensors: Weights = {}
    for group in ("weights", "best", "ema"):
        tensors.update({f"{group}.{name}": tensor for name, tensor in getattr(kept, group).items()})
    for index, slots in kept.adam.items():
        tensors.update({f"adam.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()})
    metadata = {
        "format": FORMAT,
        "config": as_json(config),
        "stage": progress.stage,
        "unroll": progress.unroll,
        "updates": progress.updates,
        "seconds": progress.seconds,
        "spent": progress.spent,
        "validated": None if math.isinf(progress.validated) else progress.validated,
        "initial": None if math.isinf(progress.initial) else progress.initial,
        "best": None if math.isinf(progress.best) else progress.best,
    }
    write_tensors(folder / CHECKPOINT, tensors, metadata)


def read(folder: Path, config: TrainConfig) -> tuple[Progress, Kept] | None:
    """Load what :func:`save` wrote; None if there is no checkpoint.

    Raises:
        CheckpointError: the folder holds something else, or a training with another config.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    tensors, told = read_tensors(path)
    if told.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a training checkpoint")
    if told["config"] != as_json(config):
        raise CheckpointError(f"{folder} holds a training with another config; choose another folder")

    def group(name: str) -> Weights:
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    adam: dict[int, Weights] = {}
    for key, value in group("adam").items():
        index, slot = key.split(".")
        adam.setdefault(int(index), {})[slot] = value
    progress = Progress(
        stage=told["stage"],
        unroll=told["unroll"],
        updates=told["updates"],
        seconds=told["seconds"],
        spent=told.get("spent", {}),  # not in trainings that version 0.1.0 began
        validated=math.inf if told["validated"] is None else told["validated"],
        initial=math.inf if told.get("initial") is None else told["initial"],
        best=math.inf if told["best"] is None else told["best"],
    )
    return progress, Kept(group("weights"), group("best"), group("ema"), adam)


def as_json(config: TrainConfig) -> Any:
    """The config as it reads back from a file: lists where it has tuples, and no list of trainings that is empty."""
    told = msgspec.json.decode(msgspec.json.encode(config))
    return told if config.before else {name: value for name, value in told.items() if name != "before"}
