"""Models that can only be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from zoracle.blackboxes.base import BlackBox
from zoracle.blackboxes.function import PythonFunction, load_callable
from zoracle.blackboxes.onnx import OnnxModel
from zoracle.blackboxes.open_inference import OpenInference
from zoracle.blackboxes.targets import open_target
from zoracle.blackboxes.topk import TopK
from zoracle.blackboxes.torch_module import TorchModule
from zoracle.errors import InputError

__all__ = [
    "BlackBox",
    "OnnxModel",
    "OpenInference",
    "PythonFunction",
    "TopK",
    "TorchModule",
    "as_black_box",
    "load_callable",
    "open_target",
]


def as_black_box(model: BlackBox | nn.Module | Callable[..., Any]) -> BlackBox:
    """A black box from a black box, a torch module, or any callable.

    Raises:
        InputError: it cannot be called.
    """
    if isinstance(model, BlackBox):
        return model
    if isinstance(model, nn.Module):
        return TorchModule(model)
    if callable(model):
        return PythonFunction(model)
    raise InputError(f"model is a {type(model).__name__}; expected a torch module, a callable, or a BlackBox")
