"""What a run was made of, as JSON values: enough to repeat it, and to notice that another one is asked for."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoracle import __version__
from zoracle.fingerprint import optimizer_config, weights_hash
from zoracle.tasks.base import Task

__all__ = ["config_hash", "ids_hash", "optimizer_config", "task_config", "versions", "weights_hash"]


def task_config(task: Task) -> dict[str, Any]:
    """Name and dimension, every plain setting that the task keeps as a public attribute, and the hashes of its files.

    A file, the target network's weights say, is told by its SHA-256: its path means nothing on another machine.
    """
    described: dict[str, Any] = {}
    for name, value in sorted(vars(task).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, Path) and value.is_file():
            described[f"{name}_sha256"] = hashlib.sha256(value.read_bytes()).hexdigest()
        elif value is None or isinstance(value, bool | int | float | str):
            described[name] = value
    return {**described, "name": task.name, "dim": task.dim}


def ids_hash(ids: Sequence[int]) -> str:
    """SHA-256 of a list of ids, order included."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def config_hash(config: Any) -> str:
    """SHA-256 of JSON values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, allow_nan=False).encode()).hexdigest()


def versions() -> dict[str, str]:
    """What computed the numbers. No host name, no user name, no path."""
    return {
        "zoracle": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }
