"""Attacks on a user's own model and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from zoracle.blackboxes.base import BlackBox
from zoracle.errors import InputError
from zoracle.images import Layout, as_images, as_labels
from zoracle.images.arrays import as_array, check_classes
from zoracle.objectives.attack import Outputs
from zoracle.objectives.threat import ThreatModel
from zoracle.storage.hashing import tensor_hash
from zoracle.tasks.base import SPLITS, TaskDefaults
from zoracle.tasks.image_attack import AttackTask, ImageData


class ImageSet(NamedTuple):
    """Images to attack, checked and in one form, and what is known of them. :func:`image_set` makes one."""

    data: ImageData
    splits: Mapping[str, Sequence[int]]
    """Ids by split."""
    white: int
    """The value that is pixel 1."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in the model's order; none where they are not known."""
    radii: Mapping[str, float] = {}
    """By norm, the usual radius of a ball; none where there is no usual one."""
    problems: int | None = None
    """How many a run takes where it is not told; None uses all."""
    notes: tuple[str, ...] = ()
    """What whoever asked for the images should know of how they were read."""


def image_set(
    images: Any,
    labels: Any,
    *,
    targets: Any = None,
    ids: Sequence[int] | None = None,
    splits: Mapping[str, Sequence[int]] | None = None,
    class_names: Sequence[str] = (),
    layout: Layout | None = None,
    problems: int | None = None,
) -> ImageSet:
    """Arrays of the user as images to attack. Here, and nowhere later, their form and range are checked.

    Args:
        images: (P, C, H, W), (P, H, W) or (P, H, W, C), bytes or floating-point pixels in [0, 1].
        labels: (P,) integers, the true classes.
        targets: (P,) integers, the classes to reach; None for any other than the label.
        ids: (P,) different integers, the ids of the problems; 0 .. P - 1 by default.
        splits: ids by split; by default all are in "test".
        class_names: names of the classes in the model's order, where they are known.
        layout: "NCHW" or "NHWC"; None tells it from the shape.
        problems: how many a run takes where it is not told; None uses all of the split.

    Raises:
        InputError: images, labels, targets or ids that cannot be used or do not go together.
    """
    x = as_images(images, layout)
    y = as_labels(labels, len(x))
    wanted = None if targets is None else as_labels(targets, len(x), "targets")
    known = _ids(ids, len(x))
    white = 255 if x.dtype == torch.uint8 else 1
    return ImageSet(
        ImageData(x, y, known, wanted), _splits(known, splits), white, tuple(class_names), problems=problems
    )


class GivenImages(AttackTask):
    r"""Attacks on given images of a given black box.

    What is given is distinguished by hashes, which are public attributes: a run on other images, labels or targets is
    another run.

    Args:
        box: the classifier.
        given: the images.
        name: what the task is called.
        target: what tells the black box from others, in words that may be written down: no secrets, no paths.
        target_file: a file that the black box was made from; its hash tells it from others.
        threat: what perturbations are allowed; None asks for small ones in l1.
        outputs: what the black box returns; None uses what it declares.
        start_std: standard deviation of the starting points; None uses 1e-4, and 0 within a ball.
        reduce: search among coarse perturbations only, as in :class:`AttackTask`.

    Raises:
        InputError: labels or targets that are none of the classes, or a target that is the label.

    Examples:
        >>> from zoracle.blackboxes import PythonFunction
        >>> box = PythonFunction(lambda x: torch.stack([x.flatten(1).mean(1), 1 - x.flatten(1).mean(1)], 1))
        >>> task = GivenImages(box, image_set(torch.zeros(3, 4, 4), [1, 1, 1]))
        >>> task.ids("test"), task.dim, task.objective((0, 2)).num_problems
        ((0, 1, 2), 16, 2)
    """

    recheck = True

    def __init__(
        self,
        box: BlackBox,
        given: ImageSet,
        *,
        name: str = "images",
        target: str = "",
        target_file: Path | None = None,
        threat: ThreatModel | None = None,
        outputs: Outputs | None = None,
        start_std: float | None = None,
        reduce: str | None = None,
    ) -> None:
        x, y, _, wanted = given.data
        self.name = name
        self.shape = (x.shape[1], x.shape[2], x.shape[3])
        self.class_names = given.class_names
        self.white = given.white
        self.outputs = getattr(box, "outputs", "logits") if outputs is None else outputs
        super().__init__(threat=threat, start_std=start_std, reduce=reduce)
        if self.class_names:
            check_classes(y, len(self.class_names), "label")
            if wanted is not None:
                check_classes(wanted, len(self.class_names), "target")
        if wanted is not None and bool((wanted == y).any()):
            row = int((wanted == y).nonzero()[0])
            raise InputError(f"target {int(y[row])} of image {row} is its label; expected another class")
        self._given = given
        self._box = box
        self.images_sha256 = tensor_hash(x)
        self.labels_sha256 = tensor_hash(y)
        self.targets_sha256 = None if wanted is None else tensor_hash(wanted)
        self.target = target
        self.target_file = target_file
        self.defaults = TaskDefaults(problems=given.problems or len(x))

    def ids(self, split: str) -> tuple[int, ...]:
        """The ids of a split, in the order of the images.

        Raises:
            InputError: the split is unknown, or no images are in it.
        """
        self.check_split(split)
        found = tuple(self._given.splits.get(split, ()))
        if not found:
            raise InputError(f"there are no images for the {split} split; the given images are for test")
        return found

    def _load(self) -> ImageData:
        return self._given.data

    def close(self) -> None:
        """Let go of what the black box holds: connections, a log."""
        self._box.close()

    def _black_box(self, dtype: torch.dtype, device: torch.device | str) -> BlackBox:
        return self._box


def _ids(ids: Sequence[int] | None, number: int) -> tuple[int, ...]:
    if ids is None:
        return tuple(range(number))
    array = as_array("ids", ids)
    if array.dtype.kind not in "iu" or array.shape != (number,):
        raise InputError(f"ids are {array.dtype} of shape {array.shape}; expected {number} integers, one per image")
    found = tuple(array.tolist())
    if len(set(found)) < number:
        twice = next(i for i in found if found.count(i) > 1)
        raise InputError(f"ids contain {twice} more than once; expected distinct numbers")
    return found


def _splits(ids: Sequence[int], splits: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    if splits is None:
        return {split: tuple(ids) if split == "test" else () for split in SPLITS}
    known = set(ids)
    for split, some in splits.items():
        if split not in SPLITS:
            raise InputError(f"split {split!r} is unknown; expected one of {', '.join(SPLITS)}")
        if missing := [i for i in some if i not in known]:
            raise InputError(f"the {split} split contains {missing[0]}, which is not the id of an image")
    return {split: tuple(splits.get(split, ())) for split in SPLITS}
