"""Attacks on residual networks that read CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoracle.blackboxes.torch_module import TorchModule
from zoracle.errors import InputError
from zoracle.keyed import generator, permutation
from zoracle.objectives.threat import ThreatModel
from zoracle.tasks.base import TaskDefaults
from zoracle.tasks.datasets import DATA_VARIABLE, cache_dir, find_data, read_images
from zoracle.tasks.image_attack import ASSETS, ImageAttackTask, ImageData, write_splits
from zoracle.tasks.networks import ResNet8, ResNet20, ResNet32, ResNet44, load_network
from zoracle.tasks.training import (
    MARGIN,
    TargetReport,
    flipped_and_shifted,
    margins,
    save_target,
    signed_step,
    train_target,
)

#: Mean and standard deviation of each channel that the network's inputs are normalised by.
NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

#: Id of the first image of the training batches; those of the test batch count from 0.
FIRST_TRAINING_ID = 10_000

_TEST, _TRAIN = "cifar10/test_846.npz", "cifar10/train_4660.npz"

#: The networks by name; ``cifar10/NAME.safetensors`` holds the weights. ``zoracle train-target`` makes the robust one.
NETWORKS: dict[str, type[nn.Module]] = {
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "resnet44": ResNet44,
    "robust": ResNet8,
}

#: The linf ball that the robust network is trained against.
ROBUST_EPS = 8 / 255


class CIFAR10Attack(ImageAttackTask):
    """Attacks on 3,072 values in [0, 1]; ids are indices into the test batch, or 10,000 + those into the training ones.

    Problems to train on come from the training batches, the others from the test batch; all are read correctly by
    ResNet-20, by a margin of one nat at least. The data and the networks are those below ``ZORACLE_DATA``.

    Args:
        network: the network under attack: resnet20, resnet32, resnet44, or robust, the adversarially trained one that
            ``zoracle train-target --task cifar10`` makes. Other networks than the first may misread some of the
            images: those are successes before anything is asked.
        threat: as for every attack on images.
        start_std: likewise.
        reduce: likewise.

    Raises:
        InputError: a file is missing, or there is no such network.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    name = "cifar10"
    shape = (3, 32, 32)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    defaults = TaskDefaults()

    def __init__(
        self,
        *,
        network: str = "resnet20",
        threat: ThreatModel | None = None,
        start_std: float | None = None,
        reduce: str | None = None,
    ) -> None:
        self.network = network
        weights_of(network)
        super().__init__(threat=threat, start_std=start_std, reduce=reduce)

    @cached_property
    def files(self) -> dict[str, Path]:
        """The files of the data and the network, by their paths below the data folder."""
        return {relative: _file(relative) for relative in (_TEST, _TRAIN, weights_of(self.network))}

    def _split_file(self) -> Path:
        _ = self.files  # looked for now, so that a missing one is told before anything starts
        return ASSETS / "cifar10_split.json"

    def _load(self) -> ImageData:
        return _read(self.files)

    def _black_box(self, dtype: torch.dtype, device: torch.device | str) -> TorchModule:
        return classifier(self.network, dtype, device)


def weights_of(network: str) -> str:
    """The file of a network's weights, below the data folder.

    Raises:
        InputError: there is no such network.
    """
    if network not in NETWORKS:
        raise InputError(f"task cifar10 has no network {network!r}; expected one of {', '.join(NETWORKS)}")
    return f"cifar10/{network}.safetensors"


