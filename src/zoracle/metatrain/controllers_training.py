"""`zoracle train square-controllers`: trains the networks to attack, and the controllers on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from zoracle import __version__
from zoracle.errors import CheckpointError, InputError
from zoracle.metatrain.card import spoken
from zoracle.metatrain.controllers import DENSE, EVERY, SPREAD, Fit, Prey, imitate, shrink
from zoracle.metatrain.controllers_validation import Check, Found, table, validate
from zoracle.metatrain.spectral_training import Reaches
from zoracle.metatrain.zoo import Images, Member, images_of, trained
from zoracle.optimizers.learned.square_controllers import SquareControllers
from zoracle.optimizers.pretrained import CARD, save_optimizer
from zoracle.optimizers.registry import make
from zoracle.settings import Number, Positive, Share, Size, convert, read_toml
from zoracle.storage.files import read_tensors, write_tensors, write_text
from zoracle.tasks.cifar10 import classifier

NAME = "square-controllers"
CHECKPOINT = "training.safetensors"
_FORMAT = "zoracle-controllers-training"
#: Updates from one checkpoint to the next.
_SAVED_EVERY = 4


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The schedule of Square Attack that the size is fitted to before the training.

    Attributes:
        p_init: of the schedule.
        horizon: queries that it is stretched to.
        steps: of Adam; 0 starts from a constant size.
    """

    p_init: Share = 0.3
    horizon: Size = 1000
    steps: Number = 600


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network of the task cifar10 to attack in addition to the zoo.

    Attributes:
        name: of the network.
        reaches: radii of the linf balls, in units of 1 / 255; empty for those of the recipe.
        weight: how often it is attacked, relative to a network of the zoo.
    """

    name: str
    reaches: tuple[Positive, ...] = ()
    weight: Size = 1


class ControllersRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Recipe for training the controllers.

    Attributes:
        optimizer: its name in the registry.
        networks: to attack.
        targets: networks of the task cifar10 to attack in addition.
        validation: attacks that the card reports.
        settings: of the optimizer.
        reaches: radii of the linf balls.
        start: what the size begins as.
        images: per network.
        updates: number of runs, each on images of one network.
        horizons: lengths of runs, one of which is drawn for each run.
        batch: images per run.
        pairs: of candidates per image and step.
        lr: step size of Adam at the start.
        late: by what the logit of the size is changed late in a run, after the training (:func:`shrink`).
        seed: keys everything.
    """

    optimizer: str
    networks: tuple[Member, ...]
    targets: tuple[Target, ...] = ()
    validation: tuple[Check, ...] = ()
    settings: dict[str, Any] = {}
    reaches: Reaches = Reaches()
    start: Start = Start()
    images: Size = 100
    updates: Size = 100
    horizons: tuple[Size, ...] = (100, 300, 1000)
    batch: Size = 16
    pairs: Size = 2
    lr: Positive = 0.02
    late: float = 0.0
    seed: int = 0


def parse(text: str, where: str = "config") -> ControllersRecipe:
    """A recipe from TOML text.

    Raises:
        InputError: an unknown name, a wrong type, no networks, or numbers out of range.
    """
    try:
        recipe = convert(read_toml(text), ControllersRecipe)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not recipe.networks:
        raise InputError(f"{where}: there are no networks; expected at least one [[networks]]")
    if not recipe.horizons:
        raise InputError(f"{where}: there are no horizons; expected at least one number of steps")
    return recipe


