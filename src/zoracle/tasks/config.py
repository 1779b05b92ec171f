"""A task as JSON values: enough to notice that a run belongs to another one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from zoracle.objectives.threat import ThreatModel
from zoracle.storage.code import source_of
from zoracle.tasks.base import Task


def task_config(task: Task) -> dict[str, Any]:
    """Name and dimension, every plain setting that the task keeps as a public attribute, and the hashes of its files.

    Files, such as the target network's weights, are identified by SHA-256: paths differ between machines.
    """
    described: dict[str, Any] = {}
    for name, value in sorted(vars(task).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, Path) and value.is_file():
            described[f"{name}_sha256"] = hashlib.sha256(value.read_bytes()).hexdigest()
        elif isinstance(value, ThreatModel):
            told = msgspec.to_builtins(value)
            described |= {key: leaf for key, leaf in told.items() if key != "bits" or leaf is not None}
        elif value is None or isinstance(value, bool | int | float | str):
            described[name] = value
    if (source := source_of(type(task))) is not None:
        described["source_sha256"] = source
    return {**described, "name": task.name, "dim": task.dim}
