"""Networks, balls and correctly classified images for comparing attacks within balls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoracle import keyed
from zoracle.blackboxes import BlackBox, TorchModule
from zoracle.errors import InputError
from zoracle.experiments.context import Context
from zoracle.experiments.defences import Defence, Defended
from zoracle.metatrain import Member, trained
from zoracle.objectives import Attack, ThreatModel
from zoracle.rollout import Oracle
from zoracle.storage import config_hash, ids_hash
from zoracle.tasks import AttackTask, GivenImages, ImageData, ImageSet, Task, task, task_config
from zoracle.types import Purpose

Targeted = Literal["no", "random", "runner-up"]

#: More classes than this are not all looked at for the runner-up.
_MOST_CLASSES = 100
_TARGET_SEED = 77


class BallRow(NamedTuple):
    """One network and ball."""

    name: str
    title: str
    task: str
    norm: Literal["linf", "l2"]
    eps: float
    settings: Mapping[str, Any] = MappingProxyType({})
    batch: int | None = None
    """Images per batch."""
    defence: Defence = "none"
    """Preprocessing by the target before it classifies an image."""
    member: Member | None = None
    """A small network to train and to use instead of the task's own."""


def _cifar10(network: str, label: str, norm: Literal["linf", "l2"], size: int | None = None) -> BallRow:
    told = f"{size}/255" if size else "0.5"
    name = f"{network}-{norm}-{size or 0.5}"
    return BallRow(
        name, f"CIFAR-10, {label}, {norm} {told}", "cifar10", norm, size / 255 if size else 0.5, {"network": network}
    )


def _small(member: Member, label: str) -> list[BallRow]:
    rows = [
        *(_cifar10(member.name, label, "linf", size) for size in (8, 4)),
        _cifar10(member.name, label, "l2"),
    ]
    return [row._replace(settings={}, member=member) for row in rows]


def _behind(row: BallRow, defence: Defence, told: str) -> BallRow:
    title = row.title.replace(f", {row.norm}", f" {told}, {row.norm}")
    return row._replace(name=f"{row.name}-{defence}", title=title, defence=defence)


#: Networks of other architectures, none of them one that spectral-search is trained on.
_SMALL = {
    "an anti-aliased network": Member(
        name="antialiased", task="cifar10", side=32, kind="antialiased", width=16, epochs=6
    ),
    "a patch-based network": Member(name="patch", task="cifar10", side=32, kind="patch", patch=8, epochs=12),
    "a fully connected network": Member(name="mlp", task="cifar10", side=32, kind="mlp", epochs=8),
    "a network of depthwise convolutions": Member(
        name="mobile", task="cifar10", side=32, kind="mobile", width=16, epochs=5
    ),
    "a network of strided convolutions": Member(
        name="strided", task="cifar10", side=32, kind="strided", width=20, epochs=10
    ),
}
#: Keys their weights; the recipe of spectral-search has 0.
_SMALL_SEED = 1

_MNIST, _LITE = "MNIST, the paper's network", "ImageNet, EfficientNet-Lite0"

#: The rows by name.
ROWS: dict[str, BallRow] = {
    row.name: row
    for row in (
        BallRow("mnist-linf-0.3", f"{_MNIST}, linf 0.3", "mnist", "linf", 0.3),
        BallRow("mnist-linf-0.2", f"{_MNIST}, linf 0.2", "mnist", "linf", 0.2),
        BallRow("mnist-l2-2", f"{_MNIST}, l2 2", "mnist", "l2", 2.0),
        _cifar10("resnet20", "ResNet-20", "linf", 8),
        _cifar10("resnet20", "ResNet-20", "l2"),
        _cifar10("resnet44", "ResNet-44", "linf", 8),
        _cifar10("resnet44", "ResNet-44", "linf", 4),
        _cifar10("resnet44", "ResNet-44", "linf", 2),
        _cifar10("resnet44", "ResNet-44", "l2"),
        _behind(_cifar10("resnet44", "ResNet-44", "linf", 8), "blur", "that blurs first"),
        _behind(_cifar10("resnet44", "ResNet-44", "linf", 8), "jpeg", "that compresses to JPEG first"),
        _cifar10("robust", "an adversarially trained ResNet-8", "linf", 8),
        *(row for label, member in _SMALL.items() for row in _small(member, label)),
        BallRow("imagenet-linf-0.05", f"{_LITE}, linf 0.05", "imagenet", "linf", 0.05, batch=10),
        BallRow("imagenet-linf-4", f"{_LITE}, linf 4/255", "imagenet", "linf", 4 / 255, batch=10),
        BallRow("imagenet-l2-5", f"{_LITE}, l2 5", "imagenet", "l2", 5.0, batch=10),
        BallRow("digits-linf-0.2", "digits, linf 0.2", "digits", "linf", 0.2),
        BallRow("digits-l2-1", "digits, l2 1", "digits", "l2", 1.0),
    )
}
#: Those that the full form runs: what ships with the package is for the quick one.
FULL = tuple(name for name, row in ROWS.items() if row.task != "digits")


