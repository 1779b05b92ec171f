"""The file of a controller's weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from zoracle.errors import CheckpointError
from zoracle.finetune.controller import SIZE
from zoracle.storage.files import read_tensors

FORMAT = "zoracle-controller"
WEIGHTS = "controller.safetensors"


class Weights(NamedTuple):
    """The weights of a controller, (SIZE,) each."""

    general: Tensor
    kernels: Tensor
    """For networks of convolutions; the general ones where the file has no others."""


def load(path: Path) -> Weights:
    """The weights of a controller.

    Raises:
        CheckpointError: the file is not a controller of zoracle, or does not hold SIZE finite numbers.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT or "weights" not in tensors:
        raise CheckpointError(f"{path} is not a controller; expected a file written by the training of one")
    loaded = Weights(tensors["weights"], tensors.get("kernels", tensors["weights"]))
    for weights in loaded:
        if tuple(weights.shape) != (SIZE,) or not bool(weights.isfinite().all()):
            raise CheckpointError(
                f"{path} does not contain the weights of a controller; expected {SIZE} finite numbers"
            )
    return Weights(loaded.general.double(), loaded.kernels.double())
