"""`zoracle train spectral-search`: the zoo of networks, what they tell, and the weights that are fitted to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from zoracle import __version__
from zoracle.errors import InputError
from zoracle.metatrain.card import spoken
from zoracle.metatrain.spectral import Example, fit, observe
from zoracle.metatrain.zoo import Images, Member, images_of, trained
from zoracle.optimizers.learned.spectral.search import SpectralSearch
from zoracle.optimizers.pretrained import CARD, save_optimizer
from zoracle.optimizers.registry import make
from zoracle.settings import Number, Positive, convert, read_toml
from zoracle.storage.files import write_text
from zoracle.tasks.cifar10 import classifier

NAME = "spectral-search"


class Reaches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Radii of linf balls that patterns are tried in, in 1 / 255.

    Attributes:
        coloured: for images of three channels.
        grey: for those of one.
    """

    coloured: tuple[Positive, ...] = (2, 4, 8, 16)
    grey: tuple[Positive, ...] = (25, 51, 76)


class SpectralRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a spectral search is trained.

    Attributes:
        optimizer: its name in the registry.
        settings: of the optimizer.
        networks: the zoo.
        targets: networks of the task cifar10 that are looked at as well.
        reaches: of the patterns.
        images: how many of each network.
        steps: of Adam, for either part.
        seed: keys everything.
    """

    optimizer: str
    networks: tuple[Member, ...]
    settings: dict[str, Any] = {}
    targets: tuple[str, ...] = ()
    reaches: Reaches = Reaches()
    images: Number = 40
    steps: Number = 4000
    seed: int = 0


def parse(text: str, where: str = "config") -> SpectralRecipe:
    """A recipe from TOML text.

    Raises:
        InputError: an unknown name, a wrong type, or no networks.
    """
    try:
        recipe = convert(read_toml(text), SpectralRecipe)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not recipe.networks:
        raise InputError(f"{where}: there are no networks; expected at least one [[networks]]")
    return recipe


def train(recipe: SpectralRecipe, folder: Path, told: Callable[[str], None] = print) -> SpectralSearch:
    """Train a spectral search; networks that are done already are taken from the folder.

    Args:
        recipe: what to do.
        folder: where ``networks/`` and the result go.
        told: is called with a line about each thing done.
    """
    begun = time.monotonic()
    optimizer = make(recipe.optimizer, **recipe.settings)
    if not isinstance(optimizer, SpectralSearch):
        raise InputError(f"optimizer {recipe.optimizer!r} is not {NAME}")
    examples = []
    for member in recipe.networks:
        network, images = trained(
            member,
            folder / "networks",
            seed=recipe.seed,
            report=lambda name, right: told(f"{name}: {right:.1%} of images that it was not trained on"),
        )
        examples.append(_look(member.name, network, images, recipe))
        told(_line(examples[-1]))
    for name in recipe.targets:
        images = images_of(Member(name=name, task="cifar10", side=32, kind="conv"))
        examples.append(_look(name, classifier(name), images, recipe))
        told(_line(examples[-1]))
    spectrum, odds = fit(optimizer, examples, steps=recipe.steps, seed=recipe.seed)
    told(f"negative log-likelihood: {spectrum:.4f} a coefficient; loss of the patterns' chances {odds:.4f}")
    training = {
        "config": msgspec.to_builtins(recipe),
        "spectrum_loss": spectrum,
        "pattern_loss": odds,
        "seconds": round(time.monotonic() - begun),
        "threads": torch.get_num_threads(),
        "zoracle": __version__,
        "torch": torch.__version__,
    }
    save_optimizer(folder, recipe.optimizer, optimizer, training)
    write_text(folder / CARD, card(recipe, training, sum(p.numel() for p in optimizer.parameters())))
    return optimizer


def card(recipe: SpectralRecipe, training: dict[str, Any], parameters: int) -> str:
    """The model card in Markdown."""
    rows = "\n".join(
        f"| {m.name} | {m.task} | {m.side} | {m.kind} | {f'linf {m.eps:g}' if m.eps else 'no'} |"
        for m in recipe.networks
    )
    reaches = recipe.reaches
    return f"""# {recipe.optimizer}

A learned search in linf and l2 balls, of {parameters:,} weights, for images of any size and one or three channels.
Weights: `optimizer.safetensors`, settings and the whole recipe in its metadata.

## Training

Two small networks were fitted by maximum likelihood: one foretells the variance of each cosine coefficient of a
classifier's gradient, up to {recipe.settings.get("traits", 6)} traits that differ from network to network; the other
the margins that periodic patterns lead to. Both saw {recipe.images} images, at most, of each of these networks, which
the recipe trains (white boxes, in training only), and of {", ".join(recipe.targets) or "no others"}:

| network | images of | side | kind | adversarially trained |
| --- | --- | --- | --- | --- |
{rows}

Patterns were tried at {", ".join(f"{r:g}" for r in reaches.coloured)} / 255 on colour images and
{", ".join(f"{r:g}" for r in reaches.grey)} / 255 on grey ones. {recipe.steps:,} steps of Adam each, seed {recipe.seed};
{spoken(training["seconds"])} on {training["threads"]} thread(s) (zoracle {training["zoracle"]}, torch
{training["torch"]}), most of it for the networks that were not there yet. Final losses:
{training["spectrum_loss"]:.4g} a coefficient and {training["pattern_loss"]:.4g} a pattern.

Validation and test images of the tasks were not among them.

## Use

It is what `zo-lstm` means within a ball. Where points are not images it knows nothing of their spectrum, and searches
with a flat one.
"""


def _look(name: str, network: Any, images: Images, recipe: SpectralRecipe) -> Example:
    with torch.no_grad():
        some = network(images.rest[: 4 * recipe.images]).argmax(1)
    right = (some == images.rest_labels[: len(some)]).nonzero().squeeze(1)[: recipe.images]
    wanted = recipe.reaches.coloured if images.rest.shape[1] == 3 else recipe.reaches.grey
    x, y = images.rest[right], images.rest_labels[right]
    return observe(name, network, x, y, [r / 255 for r in wanted], seed=recipe.seed)


def _line(example: Example) -> str:
    best = (example.margins < 0).float().mean(1).amax(1)
    shares = ", ".join(f"{share:.0%} at {reach:.3g}" for share, reach in zip(best, example.reaches, strict=True))
    return f"{example.name}: the best pattern breaks {shares}"
