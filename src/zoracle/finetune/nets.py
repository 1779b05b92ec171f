"""Small networks and data for training and validating the controller, drawn by number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.tasks.digits import read_digits

_SPLITS = {"train": 0, "valid": 1}
Draws = Callable[[int, int], int]
"""From the lowest and the highest to an integer."""
_WHOLE = 256  # samples for measuring a run's first and last loss


class Net(NamedTuple):
    """A network with a training problem."""

    module: nn.Module
    inputs: Tensor
    labels: Tensor
    size: int
    """Of a batch."""

    def batch(self, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch."""
        chosen = torch.randint(len(self.labels), (self.size,), generator=g)
        return self.inputs[chosen], self.labels[chosen]

    def whole(self) -> tuple[Tensor, Tensor]:
        """The samples for measuring losses."""
        return self.inputs[:_WHOLE], self.labels[:_WHOLE]


class Attention(nn.Module):
    """One block of a transformer: attention of two heads and a feed-forward layer, each behind a norm."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.first(x)).view(n, t, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // 2)
        if self.causal:
            scores = scores + torch.full((t, t), -1e9).triu(1)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width)
        x = x + self.out(mixed)
        hidden: Tensor = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return hidden


class Reader(nn.Module):
    """A small transformer that classifies sequences of tokens."""

    def __init__(self, tokens: int, length: int, width: int, layers: int, classes: int, causal: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(Attention(width, causal) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        self.causal = causal

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, classes) of tokens (N, T)."""
        x = self.embedding(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, -1] if self.causal else x.mean(1))
        logits: Tensor = self.head(x)
        return logits


def problem(split: str, number: int, seed: int) -> Net:
    """A problem by number: a network of some kind and width, its data, and for two in three a pretraining.

    Pretrained networks are fine-tuned on the same inputs with some of the classes renamed.
    """
    g = keyed.generator(seed, 11, _SPLITS[split], number)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g, device="cpu"))

    kind, own = number % 4, keyed.generator(seed, 12, _SPLITS[split], number)
    if kind < 3:
        images, labels = read_digits()
        half = images[_SPLITS[split] :: 2].float() / 16, labels[_SPLITS[split] :: 2].long()
        inputs, classes = half[0].reshape(-1, 1, 8, 8), 10
        targets = half[1]
        module = _drawn(lambda: _mlp(draw) if kind == 0 else _cnn(draw) if kind == 1 else _mlp(draw, deep=True), own)
    else:
        tokens, length, classes = draw(8, 32), draw(8, 16), draw(2, 4)
        inputs = torch.randint(tokens, (1024, length), generator=g)
        # The class is the most frequent group of tokens.
        groups = torch.randint(classes, (tokens,), generator=g)
        targets = nn.functional.one_hot(groups[inputs], classes).sum(1).argmax(1)
        module = _drawn(lambda: Reader(tokens, length, 2 * draw(4, 16), draw(1, 2), classes, bool(draw(0, 1))), own)
    before = (0, 20, 80)[draw(0, 2)]
    order = torch.randperm(len(targets), generator=g)
    inputs, targets = inputs[order], targets[order]
    net = Net(module, inputs, targets, (16, 32, 64)[draw(0, 2)])
    _train(net, before, g)
    if before:
        moved = torch.arange(classes)
        moved[:3] = moved[:3].roll(1)
        net = net._replace(labels=moved[targets])
    return net


def _drawn(make: Callable[[], nn.Module], g: torch.Generator) -> nn.Module:
    """A network with torch's own initial weights, drawn from the given generator."""
    with torch.device("meta"):  # where making it draws nothing
        module = make()
    module = module.to_empty(device="cpu")
    layers = list(module.modules())
    if sum(isinstance(layer, nn.Linear) for layer in layers) == 3 and isinstance(module, nn.Sequential):
        # The hidden layer's weights first: the controller that ships was trained on networks drawn in this order.
        layers[2], layers[4] = layers[4], layers[2]
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=g)
            assert layer.bias is not None
            bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
            nn.init.uniform_(layer.bias, -bound, bound, generator=g)
        elif isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, generator=g)
            if isinstance(module, Reader):
                module.position.data.copy_(torch.randn(module.position.shape, generator=g) * 0.1)
    return module


def _mlp(draw: Draws, deep: bool = False) -> nn.Module:
    width = draw(8, 48)
    middle = [nn.Linear(width, width), nn.ReLU()] if deep else []
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.Tanh() if draw(0, 1) else nn.ReLU(), *middle, nn.Linear(width, 10)
    )


def _cnn(draw: Draws) -> nn.Module:
    a, b = draw(4, 12), draw(4, 16)
    return nn.Sequential(
        nn.Conv2d(1, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(a, b, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * b, 10),
    )  # fmt: skip


def _train(net: Net, steps: int, g: torch.Generator) -> None:
    """With gradients, before the run."""
    adam = torch.optim.Adam(net.module.parameters(), 3e-3)
    for _ in range(steps):
        inputs, labels = net.batch(g)
        adam.zero_grad()
        nn.functional.cross_entropy(net.module(inputs), labels).backward()  # type: ignore[no-untyped-call]
        adam.step()
    net.module.requires_grad_(False)
