"""Optimizers on the device of the points."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

from zoracle.optimizers.base import OptimizerT


def on_device(optimizer: OptimizerT, device: torch.device) -> OptimizerT:
    """The optimizer with its weights on a device: itself where they are there already, or it has none."""
    given: Any = optimizer
    if isinstance(given, nn.Module):  # a learned one
        return cast(OptimizerT, _moved(given, device))
    parts = {name: part for name, part in vars(given).items() if isinstance(part, nn.Module)}
    if all(_moved(part, device) is part for part in parts.values()):
        return optimizer
    there = copy.copy(optimizer)
    there.__dict__.update({name: _moved(part, device) for name, part in parts.items()})
    return there


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    if all(p.device == device for p in module.parameters()):
        return module
    return copy.deepcopy(module).to(device)
