"""The target networks of the image tasks. They hold no randomness: weights come from a file, or from training."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zoracle.errors import CheckpointError


class MNISTNet(nn.Module):
    """The convolutional network of the paper's MNIST attack, (N, 1, 28, 28) to log-probabilities (N, 10).

    Inputs are normalised by mean 0.1307 and std 0.3081.

    References:
        The public code of Ruan et al., 2020; the same architecture as in Ilyas et al. and others before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, 10) of normalised images (N, 1, 28, 28)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return F.log_softmax(self.fc2(x), dim=1)


class DigitsNet(nn.Module):
    """A small network for 8x8 digits, (N, 1, 8, 8) in [0, 1] to logits (N, 10); 6,090 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 8, 8)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        out: Tensor = self.fc(x.flatten(1))
        return out


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR-10 with parameter-free shortcuts (option A), (N, 3, 32, 32) to logits (N, 10).

    Deeper ones of its family are subclasses with more blocks a stage.

    Inputs are normalised by mean .485 .456 .406 and std .229 .224 .225.

    References:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """

    blocks: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, self.blocks)
        self.layer2 = _stage(16, 32, 2, self.blocks)
        self.layer3 = _stage(32, 64, 2, self.blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of normalised images (N, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


class ResNet8(ResNet20):
    """ResNet-8 of the same family."""

    blocks = 1


class ResNet32(ResNet20):
    """ResNet-32 of the same family."""

    blocks = 5


class ResNet44(ResNet20):
    """ResNet-44 of the same family."""

    blocks = 7


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (channels_out - channels_in) // 2
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.padding:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + shortcut)


def _stage(channels_in: int, channels_out: int, stride: int, blocks: int) -> nn.Sequential:
    further = (_Block(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(channels_in, channels_out, stride), *further)


def build(network: type[nn.Module]) -> nn.Module:
    """A network with empty weights: nothing is drawn from torch's global generator."""
    with torch.device("meta"):
        module = network()
    return module.to_empty(device="cpu").eval()


def load_network(
    network: type[nn.Module],
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """A network with the weights of a safetensors file, in eval mode and without gradients.

    Raises:
        CheckpointError: the file is missing, truncated, or holds other weights.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); expected a safetensors file") from error
    module = build(network)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    # How many batches a BatchNorm has averaged over is of no use in eval mode, and exporters leave it out.
    wanted = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name in wanted or name not in shapes}
    if given != wanted:
        name = min(k for k in wanted.keys() | given.keys() if wanted.get(k) != given.get(k))
        raise CheckpointError(
            f"{path} is not a {network.__name__}: {name} is {given.get(name, 'missing')}; "
            f"expected {wanted.get(name, 'no such tensor')}"
        )
    module.load_state_dict(tensors, strict=False)
    module = module.to(device=device, dtype=dtype)
    if dtype == torch.float32:
        # The paper's MNIST network answers twice as fast on a CPU; in float64 there are no kernels for it.
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module.eval().requires_grad_(False)
