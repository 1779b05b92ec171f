"""`zoracle train spectral-search`: the zoo of networks, their observations, and the fit of the weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from zoracle import __version__
from zoracle.errors import InputError
from zoracle.metatrain.card import spoken
from zoracle.metatrain.spectral import Example, fit, observe
from zoracle.metatrain.spectral_validation import Ball, Row, table, validate
from zoracle.metatrain.zoo import Images, Member, images_of, trained
from zoracle.optimizers.learned.spectral.patterns import bank
from zoracle.optimizers.learned.spectral.search import SpectralSearch
from zoracle.optimizers.pretrained import CARD, save_optimizer
from zoracle.optimizers.registry import make
from zoracle.settings import Number, Positive, Size, convert, read_toml
from zoracle.storage.files import read_tensors, write_tensors, write_text
from zoracle.tasks.cifar10 import classifier

NAME = "spectral-search"


class Reaches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Radii of the linf balls for trying patterns, in units of 1 / 255.

    Attributes:
        coloured: for images with three channels.
        grey: for images with one channel.
    """

    coloured: tuple[Positive, ...] = (2, 4, 8, 16)
    grey: tuple[Positive, ...] = (25, 51, 76)


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network of the task cifar10, trained on all of its images, that is observed in addition to the zoo.

    Attributes:
        name: of the network.
        stem: each pixel that it reads is the mean of stem x stem pixels of the image, as a strided first layer's is.
        copies: the image holds copies x copies mirrored copies, of which the network takes the mean: a large image
            with details as fine as a photograph's.
        images: number of images to try patterns on; None uses as many as for other networks.
        weight: how often a step on patterns uses it, relative to a network of the zoo.
    """

    name: str
    stem: Size = 1
    copies: Size = 1
    images: Number | None = None
    weight: Number = 1

    @property
    def label(self) -> str:
        """The name, and the side of the image if it differs from the network's own."""
        side = 32 * self.stem * self.copies
        return self.name if side == 32 else f"{self.name}-{side}"


class SpectralRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Recipe for training a spectral search.

    Attributes:
        optimizer: its name in the registry.
        settings: of the optimizer.
        networks: the zoo.
        gradients_only: names of networks of the zoo on which no patterns are tried, which takes long on large images.
        targets: networks that are observed in addition.
        validation: balls for testing the trained search at the end, for its card.
        reaches: of the patterns.
        images: number per network.
        steps: of Adam, for the patterns.
        spectrum_steps: of Adam, for the spectrum.
        seed: keys everything.
    """

    optimizer: str
    networks: tuple[Member, ...]
    gradients_only: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    targets: tuple[Target, ...] = ()
    validation: tuple[Ball, ...] = ()
    reaches: Reaches = Reaches()
    images: Number = 40
    steps: Number = 4000
    spectrum_steps: Number = 4000
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
    if unknown := set(recipe.gradients_only) - {m.name for m in recipe.networks}:
        raise InputError(f"{where}: gradients_only names {min(unknown)}; expected names of [[networks]]")
    if not recipe.networks:
        raise InputError(f"{where}: there are no networks; expected at least one [[networks]]")
    return recipe


def train(recipe: SpectralRecipe, folder: Path, told: Callable[[str], None] = print) -> SpectralSearch:
    """Train a spectral search; networks and observations that are already in the folder are read from it.

    Args:
        recipe: of the training.
        folder: for ``networks/``, ``observed/`` and the result.
        told: called with a line about each completed part.
    """
    begun = time.monotonic()
    optimizer = make(recipe.optimizer, **recipe.settings)
    if not isinstance(optimizer, SpectralSearch):
        raise InputError(f"optimizer {recipe.optimizer!r} is not {NAME}")
    looks = [*_zoo(recipe, folder, told), *map(_target, recipe.targets)]
    known = sum((folder / "observed" / f"{look.name}.safetensors").is_file() for look in looks)
    examples = []
    for look in looks:
        examples.append(_observed(look, folder / "observed", recipe))
        told(_line(examples[-1]))
    spectrum, odds = fit(
        optimizer, examples, steps=recipe.steps, spectrum_steps=recipe.spectrum_steps, seed=recipe.seed
    )
    told(f"negative log-likelihood: {spectrum:.4f} a coefficient; loss of the patterns' chances {odds:.4f}")
    rows = validate(optimizer, recipe.validation, recipe.seed, told)
    training = {
        "config": msgspec.to_builtins(recipe),
        "spectrum_loss": spectrum,
        "pattern_loss": odds,
        "networks": len(looks),
        "known": known,
        "validation": msgspec.to_builtins(rows),
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
        f"| {m.name} | {m.task} | {m.side} | {m.kind} | {f'linf {m.eps:g}' if m.eps else 'no'} | 1 |"
        for m in recipe.networks
    )
    others = "\n".join(
        f"| {t.label} | cifar10 | {32 * t.stem * t.copies} | {t.name} | no | {t.weight} |" for t in recipe.targets
    )
    reaches = recipe.reaches
    return f"""# {recipe.optimizer}

A learned search in linf and l2 balls, of {parameters:,} weights, for images of any size and one or three channels.
Weights: `optimizer.safetensors`, settings and the whole recipe in its metadata.

## Training

