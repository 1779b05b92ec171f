"""The four fine-tuning tasks, each a network with initial weights, data and accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.experiments.finetuning.networks import ByteTransformer, Classifier, Prompted, adapt, cnn, draw
from zoracle.experiments.finetuning.text import BYTES_OF_PROMPT, LENGTH, PROMPT, TOPICS, corpus, prose_or_code, topics
from zoracle.tasks import task

TASKS = ("digits", "causal", "encoder", "lora")
_MASK = 0  # the byte that replaces a masked one; texts do not contain it


class Sizes(NamedTuple):
    """Sizes of networks, data and pretraining."""

    width: int
    layers: int
    train: int
    valid: int
    test: int
    pretraining: int
    """Steps."""


class Data(NamedTuple):
    """Inputs (N, ...) and labels (N,)."""

    inputs: Tensor
    labels: Tensor


class Problem(NamedTuple):
    """A network with the weights at the start of fine-tuning, and its data."""

    module: nn.Module
    train: Data
    valid: Data
    test: Data
    batch: int

    def accuracy(self, data: Data) -> float:
        """The network with its current weights."""
        return score(self.module, data)[0]

    def drawn(self, g: torch.Generator) -> Data:
        """A batch of the training data."""
        chosen = torch.randint(len(self.train.labels), (self.batch,), generator=g)
        return Data(self.train.inputs[chosen], self.train.labels[chosen])


@torch.no_grad()
def score(module: nn.Module, data: Data) -> tuple[float, float]:
    """Accuracy and mean cross-entropy."""
    logits = torch.cat([module(part) for part in torch.split(data.inputs, 64)])
    right = float((logits.argmax(1) == data.labels).double().mean())
    return right, float(nn.functional.cross_entropy(logits.double(), data.labels))


def transformer(sizes: Sizes, causal: bool, seed: int) -> ByteTransformer:
    """One with drawn weights."""
    with torch.device("meta"):  # do not draw from the global generator
        module = ByteTransformer(sizes.width, sizes.layers, LENGTH + BYTES_OF_PROMPT, causal)
    module = module.to_empty(device="cpu")
    draw(module, seed)
    return module.eval()


def pretrained(sizes: Sizes, causal: bool, seed: int, tell: Callable[[int, int], None]) -> dict[str, Tensor]:
    """Weights of a transformer pretrained with gradients to predict the next byte, or masked ones."""
    module, text = transformer(sizes, causal, seed), corpus()
    adam = torch.optim.AdamW(module.parameters(), 2e-3)
    for step in range(sizes.pretraining):
        g = keyed.generator(seed, 24, step)
        starts = torch.randint(len(text) - LENGTH - 1, (32, 1), generator=g)
        rows = text[starts + torch.arange(LENGTH + 1)].long()
        for group in adam.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / sizes.pretraining))
        if causal:
            logits, targets = module(rows[:, :-1]), rows[:, 1:]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        else:
            hidden = torch.rand(rows.shape, generator=g) < 0.2
            logits = module(rows.masked_fill(hidden, _MASK))
            loss = nn.functional.cross_entropy(logits[hidden], rows[hidden])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        tell(step + 1, sizes.pretraining)
    return {name: value.detach() for name, value in module.state_dict().items()}


def problem(name: str, sizes: Sizes, seed: int, weights: dict[str, Tensor]) -> Problem:
    """A task for one run: the seed draws the data and the weights that are not pretrained.

    Args:
        name: one of TASKS.
        sizes: of everything.
        seed: of the run.
        weights: of the pretrained transformer, if the task has one.
    """
    if name == "digits":
        return _digits(seed)
    if name == "encoder":
        with torch.device("meta"):
            encoder = ByteTransformer(sizes.width, sizes.layers, LENGTH + BYTES_OF_PROMPT, causal=False)
            module: nn.Module = Classifier(encoder, len(TOPICS))
        module = module.to_empty(device="cpu")
        draw(module, seed)
        encoder.load_state_dict(weights)
        data = [topics(split, n, seed) for split, n in _numbers(sizes)]
    else:
        whole = transformer(sizes, True, seed)
        whole.load_state_dict(weights)
        if name == "lora":
            adapt(whole, 4, seed)
        module = Prompted(whole, PROMPT, b"cp")
        data = [prose_or_code(split, n, seed) for split, n in _numbers(sizes)]
    train, valid, test = (Data(pieces.tokens, pieces.labels) for pieces in data)
    return Problem(module.eval(), train, valid, test, 16)


def _numbers(sizes: Sizes) -> list[tuple[str, int]]:
    return [("train", sizes.train), ("valid", sizes.valid), ("test", sizes.test)]


def _digits(seed: int) -> Problem:
    """Handwritten digits: 1,000 for training, 300 for validation and 497 for testing."""
    made = task("digits")
    pictures = made.pictures(tuple(range(1797)))
    assert pictures is not None
    order = torch.randperm(1797, generator=keyed.generator(25))
    inputs, labels = pictures.images[order].float(), pictures.labels[order]
    parts = [Data(inputs[a:b], labels[a:b]) for a, b in ((0, 1000), (1000, 1300), (1300, 1797))]
    with torch.device("meta"):
        module = cnn()
    module = module.to_empty(device="cpu")
    draw(module, seed)
    return Problem(module.eval(), parts[0], parts[1], parts[2], 64)
