"""SHA-256 of tensors, by which a run notices that it is given others."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from torch import Tensor


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor: type, shape and bytes."""
    digest = hashlib.sha256()
    feed(digest, tensor)
    return digest.hexdigest()


def feed(digest: Any, tensor: Tensor) -> None:
    """Add a tensor's type, shape and bytes to a hash."""
    array = tensor.detach().cpu().contiguous().numpy()
    digest.update(f"{array.dtype.str} {array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8))
