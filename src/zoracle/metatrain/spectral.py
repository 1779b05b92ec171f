"""Training of the spectral search on white-box gradients and on the effect of patterns on many networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoracle import keyed
from zoracle.metatrain.gradients import Descent, Differentiated, Update
from zoracle.metatrain.spectral_patterns import families, pattern_loss, to_ask
from zoracle.optimizers.learned.spectral import basis, patterns
from zoracle.optimizers.learned.spectral.basis import Shape, basis_of
from zoracle.optimizers.learned.spectral.nets import SpectralNets
from zoracle.optimizers.learned.spectral.search import SpectralSearch

#: Weight of |z|^2 beside the mean negative log-likelihood of a coefficient: it keeps traits about one in size.
_TRAIT_WEIGHT = 0.003
#: Images and patterns, at most, of a step on patterns.
_IMAGES, _PATTERNS = 16, 64


class Example(NamedTuple):
    """Observations of one network: its gradients, and the margins under patterns."""

    name: str
    shape: Shape
    energies: Tensor
    """(n, M) squared coefficients of the margin's gradient at n images; n = 0 to learn nothing from them."""
    reaches: tuple[float, ...]
    """Radii of the balls."""
    margins: Tensor
    """(E, n, N, 2) margins of the images with each pattern of the bank and its opposite, at each of E reaches; below
    zero is a success."""
    weight: int = 1
    """How often a step on patterns uses it, relative to a network of weight 1."""


def observe(
    name: str,
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    reaches: Sequence[float],
    *,
    slopes: int | None = None,
    tried: int | None = None,
) -> Example:
    """Observe one white-box network.

    Args:
        name: of the network.
        model: images (n, C, H, W) to logits.
        images: classified correctly, in [0, 1].
        labels: (n,).
        reaches: radii of linf balls.
        slopes: number of images, the first ones, whose gradients are taken; None takes all.
        tried: number of images, the first ones, that patterns are tried on; None tries all.
    """
    channels, height, width = images.shape[1:]
    shape = (channels, height, width)
    x = images[:slopes].clone().requires_grad_(True)
    (gradients,) = torch.autograd.grad(margin(model(x), labels[:slopes]).sum(), x)
    coefficients = [torch.from_numpy(basis_of(shape).forward(row.reshape(-1).numpy())) for row in gradients]
    energies = torch.stack(coefficients).square() if coefficients else torch.zeros(0, basis_of(shape).size)
    images, labels = images[:tried], labels[:tried]
    laid = torch.stack([torch.from_numpy(patterns.signs(p, shape)) for p in patterns.bank(shape)]).view(-1, *shape)
    found = torch.zeros(len(reaches), len(images), len(laid), 2)
    with torch.no_grad():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            for e, reach in enumerate(reaches):
                for opposite, sign in enumerate((1, -1)):
                    asked = (image + sign * reach * laid).clamp(0, 1)
                    found[e, i, :, opposite] = margin(model(asked), label.expand(len(laid)))
    return Example(name, shape, energies, tuple(reaches), found)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Margin of a network before an error, (n,)."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def fit(
    optimizer: SpectralSearch,
    examples: Sequence[Example],
    *,
    steps: int = 1500,
    spectrum_steps: int | None = None,
    lr: float = 1e-2,
    seed: int = 0,
) -> tuple[float, float]:
    """Train both networks of a search by maximum likelihood, in place.

    Args:
        optimizer: the search to train.
        examples: of several networks, sizes and reaches.
        steps: of Adam, each on one example and reach, for the patterns' network.
        spectrum_steps: of Adam, each on one example, for the spectrum's; None takes as many.
        lr: initial step size; decays linearly to zero.
        seed: keys the order.

    Returns:
        The mean negative log-likelihood of a coefficient and of a pattern's margin over the last tenth of the steps.
    """
    nets = optimizer.nets.requires_grad_(True)
    g = keyed.generator(seed, 5)
    traits = nn.Parameter(0.1 * torch.randn((len(examples), optimizer.architecture.traits), generator=g))
    try:
        spectrum = _descend(
            nets.spectrum,
            lambda step: _spectrum_loss(nets.spectrum, examples, traits, step, seed),
            traits,
            steps if spectrum_steps is None else spectrum_steps,
            lr,
        )
        odds = _descend(nets.patterns, lambda step: _pattern_loss(nets, examples, step, seed), None, steps, lr)
    finally:
        nets.requires_grad_(False)
    return spectrum, odds


def spectrum_loss(log: Tensor, energies: Tensor) -> Tensor:
    """Negative log-likelihood of a coefficient, each image's scale at its best: log (M,), energies (n, M)."""
    scale = (energies / log.exp()).mean(1, keepdim=True)
    return 0.5 * (scale.log() + log.mean()).mean()


def _spectrum_loss(net: nn.Module, examples: Sequence[Example], traits: Tensor, step: int, seed: int) -> Tensor:
    rows = [i for i, e in enumerate(examples) if len(e.energies)]
    row = rows[keyed.mix(seed, 1, step) % len(rows)]
    example = examples[row]
    columns = torch.randperm(example.energies.shape[1], generator=keyed.generator(seed, 2, step))[:1024]
    out = net(torch.from_numpy(basis.features(example.shape))[columns])
    log = out[:, 0] + out[:, 1:] @ traits[row]
    return spectrum_loss(log, example.energies[:, columns]) + _TRAIT_WEIGHT * traits[row].square().sum()


def _pattern_loss(nets: SpectralNets, examples: Sequence[Example], step: int, seed: int) -> Tensor:
    often = [example for example in examples if example.margins.shape[1] for _ in range(example.weight)]
    example = often[keyed.mix(seed, 3, step) % len(often)]
    number = keyed.mix(seed, 4, step) % len(example.reaches)
    g = keyed.generator(seed, 7, step)
    images, chosen = (
        torch.randperm(size, generator=g)[:most]
        for size, most in zip(example.margins.shape[1:3], (_IMAGES, _PATTERNS), strict=True)
    )
    given = _features(example.shape, example.reaches[number])[chosen]
    model, warped = families(nets.patterns(given), nets.families), example.margins[number][images][:, chosen].asinh()
    return pattern_loss(model, warped, to_ask(warped, model, step, seed))


@lru_cache(maxsize=256)
def _features(shape: Shape, reach: float) -> Tensor:
    return torch.from_numpy(patterns.features(shape, reach))


def _descend(net: nn.Module, loss: Callable[[int], Tensor], also: nn.Parameter | None, steps: int, lr: float) -> float:
    """Adam with linearly decaying step sizes; returns the mean loss over the last tenth."""
    descent = Descent([*net.parameters(), *([] if also is None else [also])], lr, clip_norm=1.0)

    def step(update: Update) -> None:
        if descent.clip():
            descent.step(lr * (1 - update.number / update.of))

    return descent.follow(Differentiated(loss, steps), step).loss
