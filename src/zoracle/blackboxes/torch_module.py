"""A torch module as a black box."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoracle.blackboxes.base import BlackBox, Outputs
from zoracle.blackboxes.preprocessing import Channels, Layout, Preprocessing
from zoracle.errors import BlackBoxError, InputError, failure, one_line


class TorchModule(BlackBox):
    r"""A torch module, called in eval mode: y = module((x - mean) / std).

    The module is left as it was found: training flags are restored after each call, its parameters collect no
    gradients, and where another device or dtype is asked for, a copy is moved instead. Autograd passes to the inputs
    wherever grad mode is on.

    Args:
        module: takes inputs (N, ...) and returns outputs (N, classes).
        device: where the module is called; None leaves it where its parameters are.
        preprocess: mean and std that inputs are normalised by, a number or one per channel (inputs (N, C, ...)).
        layout: what the module takes: "NCHW", "NHWC" or "flat".
        pixel_max: the module's value for a pixel of 1: 1 or 255; mean and std are in its units.
        dtype: what the module computes in; None keeps the type of its parameters.
        outputs: what it returns.

    Raises:
        InputError: not a module, no such device, or a setting is unusable.
    """

    differentiable = True

    def __init__(
        self,
        module: nn.Module,
        *,
        device: torch.device | str | None = None,
        preprocess: tuple[Channels, Channels] | None = None,
        layout: Layout = "NCHW",
        pixel_max: float = 1.0,
        dtype: torch.dtype | None = None,
        outputs: Outputs = "auto",
    ) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(f"module is a {type(module).__name__}; expected a torch.nn.Module")
        self.preprocessing = Preprocessing(preprocess, layout, pixel_max)
        self.outputs = outputs
        own_device, own_dtype = _placement(module)
        self.device = own_device if device is None else _device(device)
        self.dtype = own_dtype if dtype is None else dtype
        if self._moves(own_device, own_dtype):
            try:
                module = copy.deepcopy(module).to(device=self.device, dtype=self.dtype)
            except (RuntimeError, AssertionError) as error:
                raise InputError(
                    f"the module cannot be moved to {self.device} ({one_line(error)}); choose another device"
                ) from error
        self.module = module

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise an error if the settings do not fit inputs of this shape (without N)."""
        self.preprocessing.shape(shape)

    def _moves(self, device: torch.device | None, dtype: torch.dtype | None) -> bool:
        return device is not None and (device, dtype) != (self.device, self.dtype)

    def _call(self, inputs: Tensor) -> Tensor:
        x = inputs.to(device=self.device or inputs.device, dtype=self.dtype or inputs.dtype)
        x = self.preprocessing(x)
        try:
            with _undisturbed(self.module):
                outputs = self.module(x)
        except BaseException as error:
            raise BlackBoxError(f"the model raised {failure(error)}") from error
        if not isinstance(outputs, Tensor):
            raise BlackBoxError(f"the model returned a {type(outputs).__name__}; expected a tensor (N, classes)")
        return outputs.to(device=inputs.device, dtype=inputs.dtype)


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Eval mode and no graph to the parameters, both undone afterwards."""
    training = [part for part in module.modules() if part.training]
    trainable = [p for p in module.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
    try:
        for part in training:
            part.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        # The graph built meanwhile keeps no edge to the parameters, whatever their flag says from now on.
        for part in training:
            part.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def _placement(module: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return None, None


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device is {device!r}; expected cpu, cuda, cuda:1, ...") from None