def classifier(network: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> TorchModule:
    """A network of :data:`NETWORKS` as a black box, of images in [0, 1].

    Raises:
        InputError: there is no such network, or its file is missing.
    """
    weights = _file(weights_of(network))
    return TorchModule(load_network(NETWORKS[network], weights, dtype=dtype, device=device), preprocess=NORMALISATION)


def train_robust_target(
    folder: Path | None = None,
    *,
    seed: int = 0,
    epochs: int = 15,
    eps: float = ROBUST_EPS,
    report: Callable[[int, float], None] | None = None,
) -> TargetReport:
    """Train a ResNet-8 adversarially on the images of the training batches, by one signed step an image.

    Args:
        folder: where ``robust.safetensors`` goes; None puts it where the task finds it.
        seed: keys the first weights, the order of images, and what is done to them.
        epochs: passes over the images.
        eps: radius of the linf ball.
        report: called with the epoch and its mean loss.

    Raises:
        InputError: a file of the data is missing.
    """
    folder = cache_dir() / "cifar10" if folder is None else folder
    files = {relative: _file(relative) for relative in (_TEST, _TRAIN)}
    data = _read(files)
    split = ASSETS / "cifar10_split.json"
    training = torch.tensor([i >= FIRST_TRAINING_ID for i in data.ids])
    x, y = data.images.float() / 255, data.labels

    def prepare(module: nn.Module, images: Tensor, labels: Tensor, step: int) -> Tensor:
        g = generator(seed, 21, step)
        images = flipped_and_shifted(images, g, 3)
        module.eval()  # the attack leaves the running statistics alone
        attacked = signed_step(lambda some: module(_normalised(some)), images, labels, eps, g)
        module.train()
        return _normalised(attacked)

    module = train_target(
        ResNet8, x[training], y[training], seed=seed, epochs=epochs, batch_size=100, weight_decay=5e-3,
        learning_rate=4e-3, prepare=prepare, report=report,
    )  # fmt: skip
    right = margins(module, _normalised(x[~training]), y[~training]) > 0
    facts = {
        "network": "ResNet8",
        "command": f"zoracle train-target --task cifar10 --seed {seed} --epochs {epochs}",
        "training": f"{int(training.sum())} images, one signed step within linf {eps:g}",
        "accuracy": f"{int(right.sum())} of {len(right)} images of the test batch",
    }
    weights = folder / "robust.safetensors"
    save_target(module, weights, facts)
    return TargetReport(weights, split, float(right.double().mean()), len(right))


def choose_cifar10_split(path: Path = ASSETS / "cifar10_split.json") -> None:
    """Write the split that ships: 500 images to train on, 200 to validate, 200 to test.

    It is written down, not derived again: which borderline image the network reads correctly may differ between
    machines, and ids must not.

    Raises:
        InputError: a file of the data is missing.
    """
    data = _read({relative: _file(relative) for relative in (_TEST, _TRAIN)})
    margin = margins(classifier("resnet20"), data.images.float() / 255, data.labels)
    order = permutation(len(data.ids), 0)
    kept = [data.ids[row] for row in order if margin[row] >= MARGIN]
    training = [i for i in kept if i >= FIRST_TRAINING_ID]
    testing = [i for i in kept if i < FIRST_TRAINING_ID]
    splits = {"train": tuple(training[:500]), "valid": tuple(testing[200:400]), "test": tuple(testing[:200])}
    write_splits(
        path, splits, "indices into the test batch, 10000 + into the training batches; read by a margin of 1 nat"
    )


def _read(files: dict[str, Path]) -> ImageData:
    (test, test_labels), (train, train_labels) = read_images(files[_TEST]), read_images(files[_TRAIN])
    return ImageData(
        torch.from_numpy(np.concatenate((test, train))),
        torch.from_numpy(np.concatenate((test_labels, train_labels))).long(),
        [*range(len(test)), *range(FIRST_TRAINING_ID, FIRST_TRAINING_ID + len(train))],
    )


def _normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATION)
    return (images - mean) / std


def _file(relative: str) -> Path:
    path = find_data(relative)
    if path is None and relative == weights_of("robust"):
        raise InputError(f"task cifar10 has no {relative}; train one with: zoracle train-target --task cifar10")
    if path is None:
        raise InputError(f"task cifar10 has no {relative}; set {DATA_VARIABLE} to a folder that holds it")
    return path
