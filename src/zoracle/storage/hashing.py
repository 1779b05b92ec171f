"""SHA-256 of tensors and files, by which a run detects changed inputs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor: type, shape and bytes."""
    digest = hashlib.sha256()
    feed(digest, tensor)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def raw(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The bytes of a tensor (N,) uint8, of any type and layout."""
    flat = tensor.detach().cpu().reshape(-1)
    # A single number may have any stride, and a view of its bytes needs 1.
    flat = flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy()


def feed(digest: Any, tensor: Tensor) -> None:
    """Add a tensor's type, shape and bytes to a hash."""
    array = tensor.detach().cpu().contiguous().numpy()
    digest.update(f"{array.dtype.str} {array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8))