def rows_named(names: str) -> list[BallRow]:
    """The rows of a comma-separated list; those of the full form if it is empty.

    Raises:
        InputError: the name of a row is unknown.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(FULL)
    if unknown := [name for name in wanted if name not in ROWS]:
        raise InputError(f"rows={names}: there is no row {unknown[0]}; expected of {', '.join(ROWS)}")
    return [ROWS[name] for name in dict.fromkeys(wanted)]


class Attacked(NamedTuple):
    """The problems of a row."""

    task: Task
    ids: tuple[int, ...]
    """Test images that the network classifies correctly."""
    valid: tuple[int, ...]
    """Validation images likewise."""
    accuracy: float
    """Share of the examined test images that the network classifies correctly."""


def attacked(context: Context, row: BallRow, problems: int, valid: int, targeted: Targeted) -> Attacked:
    """A row's task, and the first images of its splits that its network classifies correctly.

    This takes one query per image, counted as monitoring.

    Raises:
        InputError: the row's data are missing.
    """
    threat = ThreatModel(norm=row.norm, eps=row.eps)
    made = task(row.task, threat=threat, **row.settings)
    if not isinstance(made, AttackTask):
        raise InputError(f"row {row.name}: task {row.task} is not an attack on images")
    if row.member is not None:
        folder = context.run.pieces / "networks"
        network, _ = trained(row.member, folder, seed=_SMALL_SEED)
        weights = folder / f"{row.member.name}.safetensors"
        made = _in_front_of(made, TorchModule(network), f"replaced by {row.member.name}", weights)
    if row.defence != "none":
        box = _black_box(made, made.ids("test")[:1])
        made = _in_front_of(made, Defended(box, row.defence), f"behind {row.defence}")
    found: dict[str, tuple[int, ...]] = {}
    shares = {}
    for split, many in (("test", problems), ("valid", valid)):
        right = _read_correctly(context, row, made, split)
        found[split] = tuple(i for i, is_right in right.items() if is_right)[:many]
        shares[split] = sum(right.values()) / len(right)
    if targeted != "no":
        made = _with_targets(context, row, made, found, targeted)
    return Attacked(made, found["test"], found["valid"], shares["test"])


def _read_correctly(context: Context, row: BallRow, made: AttackTask, split: str) -> dict[int, bool]:
    ids = made.ids(split)

    def look() -> dict[str, Tensor]:
        oracle = Oracle(made.objective(ids))
        start = torch.zeros(len(ids), 1, made.dim)
        success = oracle.evaluate(start, torch.arange(len(ids)), purpose=Purpose.MONITOR).success
        assert success is not None  # an attack always reports success
        return {"right": ~success[:, 0]}

    right = context.kept(f"{row.name}-{split}-read", made, {"split": split}, look)["right"]
    context.meter.add("monitor", len(ids))
    return dict(zip(ids, right.tolist(), strict=True))


def _in_front_of(made: AttackTask, box: BlackBox, told: str, file: Path | None = None) -> GivenImages:
    """The same images with another black box, identified by a description and the hash of a file."""
    splits = {split: made.ids(split) for split in ("test", "valid")}
    given = ImageSet(made.pick((*splits["test"], *splits["valid"])), splits, made.white, made.class_names)
    target = f"task {made.name} {config_hash(task_config(made))[:16]} {told}"
    return GivenImages(
        box, given, name=made.name, target=target, target_file=file, threat=made.threat, outputs=made.outputs
    )


def _with_targets(
    context: Context, row: BallRow, made: AttackTask, found: dict[str, tuple[int, ...]], targeted: Targeted
) -> GivenImages:
    """The same images, each with a target class."""
    ids = (*found["test"], *found["valid"])
    data = made.pick(ids)
    classes = len(made.class_names)
    if targeted == "random":
        drawn = torch.tensor([keyed.mix(_TARGET_SEED, i) % (classes - 1) for i in ids])
        targets = drawn + (drawn >= data.labels).long()
    else:
        targets = context.kept(
            f"{row.name}-runners-up", made, {"ids_sha256": ids_hash(ids)}, lambda: {"targets": _runners_up(made, data)}
        )["targets"]
        context.meter.add("monitor", len(ids) * (classes - 1))
    # The black box does not describe itself; the task's config does.
    told = f"task {made.name} {config_hash(task_config(made))[:16]}"
    given = ImageSet(data._replace(targets=targets), found, made.white, made.class_names)
    box = _black_box(made, ids)
    return GivenImages(box, given, name=made.name, target=told, threat=made.threat, outputs=made.outputs)


def _black_box(made: AttackTask, ids: tuple[int, ...]) -> BlackBox:
    """The model that an attack on these images calls."""
    attack = made.objective(ids)
    assert isinstance(attack, Attack)
    return attack.black_box


def _runners_up(made: AttackTask, data: ImageData) -> Tensor:
    """The likeliest wrong class of each image, whose attack begins at the lowest loss: (N,) int64."""
    classes = len(made.class_names)
    if not 1 < classes <= _MOST_CLASSES:
        raise InputError(
            f"targeted=runner-up looks at every class of {made.name}, and there are {classes}; expected 2 .. "
            f"{_MOST_CLASSES}, or targeted=random"
        )
    losses = torch.full((len(data.labels), classes), torch.inf)
    for target in range(classes):
        rows = (data.labels != target).nonzero().squeeze(1)
        if not len(rows):
            continue
        objective = Attack(
            _black_box(made, tuple(data.ids[:1])),
            data.images[rows].float() / made.white,
            data.labels[rows],
            made.threat,
            targets=torch.full_like(rows, target),
            outputs=made.outputs,
        )
        oracle, start = Oracle(objective), torch.zeros(len(rows), 1, objective.dim)
        found = oracle.evaluate(start, torch.arange(len(rows)), purpose=Purpose.MONITOR)
        losses[rows, target] = found.loss[:, 0]
    return losses.argmin(1)
