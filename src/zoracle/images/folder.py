"""A folder of pictures, read by Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zoracle.errors import InputError, require
from zoracle.images.arrays import LabelledImages
from zoracle.images.classes import Numbering
from zoracle.images.table import Row, read_table

Channels = Literal[1, 3]

#: The CSV that is looked for in a folder.
LABELS = "labels.csv"

#: Endings of pictures, and the formats of Pillow that they may have. No other is opened: some hand the file on to
#: another program (EPS to Ghostscript), and a name that says one thing should not be another.
FORMATS: dict[str, tuple[str, ...]] = {
    ".bmp": ("BMP",),
    ".gif": ("GIF",),
    ".jpeg": ("JPEG", "MPO"),
    ".jpg": ("JPEG", "MPO"),
    ".pbm": ("PPM",),
    ".pgm": ("PPM",),
    ".png": ("PNG",),
    ".ppm": ("PPM",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
    ".webp": ("WEBP",),
}
#: Endings of what is taken for a picture where no CSV names the files.
ENDINGS = tuple(FORMATS)

_MODES = {1: "L", 3: "RGB"}
#: Modes that are grey or coloured pictures of 8 bits in other words, and which.
_SAME = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}


def read_folder(
    folder: Path,
    labels: Path | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    size: tuple[int, int] | None = None,
    channels: Channels | None = None,
) -> LabelledImages:
    """The pictures of a folder as bytes, in the order of the CSV.

    Pixels are taken as they are stored: neither the orientation nor the colour profile that a file may name is applied.

    Args:
        folder: the pictures.
        labels: CSV with columns file (from the folder), label and possibly target. None uses the folder's own
            ``labels.csv``, or where there is none the names of its subfolders as labels.
        classes: names of the classes in the model's order; None sorts the names that there are.
        size: (H, W) to resize pictures to, by Pillow's bilinear filter; None expects one size.
        channels: 1 (grey) or 3 (RGB) to convert pictures to; None expects one kind.

    Raises:
        InputError: a file is missing, is no picture, is named twice, has another size or another kind than the first;
            a label is unusable.
        MissingExtraError: Pillow is not installed.
    """
    pillow = require("PIL.Image", "images")
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels!r}; expected 1 (grey) or 3 (RGB)")
    own = folder / LABELS
    csv = own if labels is None and own.is_file() else labels
    rows = _subfolders(folder) if csv is None else read_table(csv)
    texts = [text for row in rows for text in (row.label, row.target) if text is not None]
    numbering = Numbering.of(texts, classes)
    numbers = [numbering.number(row.label, row.where) for row in rows]
    targets = [numbering.number(row.target, row.where) for row in rows if row.target is not None]
    paths = _paths(folder, rows)
    images = np.stack(list(_pictures(pillow, rows, paths, size, channels)))
    notes = numbering.notes if csv is None else (*numbering.notes, *_left_out(folder, paths))
    return LabelledImages(
        torch.from_numpy(images),
        torch.tensor(numbers, dtype=torch.int64),
        torch.tensor(targets, dtype=torch.int64) if targets else None,
        numbering.names,
        notes,
    )


def _subfolders(folder: Path) -> list[Row]:
    """Rows of a folder that holds one subfolder a class."""
    with _readable(folder):
        kinds = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        rows = [
            Row(str(folder), f"{kind.name}/{path.name}", kind.name, None)
            for kind in kinds
            for path in sorted(kind.iterdir())
            if path.suffix.lower() in ENDINGS
        ]
    if not rows:
        raise InputError(
            f"{folder} has no {LABELS}, and no subfolders of pictures; pass a CSV of labels (columns file, label)"
        )
    return rows


def _paths(folder: Path, rows: list[Row]) -> list[Path]:
    """Where the pictures of rows are, each another file that exists."""
    seen: dict[Path, str] = {}
    for row in rows:
        path = folder / row.file
        try:
            there = path.is_file()
            path = path.resolve()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            raise InputError(f"{row.where}: {folder} has no file {row.file[:80]!r}")
        if path in seen:
            raise InputError(f"{row.where}: {row.file} is listed twice ({seen[path]}); expected each file once")
        seen[path] = row.where
    return list(seen)


def _pictures(
    pillow: Any, rows: list[Row], paths: list[Path], size: tuple[int, int] | None, channels: Channels | None
) -> Iterator[NDArray[np.uint8]]:
    """The pictures (C, H, W), all of one shape."""
    first: tuple[int, ...] | None = None
    for row, path in zip(rows, paths, strict=True):
        picture = _read(pillow, row, path, size, channels)
        shape = picture.shape
        first = first or shape
        if shape[0] != first[0]:
            kinds = {1: "grey", 3: "coloured"}
            raise InputError(
                f"{row.where}: {row.file} is {kinds[shape[0]]}, and the first picture {kinds[first[0]]}; "
                "expected one kind, or a number of channels to convert to"
            )
        if shape != first:
            raise InputError(
                f"{row.where}: {row.file} has {shape[1]}x{shape[2]} pixels, and the first picture "
                f"{first[1]}x{first[2]}; expected one size, or a size to resize to"
            )
        yield picture


def _read(
    pillow: Any, row: Row, path: Path, size: tuple[int, int] | None, channels: Channels | None
) -> NDArray[np.uint8]:
    formats = FORMATS.get(path.suffix.lower())
    if formats is None:
        raise InputError(
            f"{row.where}: {row.file[:80]} has no picture file extension; expected one of {', '.join(ENDINGS)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # faults beside the pixels
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path, formats=formats) as opened:
                opened.load()
                mode, kind = _mode(opened)
                picture = opened.convert(mode)
    except Exception as error:  # what damaged files raise is not documented, and of many kinds
        reason = _reason(pillow, error, formats[0])
        raise InputError(f"{row.where}: {row.file} cannot be read as a picture ({reason})") from None
    if kind is not None:
        raise InputError(f"{row.where}: {row.file} {kind}; expected one opaque picture of 8 bits, grey or RGB")
    if channels is not None:
        picture = picture.convert(_MODES[channels])
    if size is not None:
        picture = picture.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.array(picture, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _mode(opened: Any) -> tuple[str | None, str | None]:
    """What a picture is converted to without loss, "L" or "RGB", and what it is where there is no such thing."""
    if getattr(opened, "n_frames", 1) != 1:
        return None, f"has {opened.n_frames} frames"
    if opened.mode in _SAME and "transparency" not in opened.info:
        return _SAME[opened.mode], None
    if opened.mode in ("LA", "RGBA") and opened.getchannel("A").getextrema() == (255, 255):
        return opened.mode[:-1], None
    if opened.mode in (*_SAME, "LA", "RGBA", "PA"):
        return None, "is transparent"
    return None, f"has the mode {opened.mode}"


def _reason(pillow: Any, error: Exception, kind: str) -> str:
    if isinstance(error, pillow.UnidentifiedImageError):
        return f"of no kind that is known, or not the {kind} that its name says"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _left_out(folder: Path, paths: list[Path]) -> tuple[str, ...]:
    """A note where the folder holds pictures that no row names."""
    named = set(paths)
    with _readable(folder):
        others = [path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.resolve() not in named]
    if not others:
        return ()
    return (f"pictures in {folder} that no row of the labels names, left out: {len(others)}",)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror or error}); expected a folder of images") from None
