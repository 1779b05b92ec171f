"""The paper's task: attacks on a convolutional network that reads MNIST digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zoracle.blackboxes.torch_module import TorchModule
from zoracle.errors import InputError
from zoracle.keyed import permutation
from zoracle.tasks.base import TaskDefaults
from zoracle.tasks.datasets import Progress, cache_dir, download, find_data, read_idx
from zoracle.tasks.image_attack import ImageAttackTask, ImageData, Splits, write_splits
from zoracle.tasks.networks import MNISTNet, load_network
from zoracle.tasks.training import TargetReport, margins, save_target, train_target

#: Mean and standard deviation that the network's inputs are normalised by.
NORMALISATION = (0.1307, 0.3081)

#: Where the official files are mirrored.
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")

#: The official files and the MD5 hashes published for them.
FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}

# The paper's network with its split, then one that the user trained, with its own.
_TARGETS = (
    ("mnist/paper_target_cnn.safetensors", "mnist/paper_split.json"),
    ("mnist/target_cnn.safetensors", "mnist/target_split.json"),
)


class MNISTAttack(ImageAttackTask):
    """Attacks on 784 pixels in [0, 1] with c = 0.1; ids are indices into the 10,000 test images.

    With the paper's target network below ``ZORACLE_DATA`` this is the task of the paper's public code, image by image.
    Otherwise the official files are downloaded and the target is the one that ``zoracle train-target --task mnist``
    trained.

    Raises:
        InputError: there is no target network.
    """

    name = "mnist"
    shape = (1, 28, 28)
    class_names = tuple("0123456789")
    outputs = "log-probabilities"
    radii: ClassVar[dict[str, float]] = {"linf": 0.3, "l2": 2.0}
    defaults = TaskDefaults()

    @cached_property
    def target(self) -> tuple[Path, Path]:
        """The files of the target network: its weights and its split."""
        return _target()

    @staticmethod
    def has_target() -> bool:
        """Whether there is a target network, without which there is no task."""
        return _find_target() is not None

    def _split_file(self) -> Path:
        return self.target[1]

    def _load(self) -> ImageData:
        images, labels = read_mnist("t10k")
        return ImageData(images, labels, range(len(labels)))

    def _black_box(self, dtype: torch.dtype, device: torch.device | str) -> TorchModule:
        network = load_network(MNISTNet, self.target[0], dtype=dtype, device=device)
        return TorchModule(network, preprocess=NORMALISATION)


def read_mnist(part: Literal["train", "t10k"], *, progress: Progress | None = None) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) uint8 and labels (N,) int64 of one part of MNIST, downloaded where they are missing.

    Raises:
        InputError: a file is missing and no mirror serves it, or it is damaged.
    """
    images = read_idx(_file(f"{part}-images-idx3-ubyte.gz", progress))
    labels = read_idx(_file(f"{part}-labels-idx1-ubyte.gz", progress))
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


def train_mnist_target(
    folder: Path | None = None,
    *,
    seed: int = 0,
    epochs: int = 6,
    report: Callable[[int, float], None] | None = None,
    progress: Progress | None = None,
) -> TargetReport:
    """Train a target network on the 60,000 training images and choose a split of the test images.

    Of the test images that the network reads correctly, in an order keyed by the seed, the first 100 train, the next
    200 validate, and positions 5,000 to 5,099 test, as in the paper's split.

    Args:
        folder: where ``target_cnn.safetensors`` and ``target_split.json`` go; None puts them where the task finds them.
        seed: keys the first weights and both orders.
        epochs: passes over the images.
        report: called with the epoch and its mean loss.
        progress: called while files are downloaded, with the bytes received and expected.

    Raises:
        InputError: the files are missing and cannot be downloaded.
    """
    folder = cache_dir() / "mnist" if folder is None else folder
    images, labels = read_mnist("train", progress=progress)
    module = train_target(
        MNISTNet, _normalised(images), labels, seed=seed, epochs=epochs, batch_size=100, report=report
    )
    images, labels = read_mnist("t10k", progress=progress)
    right = margins(module, _normalised(images), labels) > 0
    order = torch.from_numpy(permutation(len(labels), seed))
    weights, split = (folder / Path(name).name for name in _TARGETS[1])
    facts = {
        "network": "MNISTNet",
        "command": f"zoracle train-target --task mnist --seed {seed} --epochs {epochs}",
        "accuracy": f"{int(right.sum())} of {len(labels)} test images",
    }
    write_splits(split, _split(order[right[order]].tolist()), "indices into the MNIST test set, read correctly")
    save_target(module, weights, facts)
    return TargetReport(weights, split, float(right.double().mean()), len(labels))


def _split(ids: list[int]) -> Splits:
    return {"train": tuple(ids[:100]), "valid": tuple(ids[100:300]), "test": tuple(ids[5000:5100])}


def _normalised(images: Tensor) -> Tensor:
    mean, std = NORMALISATION
    return (images.float() / 255 - mean) / std


def _file(name: str, progress: Progress | None) -> Path:
    relative = f"mnist/{name}"
    if found := find_data(relative):
        return found
    return download([base + name for base in MIRRORS], cache_dir() / relative, md5=FILES[name], progress=progress)


def _find_target() -> tuple[Path, Path] | None:
    for names in _TARGETS:
        weights, split = map(find_data, names)
        if weights is not None and split is not None:
            return weights, split
    return None


def _target() -> tuple[Path, Path]:
    found = _find_target()
    if found is not None:
        return found
    raise InputError(
        "task mnist has no target network; set ZORACLE_DATA to a folder that holds "
        f"{_TARGETS[0][0]}, or train one with: zoracle train-target --task mnist"
    )