def train(
    recipe: ControllersRecipe,
    folder: Path,
    told: Callable[[str], None] = print,
    ran: Callable[[int, float], None] | None = None,
) -> SquareControllers:
    """Train controllers; networks that are already trained are read from the folder, and the training is resumed.

    Args:
        recipe: of the training.
        folder: for ``networks/``, the checkpoint and the result.
        told: called with a line about each network and each row of the validation.
        ran: called with each run's number, and the mean share of its steps used per image.
    """
    begun = time.monotonic()
    optimizer = make(recipe.optimizer, **recipe.settings)
    if not isinstance(optimizer, SquareControllers):
        raise InputError(f"optimizer {recipe.optimizer!r} is not {NAME}")
    prey = [_own(member, recipe, folder, told) for member in recipe.networks]
    prey += [one for target in recipe.targets for one in [_target(target, recipe)] * target.weight]
    error = imitate(optimizer, p_init=recipe.start.p_init, horizon=recipe.start.horizon, steps=recipe.start.steps)
    fit = Fit(
        optimizer, prey, updates=recipe.updates, horizons=recipe.horizons, batch=recipe.batch, pairs=recipe.pairs,
        lr=recipe.lr, seed=recipe.seed,
    )  # fmt: skip
    shares, spent = _resume(fit, recipe, folder)
    while fit.update < recipe.updates:
        shares.append(fit.step())
        if ran is not None:
            ran(fit.update - 1, shares[-1])
        if fit.update % _SAVED_EVERY == 0 or fit.update == recipe.updates:
            _save(fit, recipe, folder, shares, spent + time.monotonic() - begun)
    seconds = spent + time.monotonic() - begun
    if recipe.late:
        shrink(optimizer, recipe.late)
    rows = validate(optimizer, recipe.validation, folder, recipe.seed, told)
    last = shares[-max(1, recipe.updates // 10) :]
    training = {
        "config": msgspec.to_builtins(recipe),
        "start_error": error,
        "share": sum(last) / len(last),
        "validation": msgspec.to_builtins(rows),
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "zoracle": __version__,
        "torch": torch.__version__,
    }
    save_optimizer(folder, recipe.optimizer, optimizer, training)
    write_text(folder / CARD, card(recipe, training, sum(p.numel() for p in optimizer.parameters())))
    return optimizer


def _save(fit: Fit, recipe: ControllersRecipe, folder: Path, shares: list[float], seconds: float) -> None:
    tensors = {f"weights.{name}": value for name, value in fit.optimizer.state_dict().items()}
    for index, slots in fit.adam.state_dict()["state"].items():
        tensors.update({f"adam.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()})
    facts = {"format": _FORMAT, "config": _as_json(recipe), "shares": shares, "seconds": seconds}
    write_tensors(folder / CHECKPOINT, tensors, facts)


def _resume(fit: Fit, recipe: ControllersRecipe, folder: Path) -> tuple[list[float], float]:
    """Continue from the checkpoint if there is one; the shares of the runs so far, and the seconds they took."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return [], 0.0
    tensors, told = read_tensors(path, sealed=True)
    if told.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of a training of {NAME}")
    if told["config"] != _as_json(recipe):
        raise CheckpointError(f"{folder} holds a training with another recipe; choose another folder")
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    fit.optimizer.load_state_dict(weights)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = value
    fit.adam.load_state_dict({"state": slots, "param_groups": fit.adam.state_dict()["param_groups"]})
    fit.update = len(told["shares"])
    return list(told["shares"]), float(told["seconds"])


def _as_json(recipe: ControllersRecipe) -> Any:
    """What determines the runs, as it reads back from a file."""
    return msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(recipe, validation=(), late=0.0)))


def _own(member: Member, recipe: ControllersRecipe, folder: Path, told: Callable[[str], None]) -> Prey:
    network, images = trained(
        member,
        folder / "networks",
        seed=recipe.seed,
        report=lambda name, right: told(f"{name}: {right:.1%} of images that it was not trained on"),
    )
    return _prey(member.name, network, images, recipe)


def _target(target: Target, recipe: ControllersRecipe) -> Prey:
    images = images_of(Member(name="", task="cifar10", side=32, kind="conv"))
    prey = _prey(target.name, classifier(target.name), images, recipe)
    return prey._replace(reaches=tuple(reach / 255 for reach in target.reaches)) if target.reaches else prey


@torch.no_grad()
def _prey(name: str, network: Callable[[Tensor], Tensor], images: Images, recipe: ControllersRecipe) -> Prey:
    some = network(images.rest[: 4 * recipe.images]).argmax(1)
    right = (some == images.rest_labels[: len(some)]).nonzero().squeeze(1)[: recipe.images]
    wanted = recipe.reaches.coloured if images.rest.shape[1] == 3 else recipe.reaches.grey
    return Prey(name, network, images.rest[right], images.rest_labels[right], tuple(reach / 255 for reach in wanted))


def card(recipe: ControllersRecipe, training: dict[str, Any], parameters: int) -> str:
    """The model card in Markdown."""
    coloured, grey = (", ".join(f"{r:g}" for r in one) for one in (recipe.reaches.coloured, recipe.reaches.grey))
    lines = [
        f"| {m.name} | {m.task} | {m.side} | {m.kind} | {f'linf {m.eps:g}' if m.eps else 'no'} "
        f"| {coloured if m.task == 'cifar10' else grey} | 1 |"
        for m in recipe.networks
    ]
    lines += [
        f"| {t.name} | cifar10 | 32 | {t.name} | no "
        f"| {', '.join(f'{r:g}' for r in t.reaches) or coloured} | {t.weight} |"
        for t in recipe.targets
    ]
    rows = "\n".join(lines)
    start = recipe.start
    after = (
        f"""Afterwards {recipe.late:g} (log(1 + t) / log(10,001))^2 was added to the logit of the size: on
validation networks squares smaller than those with the largest gains of single steps ended runs sooner. The factor was
chosen on the images of the validation below, so that its rows are optimistic.

"""
        if recipe.late
        else ""
    )
    checked = table(msgspec.convert(training["validation"], list[Found]))
    return f"""# {recipe.optimizer}

Controllers of Square Attack's size and colour after Yatsura, Metzen and Hein (2021), {parameters:,} weights, for linf
balls: a baseline. The rule is theirs; their weights come under another licence, and these were trained here.

## Training

The size was first fitted to Square Attack's schedule from p_init = {start.p_init:g} over {start.horizon:,} queries, by
{start.steps:,} steps of Adam. Then both controllers were trained by policy gradients. At each of the first {DENSE}
steps of a run, and at every {EVERY}th after them, an image is asked with the run's own square and with {recipe.pairs}
pairs of squares of the same place and colour, whose sizes are antithetic, with a standard deviation of {SPREAD:g} of
the logit. {recipe.updates} runs of {recipe.batch} images and {", ".join(map(str, recipe.horizons))} steps; Adam, step
size {recipe.lr:g} falling to zero along a cosine, seed {recipe.seed}. The networks, white boxes in training only; the
recipe trains them, but for the ResNets, which were trained on all of CIFAR-10. A network is attacked as often as its
weight says:

| network | images of | side | kind | adversarially trained | radii, in 1 / 255 | weight |
| --- | --- | ---: | --- | --- | --- | ---: |
{rows}

{after}Over the last tenth of the runs an image took {training["share"]:.1%} of a run's steps.
{spoken(training["seconds"])} on {training["threads"]} thread(s) (zoracle {training["zoracle"]}, torch
{training["torch"]}). Validation and test images of the tasks were not among them.

## Validation

On validation images of the tasks, by networks that were not trained on. Beside it, Square Attack with the p_init, of
0.05 to 0.8, that is the best for the first images of the row. A failure counts as the whole budget. Differences are
paired by image, with 95 % intervals. The network named robust was trained adversarially, within linf 8 / 255.

{checked}

## Use

`zoracle attack --optimizer {recipe.optimizer}` and `zoracle compare --threat linf`. It needs no setting, and no number
of queries that the run is planned for.
"""
