"""Attacks on a small network that reads 8x8 digits. Images, network and split ship with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from zoracle.blackboxes.torch_module import TorchModule
from zoracle.keyed import permutation
from zoracle.tasks.base import TaskDefaults
from zoracle.tasks.image_attack import ASSETS, ImageAttackTask, ImageData, write_splits
from zoracle.tasks.networks import DigitsNet, load_network
from zoracle.tasks.training import MARGIN, TargetReport, margins, save_target, train_target

#: Images that the target network learns from; it is attacked on the others.
_TARGET_IMAGES = 900
_SIZES = {"test": 200, "valid": 100}


class DigitsAttack(ImageAttackTask):
    """Attacks on handwritten digits of 64 pixels; ids are indices into the 1,797 images.

    The target network learned from half of the images. The problems are images of the other half that it reads
    correctly, by a margin of one nat at least. c is 0.2: with it white-box descent breaks 98 of 100 images and ends at
    7 % of the initial loss, most of it distance. At the paper's 0.1, chosen for 784 pixels, little is left to win; at
    0.5 one image in eight is best left alone.

    References:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
        (CC BY 4.0), in the form that scikit-learn distributes.
    """

    name = "digits"
    shape = (1, 8, 8)
    class_names = tuple("0123456789")
    white = 16
    own_c = 0.2
    radii: ClassVar[dict[str, float]] = {"linf": 0.2, "l2": 1.0}
    defaults = TaskDefaults()

    def _split_file(self) -> Path:
        return ASSETS / "digits_split.json"

    def _load(self) -> ImageData:
        images, labels = read_digits()
        return ImageData(images, labels, range(len(labels)))

    def _black_box(self, dtype: torch.dtype, device: torch.device | str) -> TorchModule:
        return TorchModule(load_network(DigitsNet, ASSETS / "digits_target.safetensors", dtype=dtype, device=device))


def train_digits_target(
    folder: Path = ASSETS, *, seed: int = 0, report: Callable[[int, float], None] | None = None
) -> TargetReport:
    """Train the target network and choose the split; what ships is what this writes with seed 0.

    The split is written down, not derived again: which borderline image a network reads correctly may differ between
    machines, and ids must not.

    Args:
        folder: where ``digits_target.safetensors`` and ``digits_split.json`` go.
        seed: keys the halves of the images, the first weights, and the order of training.
        report: called with the epoch and its mean loss.
    """
    bytes_, labels = read_digits()
    images = bytes_.float() / DigitsAttack.white
    order = torch.from_numpy(permutation(len(labels), seed))
    seen, unseen = order[:_TARGET_IMAGES], order[_TARGET_IMAGES:]
    module = train_target(DigitsNet, images[seen], labels[seen], seed=seed, epochs=60, weight_decay=0.1, report=report)
    margin = margins(module, images[unseen], labels[unseen])
    ids = unseen[margin >= MARGIN].tolist()
    start = sum(_SIZES.values())
    splits = {
        "train": tuple(ids[start:]),
        "valid": tuple(ids[_SIZES["test"] : start]),
        "test": tuple(ids[: _SIZES["test"]]),
    }
    right = margin > 0
    weights, split = folder / "digits_target.safetensors", folder / "digits_split.json"
    facts = {
        "network": "DigitsNet",
        "data": "UCI optical recognition of handwritten digits, as scikit-learn distributes it",
        "command": f"zoracle train-target --task digits --seed {seed}",
        "accuracy": f"{int(right.sum())} of {len(unseen)} images that it was not trained on",
    }
    save_target(module, weights, facts)
    write_splits(split, splits, "indices into the 1797 digits: not trained on by the target, read by a margin of 1 nat")
    return TargetReport(weights, split, float(right.double().mean()), len(unseen))


def read_digits() -> tuple[Tensor, Tensor]:
    """The 1,797 images (M, 1, 8, 8), uint8 from 0 to 16, and their labels (M,)."""
    with np.load(ASSETS / "digits.npz", allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()
