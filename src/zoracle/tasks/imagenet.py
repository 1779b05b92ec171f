"""Attacks on an ONNX file that reads photographs, of ImageNet or others."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from zoracle.blackboxes.onnx import OnnxModel, data_files
from zoracle.errors import InputError
from zoracle.images import LabelledImages, read_labelled
from zoracle.images.classes import read_text
from zoracle.objectives.threat import ThreatModel
from zoracle.storage.hashing import file_hash
from zoracle.tasks.base import TaskDefaults
from zoracle.tasks.datasets import DATA_VARIABLE, find_data
from zoracle.tasks.image_attack import AttackTask, ImageData, Splits

#: Id of the first validation image; those of the test file count from 0.
FIRST_VALIDATION_ID = 10_000

#: What is attacked where nothing else is named, below the data folder.
MODEL, IMAGES, VALID, CLASSES = (
    f"imagenet/{name}" for name in ("efficientnet_lite0.onnx", "test_50.npz", "valid_40.npz", "classes.txt")
)


class ImageNetAttack(AttackTask):
    """Attacks on an ONNX file that takes images in [0, 1] and returns logits; ids are rows of the ``.npz`` file.

    By default the network is EfficientNet-Lite0 and the images are those below ``ZORACLE_DATA``, 50 to test and 40 to
    validate, of 224x224; validation images have the ids 10,000 + their row. Any other pair of files will do, with
    images of any size. There are none to train on.

    Args:
        model: the ONNX file.
        images: ``.npz`` file of images (uint8, or floating-point in [0, 1]) and labels, to test on.
        valid: another of images to validate on; where ``images`` is given and this is not, there are none.
        classes: text file with the names of the classes, one per line; where another model is given and this is not,
            classes have no names.
        threat: as for every attack on images.
        start_std: likewise.
        reduce: likewise.

    Raises:
        InputError: a file is missing or cannot be used, or the images of the two files differ in shape.

    References:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015; Tan and Le, "EfficientNet", 2019.
    """

    name = "imagenet"
    radii: ClassVar[dict[str, float]] = {"linf": 4 / 255, "l2": 5.0}
    outputs = "auto"
    defaults = TaskDefaults(problems=50)

    def __init__(
        self,
        *,
        model: str | None = None,
        images: str | None = None,
        valid: str | None = None,
        classes: str | None = None,
        threat: ThreatModel | None = None,
        start_std: float | None = None,
        reduce: str | None = None,
    ) -> None:
        self.model_file = _file("model", model, MODEL)
        self.images_file = _file("images", images, IMAGES)
        self.valid_file = _file("valid", valid, VALID) if valid is not None or images is None else None
        self.classes_file = _file("classes", classes, CLASSES) if classes is not None or model is None else None
        #: Files that the weights are in, where the model keeps them beside itself.
        self.weights_sha256 = " ".join(file_hash(one) for one in data_files(self.model_file)) or None
        self.class_names = _class_names(self.classes_file)
        shape = self._read.images.shape
        self.shape = (shape[1], shape[2], shape[3])
        self.white = 255 if self._read.images.dtype == torch.uint8 else 1
        super().__init__(threat=threat, start_std=start_std, reduce=reduce)
        rows = 0 if self._valid is None else len(self._valid.images)
        self.splits: Splits = {
            "train": (),
            "valid": tuple(range(FIRST_VALIDATION_ID, FIRST_VALIDATION_ID + rows)),
            "test": tuple(range(len(self._read.images))),
        }

    # What a worker makes the task again from; no paths are in a run's config, where the files' hashes are.
    @property
    def model(self) -> str:
        """The path of the ONNX file."""
        return str(self.model_file)

    @property
    def images(self) -> str:
        """The path of the test images."""
        return str(self.images_file)

    @property
    def valid(self) -> str | None:
        """The path of the validation images."""
        return None if self.valid_file is None else str(self.valid_file)

    @property
    def classes(self) -> str | None:
        """The path of the names of the classes."""
        return None if self.classes_file is None else str(self.classes_file)

    def ids(self, split: str) -> tuple[int, ...]:
        """The ids of a split, in the order of the images.

        Raises:
            InputError: the split is unknown, or there are no images in it.
        """
        self.check_split(split)
        if not self.splits[split]:
            mend = "; name a file of some by the setting valid" if split == "valid" else ""
            raise InputError(f"task imagenet has no {split} images{mend}")
        return self.splits[split]

    def _load(self) -> ImageData:
        parts = [self._read] if self._valid is None else [self._read, self._valid]
        return ImageData(
            torch.cat([part.images for part in parts]),
            torch.cat([part.labels for part in parts]),
            [*self.splits["test"], *self.splits["valid"]],
        )

    def _black_box(self, dtype: torch.dtype, device: torch.device | str) -> OnnxModel:
        return self._box

    @cached_property
    def _box(self) -> OnnxModel:
        return OnnxModel(self.model_file)

    @cached_property
    def _read(self) -> LabelledImages:
        return read_labelled(self.images_file)

    @cached_property
    def _valid(self) -> LabelledImages | None:
        if self.valid_file is None:
            return None
        found = read_labelled(self.valid_file)
        first = self._read.images
        if found.images.shape[1:] != first.shape[1:] or found.images.dtype != first.dtype:
            raise InputError(
                f"{self.valid_file} holds images {found.images.dtype} {tuple(found.images.shape[1:])}; expected "
                f"{first.dtype} {tuple(first.shape[1:])}, as in {self.images_file}"
            )
        return found


def _class_names(path: Path | None) -> tuple[str, ...]:
    """Names of classes, one per line; two of ImageNet's 1,000 are called crane, and two maillot."""
    if path is None:
        return ()
    names = tuple(line.strip() for line in read_text(path, "the names of classes").rstrip("\n").split("\n"))
    if len(names) < 2 or not all(names):
        raise InputError(
            f"{path} names {len(names)} classes or has an empty line; expected one name per line, at least 2"
        )
    return names


def _file(setting: str, given: str | None, relative: str) -> Path:
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise InputError(
                f"{setting} {given!r} of task imagenet is not a file; pass a file, or leave the setting out"
            )
        return path
    found = find_data(relative)
    if found is None:
        raise InputError(
            f"task imagenet has no {relative}; set {DATA_VARIABLE} to a folder that holds it, or name a file by the "
            f"setting {setting}"
        )
    return found
