"""The CSV that says what the pictures of a folder show."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

from zoracle.errors import InputError
from zoracle.images.classes import read_text

#: Words by which a first line is told to be a header.
_FILE_WORDS = ("file", "filename", "image", "path")
_LABEL_WORDS = ("label", "class")
_EXPECTED = "expected columns file, label and possibly target"


class Row(NamedTuple):
    """What one line says of one picture."""

    where: str
    """The file and its line, for errors."""
    file: str
    label: str
    target: str | None


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV with columns file, label and possibly target.

    A header is told by its words, and may name further columns, which are left out. Without one the columns are in
    this order.

    Raises:
        InputError: it cannot be read, has no rows, or a row is not of this form.
    """
    lines = _lines(path)
    if not lines:
        raise InputError(f"{path} is empty; {_EXPECTED}")
    words = [cell.lower() for cell in lines[0][1]]
    columns = {
        "file": _find(words, _FILE_WORDS),
        "label": _find(words, _LABEL_WORDS),
        "target": _find(words, ("target",)),
    }
    width: int | None = len(words)
    if columns["file"] is None or columns["label"] is None:
        columns = {"file": 0, "label": 1, "target": 2 if width == 3 else None}
        if width not in (2, 3):
            raise InputError(f"{path}, line {lines[0][0]} has {width} cells and is not a header; {_EXPECTED}")
    else:
        lines = lines[1:]
        if not lines:
            raise InputError(f"{path} has a header and no rows; expected one per picture")
    return [_row(path, number, cells, columns, width) for number, cells in lines]


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and stripped cells; lines without any text are left out."""
    reader = csv.reader(io.StringIO(read_text(path, "a CSV of labels"), newline=""), strict=True)
    found = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                found.append((reader.line_num, stripped))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV ({error}); {_EXPECTED}") from None
    return found


def _find(words: list[str], known: tuple[str, ...]) -> int | None:
    return next((i for i, word in enumerate(words) if word in known), None)


def _row(path: Path, number: int, cells: list[str], columns: dict[str, int | None], width: int | None) -> Row:
    where = f"{path}, line {number}"
    if len(cells) != width:
        raise InputError(f"{where} has {len(cells)} cells; expected {width}, as in the first line")
    file, label, target = (None if at is None else cells[at] for at in columns.values())
    if not file or not label or target == "":
        missing = "file" if not file else "target" if label else "label"
        raise InputError(f"{where} has no {missing}; {_EXPECTED}")
    return Row(where, file, label, target)
