"""The shipped scale-free ZO-LSTM for problems of any kind, for use as a member of other optimizers."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.storage.files import read_tensors

NAME = "zo-lstm-universal"


@cache
def universal() -> GuidedLSTM:
    """The optimizer with its shipped settings. The instance is shared, so callers must not change its weights."""
    with as_file(files("zoracle") / "assets" / "optimizers" / NAME / "optimizer.safetensors") as path:
        tensors, metadata = read_tensors(path)
    made = GuidedLSTM(**metadata["config"])
    made.load_state_dict(tensors)
    return made
