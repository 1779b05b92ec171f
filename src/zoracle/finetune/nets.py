"""Small networks and data for training and validating the controller, drawn by number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.finetune import languages
from zoracle.finetune.languages import Attention, Draws
from zoracle.tasks.digits import read_digits

_SPLITS = {"train": 0, "valid": 1}
#: Number of kinds that take turns: three on images, transformers on sequences, language models whole and by adapters.
TURNS = 6
#: Number of all kinds: the last is a CNN without pooling.
KINDS = 7
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


def problem(split: str, number: int, seed: int, kind: int | None = None) -> Net:
    """A problem by number: a network of some kind and width, its data, and for two in three a pretraining.

    Pretrained networks are fine-tuned on the same inputs with some of the classes renamed; language models, which are
    pretrained on text, on telling languages apart. Only parameters that require gradients are to move. Kinds take turns
    by number, unless one is given.
    """
    g = keyed.generator(seed, 11, _SPLITS[split], number)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g, device="cpu"))

    kind = number % TURNS if kind is None else kind
    own = keyed.generator(seed, 12, _SPLITS[split], number)
    if kind in (4, 5):
        speaker, texts, languages_of = languages.drawn(draw, own)
        if kind == 5:
            languages.adapt(speaker, 2 ** draw(0, 3), own)
        return Net(speaker, texts, languages_of, (8, 16, 32)[draw(0, 2)])
    if kind != 3:
        images, labels = read_digits()
        half = images[_SPLITS[split] :: 2].float() / 16, labels[_SPLITS[split] :: 2].long()
        inputs, classes = half[0].reshape(-1, 1, 8, 8), 10
        targets = half[1]
        made = {0: _mlp, 1: _cnn, 2: lambda draw: _mlp(draw, deep=True), 6: _strided}[kind]
        module = _drawn(lambda: made(draw), own)
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
    for layer in module.modules():
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
    width = round(8 * 24 ** (draw(0, 100) / 100))  # the tasks of users are wider, so some are wide
    middle = [nn.Linear(width, width), nn.ReLU()] if deep else []
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.Tanh() if draw(0, 1) else nn.ReLU(), *middle, nn.Linear(width, 10)
    )


def _cnn(draw: Draws) -> nn.Module:
    a, b = draw(4, 12), draw(4, 24)
    return nn.Sequential(
        nn.Conv2d(1, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(a, b, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * b, 10),
    )  # fmt: skip


def _strided(draw: Draws) -> nn.Module:
    a, b, c = draw(4, 16), draw(4, 16), draw(8, 32)
    return nn.Sequential(
        nn.Conv2d(1, a, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(a, b, 3, padding=1), nn.ReLU(),
        nn.Conv2d(b, c, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * c, 10),
    )  # fmt: skip


def _train(net: Net, steps: int, g: torch.Generator) -> None:
    """With gradients, before the run."""
    adam = torch.optim.Adam(net.module.parameters(), 3e-3)
    for _ in range(steps):
        inputs, labels = net.batch(g)
        adam.zero_grad()
        nn.functional.cross_entropy(net.module(inputs), labels).backward()  # type: ignore[no-untyped-call]
        adam.step()
