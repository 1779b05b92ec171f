"""`zoracle train square-controllers`: trains the networks to attack, and the controllers on them."""

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
from zoracle.metatrain.controllers import SPREAD, Prey, fit
from zoracle.metatrain.spectral_training import Reaches
from zoracle.metatrain.zoo import Member, trained
from zoracle.optimizers.learned.square_controllers import SquareControllers
from zoracle.optimizers.pretrained import CARD, save_optimizer
from zoracle.optimizers.registry import make
from zoracle.settings import convert, read_toml
from zoracle.storage.files import write_text

NAME = "square-controllers"


class ControllersRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Recipe for training the controllers.

    Attributes:
        optimizer: its name in the registry.
        networks: to attack.
        settings: of the optimizer.
        reaches: radii of the linf balls.
        images: per network.
        updates: number of runs, each on images of one network.
        horizons: lengths of runs, one of which is drawn for each run.
        batch: images per run.
        candidates: per image and step.
        lr: step size of Adam at the start.
        seed: keys everything.
    """

    optimizer: str
    networks: tuple[Member, ...]
    settings: dict[str, Any] = {}
    reaches: Reaches = Reaches()
    images: int = 100
    updates: int = 100
    horizons: tuple[int, ...] = (50, 150, 400)
    batch: int = 16
    candidates: int = 4
    lr: float = 0.02
    seed: int = 0


def parse(text: str, where: str = "config") -> ControllersRecipe:
    """A recipe from TOML text.

    Raises:
        InputError: an unknown name, a wrong type, no networks, or inconsistent numbers.
    """
    try:
        recipe = convert(read_toml(text), ControllersRecipe)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not recipe.networks:
        raise InputError(f"{where}: there are no networks; expected at least one [[networks]]")
    if recipe.candidates < 2 or not recipe.horizons or min(recipe.updates, recipe.batch, *recipe.horizons) < 1:
        raise InputError(f"{where}: expected at least 2 candidates, and 1 update, image a batch and step a run")
    return recipe


def train(
    recipe: ControllersRecipe,
    folder: Path,
    told: Callable[[str], None] = print,
    ran: Callable[[int, float], None] | None = None,
) -> SquareControllers:
    """Train controllers; networks that are already trained are read from the folder.

    Args:
        recipe: of the training.
        folder: for ``networks/`` and the result.
        told: called with a line about each network.
        ran: called with each run's number, and the mean share of its steps used per image.
    """
    begun = time.monotonic()
    optimizer = make(recipe.optimizer, **recipe.settings)
    if not isinstance(optimizer, SquareControllers):
        raise InputError(f"optimizer {recipe.optimizer!r} is not {NAME}")
    prey = [_prey(member, recipe, folder, told) for member in recipe.networks]

    share = fit(
        optimizer, prey, updates=recipe.updates, horizons=recipe.horizons, batch=recipe.batch,
        candidates=recipe.candidates, lr=recipe.lr, seed=recipe.seed, told=ran,
    )  # fmt: skip
    training = {
        "config": msgspec.to_builtins(recipe),
        "share": share,
        "seconds": round(time.monotonic() - begun),
        "threads": torch.get_num_threads(),
        "zoracle": __version__,
        "torch": torch.__version__,
    }
    save_optimizer(folder, recipe.optimizer, optimizer, training)
    write_text(folder / CARD, card(recipe, training, sum(p.numel() for p in optimizer.parameters())))
    return optimizer


def _prey(member: Member, recipe: ControllersRecipe, folder: Path, told: Callable[[str], None]) -> Prey:
    network, images = trained(
        member,
        folder / "networks",
        seed=recipe.seed,
        report=lambda name, right: told(f"{name}: {right:.1%} of images that it was not trained on"),
    )
    with torch.no_grad():
        some = network(images.rest[: 4 * recipe.images]).argmax(1)
    right = (some == images.rest_labels[: len(some)]).nonzero().squeeze(1)[: recipe.images]
    wanted = recipe.reaches.coloured if images.rest.shape[1] == 3 else recipe.reaches.grey
    reaches = tuple(reach / 255 for reach in wanted)
    return Prey(member.name, network, images.rest[right], images.rest_labels[right], reaches)


def card(recipe: ControllersRecipe, training: dict[str, Any], parameters: int) -> str:
    """The model card in Markdown."""
    rows = "\n".join(
        f"| {m.name} | {m.task} | {m.side} | {m.kind} | {f'linf {m.eps:g}' if m.eps else 'no'} |"
        for m in recipe.networks
    )
    coloured, grey = (", ".join(f"{r:g}" for r in one) for one in (recipe.reaches.coloured, recipe.reaches.grey))
    return f"""# {recipe.optimizer}

Controllers of Square Attack's size and colour after Yatsura, Metzen and Hein (2021), {parameters:,} weights, for linf
balls: a baseline. The rule is theirs; their weights come under another licence, and these were trained here.

## Training

By policy gradients with {recipe.candidates} candidates at each step of a run and a leave-one-out baseline, the logit of
the size drawn with a standard deviation of {SPREAD:g}; {recipe.updates} runs of {recipe.batch} images and
{", ".join(map(str, recipe.horizons))} steps, radii {coloured} / 255 on colour images and {grey} / 255 on grey ones;
Adam, step size {recipe.lr:g} falling to zero along a line, seed {recipe.seed}. The networks, white boxes in training
only:

| network | images of | side | kind | adversarially trained |
| --- | --- | --- | --- | --- |
{rows}

Over the last tenth of the runs an image took {training["share"]:.1%} of a run's steps, training noise included.
{spoken(training["seconds"])} on {training["threads"]} thread(s) (zoracle {training["zoracle"]}, torch
{training["torch"]}). Validation and test images of the tasks were not among them.
"""
