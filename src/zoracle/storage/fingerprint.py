"""The ingredients of a run as JSON values, sufficient to detect that a checkpoint belongs to another run."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from zoracle import __version__
from zoracle.storage.code import source_of
from zoracle.storage.hashing import feed

#: Packages that may compute numbers, by the module that is loaded if they do.
_OPTIONAL = {
    "onnxruntime": "onnxruntime",
    "cma": "cma",
    "evosax": "evosax",
    "jax": "jax",
    "scipy": "scipy",
    "nevergrad": "nevergrad",
}


def optimizer_config(optimizer: Any) -> dict[str, Any]:
    """Class, settings, and the SHA-256 of the weights, if any."""
    described = {"class": type(optimizer).__name__, "settings": optimizer.settings()}
    if (source := source_of(type(optimizer))) is not None:
        described["source_sha256"] = source
    if isinstance(optimizer, nn.Module):
        described["weights_sha256"] = weights_hash(optimizer)
    return described


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + b" ")
        feed(digest, tensor)
    return digest.hexdigest()


def differences(there: Any, asked: Any, name: str = "") -> list[str]:
    """Where two trees of JSON values differ, one entry a leaf: ``optimizers.0.lr: 0.1 there, 0.2 asked``."""
    if isinstance(there, dict) and isinstance(asked, dict):
        found = []
        for key in {**asked, **there}:
            found += differences(there.get(key), asked.get(key), f"{name}.{key}" if name else str(key))
        return found
    if _records(there) and _records(asked) and len(there) == len(asked):
        pairs = enumerate(zip(there, asked, strict=True))
        return [told for i, (one, other) in pairs for told in differences(one, other, f"{name}.{i}")]
    if there == asked:
        return []
    one, other = _apart(str(there), str(asked))
    return [f"{name}: {one} there, {other} asked"]


def ids_hash(ids: Sequence[int]) -> str:
    """SHA-256 of a list of ids, order included."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def config_hash(config: Any) -> str:
    """SHA-256 of JSON values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, allow_nan=False).encode()).hexdigest()


def release_series() -> str:
    """The first release of the series that this one belongs to, 0.1.0 of 0.1.3.

    It represents the version in the identity of a run: a patch release can resume runs of the one before it.
    """
    major, minor = __version__.split(".")[:2]
    return f"{major}.{minor}.0"


def versions() -> dict[str, str]:
    """The software that computed the numbers, with loaded optional packages. No host name, user name or path."""
    loaded = {name: version(package) for name, package in _OPTIONAL.items() if name in sys.modules}
    return {
        "zoracle": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        **loaded,
    }


def _records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


#: Maximum number of characters shown of a value.
_SHOWN = 24


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two texts; long ones are shortened to a part in which they differ."""
    first = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    begin = max(0, first - _SHOWN // 2) if max(len(one), len(other)) > _SHOWN else 0
    return _cut(one, begin), _cut(other, begin)


def _cut(text: str, begin: int) -> str:
    part = text[begin : begin + _SHOWN]
    return f"{'...' if begin else ''}{part}{'...' if begin + _SHOWN < len(text) else ''}"
