"""What every attack on an image classifier shares; a data set is one small class more."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zoracle.blackboxes.base import BlackBox
from zoracle.errors import InputError
from zoracle.keyed import START_STREAM, normal
from zoracle.objectives.attack import Attack, ImageAttack, Outputs
from zoracle.objectives.decision import DecisionAttack
from zoracle.objectives.reduced import Reduced
from zoracle.objectives.threat import ThreatModel
from zoracle.tasks.base import SPLITS, Pictures, Task
from zoracle.types import Key
from zoracle.upsampling import parse

#: What ships with the package.
ASSETS = Path(__file__).parent.parent / "assets"

Splits = dict[str, tuple[int, ...]]


class ImageData(NamedTuple):
    """The images of a task."""

    images: Tensor
    """(M, C, H, W), pixels from 0 to the task's ``white``."""
    labels: Tensor
    """(M,) int64."""
    ids: Sequence[int]
    """M different numbers, the id of each image."""
    targets: Tensor | None = None
    """(M,) int64, the class that each image's attack has to reach; None for any other than the label."""


class AttackTask(Task):
    r"""Attacks on one classifier, one problem an image; the id of a problem is that of its image.

    Points start at delta_0 = start_std * N(0, I), keyed by seed and id. Subclasses set the attributes and write
    :meth:`ids`, :meth:`_load` and :meth:`_black_box`.

    Args:
        threat: what perturbations are allowed; None asks for small ones in l1. Without a c it takes the task's own.
        start_std: standard deviation of the starting points; None uses 1e-4, and 0 within a ball.
        reduce: search among coarse perturbations only, "tile:2", "tile:14x14" or "bilinear:14" say; see
            :class:`Reduced`. The task's dimension is then that of the coarse ones.

    Attributes:
        shape: (C, H, W) of an image.
        class_names: names of the classes, in their order; none where they are not known.
        white: the value that is pixel 1.
        outputs: what the black box returns.
        own_c: the task's own c.
        radii: by norm, the radius of the ball that attacks on these images are usually given; none where there is no
            usual one.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    white: int = 255
    outputs: Outputs = "logits"
    own_c: float = 0.1
    radii: ClassVar[dict[str, float]] = {}

    def __init__(
        self,
        *,
        threat: ThreatModel | None = None,
        start_std: float | None = None,
        reduce: str | None = None,
    ) -> None:
        self.dim = math.prod(self.shape) if reduce is None else parse(reduce, self.shape).dim
        self.reduce = reduce
        self.threat = (ThreatModel() if threat is None else threat).weighed(self.own_c)
        self.start_std = self.threat.start_std if start_std is None else start_std

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> ImageAttack:
        """The attacks on these images, in this order; any image of the data set may be named.

        Raises:
            InputError: the data set has no such image.
        """
        picked = self.pick(ids)
        images = picked.images.to(device=device, dtype=dtype) / self.white
        what = (self._black_box(dtype, device), images, picked.labels)
        # Images were checked by who read them.
        attack: Attack
        if self.outputs == "labels":
            attack = DecisionAttack(*what, self.threat, targets=picked.targets, checked=True)
        else:
            attack = Attack(
                *what,
                self.threat,
                targets=picked.targets,
                outputs=self.outputs,
                num_classes=len(self.class_names) or None,
                checked=True,
            )
        return attack if self.reduce is None else Reduced(attack, self.reduce)

    def start(
        self,
        ids: tuple[int, ...],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Starting perturbations (P, d), keyed by seed and id."""
        key = Key.start(seed, torch.tensor(ids, dtype=torch.int64))
        return (self.start_std * normal(key, (self.dim,), START_STREAM, dtype)).to(device)

    def pictures(self, ids: tuple[int, ...]) -> Pictures:
        """The images with these ids, their labels, and the names of the classes."""
        picked = self.pick(ids)
        return Pictures(picked.images.float() / self.white, picked.labels, self.class_names)

    def pick(self, ids: Sequence[int] | None = None) -> ImageData:
        """The data of these ids, in this order, as they were read; None uses all.

        Raises:
            InputError: there is no such image.
        """
        data, rows = self._data
        if ids is None:
            return data
        if not ids:
            raise InputError(f"no ids are given for task {self.name}; expected at least one")
        if unknown := [i for i in ids if i not in rows]:
            raise InputError(f"task {self.name} has no image {unknown[0]}; expected one of its {len(rows)} ids")
        picked = torch.tensor([rows[i] for i in ids])
        targets = None if data.targets is None else data.targets[picked]
        return ImageData(data.images[picked], data.labels[picked], tuple(ids), targets)

    @abstractmethod
    def _load(self) -> ImageData:
        """Read the images; called once, when they are first needed."""

    @abstractmethod
    def _black_box(self, dtype: torch.dtype, device: torch.device | str) -> BlackBox:
        """The classifier under attack."""

    @cached_property
    def _data(self) -> tuple[ImageData, dict[int, int]]:
        data = self._load()
        return data, {identity: row for row, identity in enumerate(data.ids)}


class ImageAttackTask(AttackTask):
    r"""Attacks on the images of a data set, whose split is written in a file.

    Subclasses set the class attributes and write :meth:`_split_file`, :meth:`_load` and :meth:`_black_box`.

    Args:
        threat: what perturbations are allowed; None asks for small ones in l1. Without a c it takes the task's own.
        start_std: standard deviation of the starting points; None uses 1e-4, and 0 within a ball.
        reduce: search among coarse perturbations only, as in :class:`AttackTask`.

    Raises:
        InputError: something that the task needs is missing.

    Attributes:
        splits: the ids of each split.
    """

    radii: ClassVar[dict[str, float]] = {"linf": 8 / 255, "l2": 0.5}
    splits: Splits

    def __init__(
        self,
        *,
        threat: ThreatModel | None = None,
        start_std: float | None = None,
        reduce: str | None = None,
    ) -> None:
        super().__init__(threat=threat, start_std=start_std, reduce=reduce)
        self.splits = read_splits(self._split_file())

    def ids(self, split: str) -> tuple[int, ...]:
        """The ids of a split, in a fixed order.

        Raises:
            InputError: the split is unknown.
        """
        self.check_split(split)
        return self.splits[split]

    @abstractmethod
    def _split_file(self) -> Path:
        """Where the ids of each split are written, as :func:`write_splits` does.

        Raises:
            InputError: something that the task needs is missing.
        """


def read_splits(path: Path) -> Splits:
    """The ids of a JSON file with lists ``train``, ``valid`` and ``test``.

    Raises:
        InputError: not such a file, or splits that overlap.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        splits = {split: tuple(int(i) for i in content[split]) for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); expected lists train, valid and test") from error
    every = [i for ids in splits.values() for i in ids]
    if len(set(every)) != len(every):
        raise InputError(f"{path} names an image twice; expected disjoint splits")
    return splits


def write_splits(path: Path, splits: Splits, note: str) -> None:
    """Write the ids of each split as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"note": note, **{split: list(ids) for split, ids in splits.items()}}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
