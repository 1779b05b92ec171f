"""Images in an .npz file, a model that is a plain function: the attack of `zoracle attack --target --data`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import zoracle
from zoracle.images import read_labelled
from zoracle.tasks import task

# The file, as you would have one: bytes (P, H, W) and labels (P,). These are digits that come with zoracle.
digits = task("digits")
pictures = digits.pictures(digits.ids("test")[:20])
folder = TemporaryDirectory()
path = Path(folder.name) / "images.npz"
np.savez(path, images=np.rint(255 * pictures.images[:, 0].numpy()).astype(np.uint8), labels=pictures.labels.numpy())

# The model: the mean image of each class, and how far an image is from it.
train = digits.pictures(digits.ids("train"))
means = np.stack([train.images[train.labels == label].mean(0).numpy() for label in range(10)])


def classify(x):
    """Scores (N, 10) of images (N, 1, 8, 8)."""
    return -((x[:, None] - means) ** 2).sum(axis=(2, 3, 4))


data = read_labelled(path)
result = zoracle.attack(
    classify,
    (data.images / 255).numpy(),
    data.labels,
    norm="linf",
    eps=0.1,
    budget=840,
    optimizer="zo-sgd",
    outputs="logits",
    stop_on_success=True,
)
folder.cleanup()

attacked = ~result.misclassified
print(f"{int(result.misclassified.sum())} of {len(data.labels)} images were misclassified from the start")
print(f"{int(result.success[attacked].sum())} of the others are misclassified within an linf ball of 0.1")
queries = result.queries_to_success[result.success & attacked].double()
print(f"first successes took {queries.median():.0f} queries (median)")
