"""Training of target networks: small, deterministic, and without torch's global generator."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from zoracle.keyed import generator, permutation
from zoracle.tasks.networks import build

#: By how many nats an image must be read correctly to be attacked, where the split is ours. One that is barely read
#: starts at a loss near its end, and its ratio of final to initial loss would say nothing.
MARGIN = 1.0

Report = Callable[[int, float], None]
#: Images (N, C, H, W) of a batch as the network is to see them, of the network, the images, labels and the step.
Prepare = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


class TargetReport(NamedTuple):
    """What training a target network led to."""

    weights: Path
    """The safetensors file."""
    split: Path
    """The JSON file of ids by split."""
    accuracy: float
    """On the images that the network was not trained on."""
    images: int
    """How many those are."""


def train_target(
    network: type[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    epochs: int = 40,
    batch_size: int = 50,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-3,
    prepare: Prepare | None = None,
    report: Report | None = None,
) -> nn.Module:
    """Train a classifier with AdamW and a cosine schedule; the same seed gives the same weights on one machine.

    Args:
        network: class of the network; it returns logits or log-probabilities.
        images: (N, C, H, W) float32, normalised, unless ``prepare`` does that.
        labels: (N,) int64.
        seed: keys the first weights and the order of the images.
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: at the start; falls to zero along a half cosine.
        weight_decay: of AdamW.
        prepare: changes each batch first: augments, attacks or normalises it; None uses images as they are.
        report: called with the epoch and its mean loss.

    Returns:
        The network in eval mode.
    """
    module = build(network)
    initialise(module, seed)
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(images.shape[0], seed, epoch))
        total = 0.0
        batches = torch.split(order, batch_size)
        for number, batch in enumerate(batches):
            x, y = images[batch], labels[batch]
            if prepare is not None:
                x = prepare(module, x, y, epoch * len(batches) + number)
            loss = F.cross_entropy(module(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        if report is not None:
            report(epoch, total / images.shape[0])
    return module.eval().requires_grad_(False)


def initialise(module: nn.Module, seed: int) -> None:
    """Draw weights and biases as torch does by default, uniform in +-1 / sqrt(fan-in), keyed by seed and position."""
    for position, part in enumerate(module.modules()):
        if isinstance(part, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(part.weight[0].numel())
            g = generator(seed, position)
            with torch.no_grad():
                part.weight.uniform_(-bound, bound, generator=g)
                if part.bias is not None:
                    part.bias.uniform_(-bound, bound, generator=g)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()


def flipped_and_shifted(x: Tensor, g: torch.Generator, most: int) -> Tensor:
    """A batch of images (N, C, H, W), all mirrored or none, and moved by up to ``most`` pixels around each edge."""
    if bool(torch.randint(0, 2, (1,), generator=g)):
        x = x.flip(3)
    return x.roll(torch.randint(-most, most + 1, (2,), generator=g).tolist(), (2, 3))


def signed_step(
    classify: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, eps: float, g: torch.Generator
) -> Tensor:
    """Images in [0, 1] after one signed step from a random point of the linf ball, which a network is trained on.

    Args:
        classify: white box, images (N, C, H, W) to logits.
        x: images.
        labels: (N,).
        eps: radius of the ball; the step is 1.25 of it.
        g: draws the random point.

    Source: Wong, Rice and Kolter (2020), "Fast is better than free".
    """
    start = ((2 * torch.rand(x.shape, generator=g) - 1) * eps).requires_grad_(True)
    (slope,) = torch.autograd.grad(F.cross_entropy(classify((x + start).clamp(0, 1)), labels), start)
    return (x + (start.detach() + 1.25 * eps * slope.sign()).clamp(-eps, eps)).clamp(0, 1)


@torch.no_grad()
def margins(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int = 500) -> Tensor:
    r"""How far a classifier is from an error, (N,): log p_y - max_{j \ne y} log p_j, positive where it is right."""
    log_p = torch.cat([model(x).log_softmax(1) for x in torch.split(images, batch_size)])
    index = labels.unsqueeze(1)
    return log_p.gather(1, index).squeeze(1) - log_p.scatter(1, index, -torch.inf).amax(1)


def save_target(module: nn.Module, path: Path, facts: dict[str, str]) -> None:
    """Write a network's weights, with facts about it as JSON in the metadata; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    # One entry: safetensors writes several in no fixed order, and the same training should give the same bytes.
    partial.write_bytes(save(tensors, {"zoracle": json.dumps(facts)}))
    partial.replace(path)