Two small networks were fitted: one predicts the variance of each cosine coefficient of a classifier's gradient, up to
{recipe.settings.get("traits", 6)} traits that differ from network to network; the other the margins that periodic
patterns and their opposites lead to, as a mixture over {recipe.settings.get("families", 5)} families of networks and
images, which are found in the fit. The first saw the gradients at {recipe.images} images, at most, of each of these
networks, the second the margins of as many, and of fewer where the recipe says so (white boxes, in training only). The
recipe trains them, but for the ResNets, which were trained on all of CIFAR-10. A step on
patterns takes a network as often as its weight says. Where a ResNet reads larger images, each pixel of its own is the
mean of a square, images are mirrored copies side by side, and no gradients were learned from:

| network | images of | side | kind | adversarially trained | weight |
| --- | --- | --- | --- | --- | --- |
{rows}
{others}

Patterns were tried at {", ".join(f"{r:g}" for r in reaches.coloured)} / 255 on colour images and
{", ".join(f"{r:g}" for r in reaches.grey)} / 255 on grey ones. {recipe.steps:,} steps of Adam for the
patterns and {recipe.spectrum_steps:,} for the spectrum, seed {recipe.seed}; {spoken(training["seconds"])} on
{training["threads"]} thread(s) (zoracle {training["zoracle"]}, torch {training["torch"]}), where {training["known"]} of
{training["networks"]} networks had been observed before. Final
losses: {training["spectrum_loss"]:.4g} a coefficient and {training["pattern_loss"]:.4g} a pattern.

Validation and test images of the tasks were not among them.

## Validation

Images of the validation splits that the network reads correctly; one seed; a failure counts as the whole budget. Beside
it, Square Attack at its default settings. The networks of `digits`, `mnist` and `imagenet` were not seen in training;
`resnet32` was, by other images.

{table(msgspec.convert(training["validation"], list[Row]))}

## Use

It is what `zo-lstm` means within a ball. Where points are not images it knows nothing of their spectrum, and searches
with a flat one.
"""


_FORMAT = "zoracle-observed"


class _Look(NamedTuple):
    """A network to observe."""

    name: str
    grey: bool
    make: Callable[[], tuple[Callable[[Tensor], Tensor], Images]]
    images: int | None = None
    weight: int = 1
    spectrum: bool = True


def _zoo(recipe: SpectralRecipe, folder: Path, told: Callable[[str], None]) -> Iterator[_Look]:
    def report(name: str, right: float) -> None:
        told(f"{name}: {right:.1%} of images that it was not trained on")

    for member in recipe.networks:
        make_it = partial(trained, member, folder / "networks", seed=recipe.seed, report=report)
        images = 0 if member.name in recipe.gradients_only else None
        yield _Look(member.name, member.task != "cifar10", make_it, images)


def _target(target: Target) -> _Look:
    def make_it() -> tuple[Callable[[Tensor], Tensor], Images]:
        network, images = classifier(target.name), images_of(Member(name="", task="cifar10", side=32, kind="conv"))
        rest = enlarged(images.rest, target.stem, target.copies)
        return lambda x: network(avg_pool2d(x, target.stem)), images._replace(rest=rest)

    # With a stem that averages squares, gradients are constant over them, so there is no spectrum to learn.
    plain = target.stem == target.copies == 1
    return _Look(target.label, False, make_it, target.images, target.weight, plain)


def enlarged(images: Tensor, stem: int, copies: int) -> Tensor:
    """Images (n, C, h, w), mirrored copies side by side, each pixel a square: (n, C, h stem copies, w stem copies)."""
    for axis in (2, 3):
        parts = [images if number % 2 == 0 else images.flip(axis) for number in range(copies)]
        images = torch.cat(parts, axis).repeat_interleave(stem, axis)
    return images


def _observed(look: _Look, folder: Path, recipe: SpectralRecipe) -> Example:
    """The observations of a network, from the folder if they are stored there; otherwise made and stored."""
    reaches = recipe.reaches.grey if look.grey else recipe.reaches.coloured
    count = recipe.images if look.images is None else look.images
    # Gradients are cheap: each network whose gradients are learned shows those of as many images as any other.
    slopes = recipe.images if look.spectrum else 0
    asked = {
        "format": _FORMAT,
        "images": count,
        "slopes": slopes,
        "reaches": list(reaches),
        "seed": recipe.seed,
        "signs": 2,
    }
    path = folder / f"{look.name}.safetensors"
    if path.is_file():
        tensors, told = read_tensors(path, sealed=True)
        if told.get("asked") == asked and tensors["margins"].shape[2] == len(bank(tuple(told["shape"]))):
            shape, radii = tuple(told["shape"]), tuple(told["reaches"])
            return Example(look.name, shape, tensors["energies"], radii, tensors["margins"], look.weight)
    network, images = look.make()
    with torch.no_grad():
        most = max(count, slopes)
        some = torch.cat([network(part).argmax(1) for part in torch.split(images.rest[: 4 * most], 32)])
    right = (some == images.rest_labels[: len(some)]).nonzero().squeeze(1)[:most]
    x, y = images.rest[right], images.rest_labels[right]
    found = observe(look.name, network, x, y, [r / 255 for r in reaches], slopes=slopes, tried=count)
    found = found._replace(weight=look.weight)
    tensors = {"energies": found.energies, "margins": found.margins}
    write_tensors(path, tensors, {"asked": asked, "shape": found.shape, "reaches": found.reaches})
    return found


def _line(example: Example) -> str:
    if not example.margins.shape[1]:
        return f"{example.name}: gradients of {len(example.energies)} images"
    best = (example.margins < 0).float().mean(1).flatten(1).amax(1)
    shares = ", ".join(f"{share:.0%} at {reach:.3g}" for share, reach in zip(best, example.reaches, strict=True))
    return f"{example.name}: the best pattern breaks {shares}"
