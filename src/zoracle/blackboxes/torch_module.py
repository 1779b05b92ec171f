"""A torch module as a black box."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoracle.blackboxes.base import BlackBox
from zoracle.errors import BlackBoxError, InputError
from zoracle.frameworks import one_line

Channels = float | Sequence[float]


class TorchModule(BlackBox):
    r"""A torch module, called in eval mode: y = module((x - mean) / std).

    The module is left as it was found: training flags are restored after each call, its parameters collect no
    gradients, and where another device or dtype is asked for, a copy is moved instead. Autograd passes to the inputs
    wherever grad mode is on.

    Args:
        module: takes inputs (N, ...) and returns outputs (N, classes).
        device: where the module is called; None leaves it where its parameters are.
        preprocess: mean and std that inputs are normalised by, a number or one a channel (inputs (N, C, ...)).
        dtype: what the module computes in; None keeps the type of its parameters.

    Raises:
        InputError: not a module, or the normalisation is unusable.
    """

    differentiable = True

    def __init__(
        self,
        module: nn.Module,
        *,
        device: torch.device | str | None = None,
        preprocess: tuple[Channels, Channels] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(f"module is a {type(module).__name__}; expected a torch.nn.Module")
        own_device, own_dtype = _placement(module)
        self.device = own_device if device is None else torch.device(device)
        self.dtype = own_dtype if dtype is None else dtype
        if self._moves(own_device, own_dtype):
            module = copy.deepcopy(module).to(device=self.device, dtype=self.dtype)
        self.module = module
        self._preprocess = None if preprocess is None else tuple(_channels(values) for values in preprocess)
        if self._preprocess is not None and (len(self._preprocess) != 2 or bool((self._preprocess[1] == 0).any())):
            raise InputError(f"preprocess is {preprocess!r}; expected (mean, std) with no std of zero")

    def _moves(self, device: torch.device | None, dtype: torch.dtype | None) -> bool:
        return device is not None and (device, dtype) != (self.device, self.dtype)

    def _call(self, inputs: Tensor) -> Tensor:
        x = inputs.to(device=self.device or inputs.device, dtype=self.dtype or inputs.dtype)
        if self._preprocess is not None:
            mean, std = (_broadcast(values, x) for values in self._preprocess)
            x = (x - mean).div_(std)
        try:
            with _undisturbed(self.module):
                outputs = self.module(x)
        except Exception as error:
            raise BlackBoxError(f"the model raised {one_line(error)}") from error
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


def _channels(values: Channels) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _broadcast(values: Tensor, like: Tensor) -> Tensor:
    values = values.to(like)
    if values.ndim == 0:
        return values
    if like.ndim < 2 or like.shape[1] != values.shape[0]:
        raise BlackBoxError(
            f"preprocess has {values.shape[0]} channels, and the inputs have shape {tuple(like.shape)}; "
            "expected one number a channel"
        )
    return values.view(-1, *[1] * (like.ndim - 2))
