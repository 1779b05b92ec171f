"""Images of the built-in tasks, for a model of the user's own."""

from __future__ import annotations

from zoracle.errors import InputError
from zoracle.tasks import task
from zoracle.tasks.given import ImageSet
from zoracle.tasks.image_attack import ImageAttackTask, ImageData
from zoracle.tasks.imagenet import ImageNetAttack
from zoracle.tasks.mnist import MNISTAttack, read_mnist


def built_in(name: str) -> ImageSet:
    """The images of a task, with its ids and splits.

    MNIST without a target network has no split of images that it reads correctly: all 10,000 are for test then.

    Raises:
        InputError: the task has no images, or its data are missing.
    """
    if name == MNISTAttack.name and not MNISTAttack.has_target():
        images, labels = read_mnist("t10k")
        ids = range(len(labels))
        note = "mnist has no target network here, hence no splits: images are taken from the whole test set, in order"
        return ImageSet(
            ImageData(images, labels, ids),
            {"test": ids},
            MNISTAttack.white,
            MNISTAttack.class_names,
            MNISTAttack.radii,
            MNISTAttack.defaults.problems,
            (note,),
        )
    made = task(name)
    if not isinstance(made, ImageAttackTask | ImageNetAttack):
        raise InputError(f"task {name} has no images; expected digits, mnist, cifar10, imagenet, a folder or a file")
    splits = made.splits
    return ImageSet(made.pick(), splits, made.white, made.class_names, made.radii, made.defaults.problems)
