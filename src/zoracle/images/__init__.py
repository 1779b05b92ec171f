"""The user's labelled images: arrays in an ``.npz`` file, or a folder of pictures with a CSV of labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoracle.errors import InputError
from zoracle.images.archive import read_archive
from zoracle.images.arrays import LabelledImages, Layout, as_images, as_labels
from zoracle.images.classes import read_classes
from zoracle.images.folder import Channels, read_folder

__all__ = [
    "Channels",
    "LabelledImages",
    "Layout",
    "as_images",
    "as_labels",
    "read_archive",
    "read_classes",
    "read_folder",
    "read_labelled",
]


def read_labelled(
    path: Path | str,
    *,
    labels: Path | str | None = None,
    classes: Path | str | None = None,
    images_key: str | None = None,
    labels_key: str | None = None,
    targets_key: str | None = None,
    layout: Layout | None = None,
    size: tuple[int, int] | None = None,
    channels: Channels | None = None,
) -> LabelledImages:
    """The images of an ``.npz`` file or of a folder.

    Args:
        path: the file or the folder.
        labels: CSV of a folder, with columns file, label and possibly target; by default its ``labels.csv``, and where
            there is none the names of its subfolders are the labels.
        classes: text file with the names of the classes in the model's order, one per line.
        images_key: name of the array of images; "images" by default. Like the next ones, of an ``.npz`` file only.
        labels_key: name of the array of labels; "labels" by default.
        targets_key: name of the array of target classes; "targets" by default, which need not be there.
        layout: "NCHW" or "NHWC"; None tells it from the shape.
        size: (H, W) that pictures are resized to; None expects one size. Like the next one, of a folder only.
        channels: 1 or 3, what pictures are turned into; None expects one kind.

    Raises:
        InputError: something cannot be read, or does not fit.
    """
    path = Path(path)
    names = None if classes is None else read_classes(Path(classes))
    if _is_folder(path):
        given = {"images_key": images_key, "labels_key": labels_key, "targets_key": targets_key, "layout": layout}
        _refuse(path, "an .npz file", given)
        csv = None if labels is None else Path(labels)
        return read_folder(path, csv, classes=names, size=size, channels=channels)
    _refuse(path, "a folder of images", {"labels": labels, "size": size, "channels": channels})
    return read_archive(
        path, images_key=images_key, labels_key=labels_key, targets_key=targets_key, layout=layout, classes=names
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _refuse(path: Path, kind: str, given: Mapping[str, object]) -> None:
    """Raise where an option was given that goes with the other kind of data."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} was given, but {path} is not {kind}; leave it out")
