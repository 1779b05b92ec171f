"""The log of a training: its start, then the losses of each step. With directions keyed by a seed, it is complete.

A file of JSON lines, some tens of bytes per step, each with a checksum of everything up to it. A line cut off by a
crash is dropped with a warning when the file is read; any other damage raises an error.
"""

from __future__ import annotations

import json
import math
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoracle.errors import CheckpointError, DamagedWarning, InputError
from zoracle.storage.files import write_bytes
from zoracle.storage.owned import open_owned

FORMAT = "zoracle-finetune"
VERSION = 2


class Entry(NamedTuple):
    """One step."""

    losses: tuple[float, ...]
    """One per probe, NaN where it was not finite."""
    groups: tuple[tuple[float, float], ...]
    """Step size and weight decay of each group of parameters."""


class Ledger:
    """A log file that belongs to one training.

    Args:
        path: the file; created with the header if it does not exist.
        header: JSON values that identify the training.

    Raises:
        CheckpointError: the file belongs to another training, or is not a log of zoracle.
        InputError: it cannot be written.
    """

    def __init__(self, path: Path | str, header: dict[str, Any]) -> None:
        self.path = Path(path)
        header = {"format": FORMAT, "version": VERSION, **header}
        self.entries: list[Entry] = []
        if self.path.is_file():
            found, self.entries, self._whole, self._check = read(self.path)
            if different := sorted(key for key in header | found if header.get(key) != found.get(key)):
                key = different[0]
                raise CheckpointError(
                    f"{self.path} is the log of another training: its {key} is {_short(found.get(key))}, expected "
                    f"{_short(header.get(key))}; choose another file, or the same settings and starting weights"
                )
        else:
            data, self._check = _sealed(header, 0)
            write_bytes(self.path, data)
            self._whole = len(data)
        self._groups = self.entries[-1].groups if self.entries else None

    def append(self, entry: Entry) -> None:
        """Write a step; it is on the disk when this returns."""
        line: dict[str, Any] = {"losses": [value if math.isfinite(value) else None for value in entry.losses]}
        if entry.groups != self._groups:
            line["groups"] = entry.groups
        data, check = _sealed(line, self._check)
        try:
            with os.fdopen(open_owned(self.path), "r+b") as file:
                file.seek(self._whole)  # overwrites a line cut off by a crash
                file.write(data)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror}; the weights are as before the step"
            ) from error
        self._whole += len(data)
        self._check, self._groups = check, entry.groups


def read(path: Path | str) -> tuple[dict[str, Any], list[Entry], int, int]:
    """The header, the steps, the length in bytes of the intact part, and its checksum.

    Raises:
        CheckpointError: the file is missing, is not a log of zoracle, or is of a newer version.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; expected the log of a training") from error
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].split(b"\n")[:-1]
    try:
        header = json.loads(lines[0])
        known = header.get("format") == FORMAT
    except (IndexError, ValueError, AttributeError, RecursionError):
        known = False
    if not known:
        raise CheckpointError(
            f"{path} is not the log of a training; expected a file written by ZerothOrder(ledger=...)"
        )
    if header.get("version") != VERSION:
        raise CheckpointError(f"{path} has version {header.get('version')}; this version of zoracle reads {VERSION}")
    entries: list[Entry] = []
    check = 0
    groups: tuple[tuple[float, float], ...] = ()
    for number, line in enumerate(lines, 1):
        try:
            record, check = _unsealed(line, check)
            if number == 1:
                header = record
                continue
            groups = tuple((float(lr), float(decay)) for lr, decay in record.get("groups", groups))
            losses = tuple(math.nan if value is None else float(value) for value in record["losses"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"line {number} of {path} is damaged; expected the losses of a step") from error
        entries.append(Entry(losses, groups))
    if whole < len(data):
        warnings.warn(
            f"the last {len(data) - whole} bytes of {path} are part of a step that was not written to its end; the "
            "step is repeated",
            DamagedWarning,
            stacklevel=5,
        )
    return header, entries, whole, check


def _sealed(record: dict[str, Any], before: int) -> tuple[bytes, int]:
    """A line that ends with a checksum (CRC-32) of itself and all lines before, and the checksum."""
    body = json.dumps(record, separators=(",", ":")).encode()
    check = zlib.crc32(body, before)
    return body[:-1] + b',"check":%d}\n' % check, check


def _unsealed(line: bytes, before: int) -> tuple[dict[str, Any], int]:
    body, mark, told = line.rpartition(b',"check":')
    check = zlib.crc32(body + b"}", before)
    if not mark or told != b"%d}" % check:
        raise ValueError
    found: dict[str, Any] = json.loads(body + b"}")
    return found, check


def checked(entries: Sequence[Entry], probes: int, groups: int, path: Path | str) -> None:
    """Raise an error for steps that do not fit a training.

    Raises:
        CheckpointError: a step has a different number of losses or of parameter groups.
    """
    for number, entry in enumerate(entries):
        if len(entry.losses) != probes or len(entry.groups) != groups:
            raise CheckpointError(
                f"step {number} of {path} has {len(entry.losses)} losses and {len(entry.groups)} groups of parameters; "
                f"expected {probes} and {groups}"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
