"""The folder of a run: opened once for one config, and written file by file, atomically."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoracle.errors import InputError
from zoracle.storage.files import lock, make_folder, read_json, sweep, write_bytes, write_json
from zoracle.storage.fingerprint import config_hash, differences, versions
from zoracle.storage.owned import is_at, open_owned

#: Format version of a run folder. Patch releases keep it; other versions raise an error.
FORMAT = 2
CONFIG = "config.json"
VERSIONS = "versions.json"
#: The entry with the time at which the run began.
BEGUN = "begun"
#: How the run was requested. The config determines the numbers and contains no local paths; this may.
COMMAND = "command.json"
#: The log of network attempts, if the target keeps one; it may exist before the run does.
ATTEMPTS = "attempts.jsonl"
#: The process that holds the lock on this file owns the folder; the file names the process.
LOCK = ".lock"
#: Subfolder for the finished shards of a run, from which an interrupted run continues.
PIECES = "pieces"


class RunFolder(NamedTuple):
    """An open run folder."""

    path: Path
    config: dict[str, Any]
    resumed: bool
    """The folder was there already, made with the same config."""

    @property
    def pieces(self) -> Path:
        """Folder of the finished shards."""
        return self.path / PIECES


@contextmanager
def locked(out: str | Path) -> Iterator[None]:
    """Reserve a run folder for this process; the reservation also ends when the process does, in any way.

    Unfinished files of killed processes are removed on entry, and the lock on exit.

    Raises:
        InputError: another process has it, its lock is a link or another's file, or it cannot be written to.
    """
    path = Path(out)
    _check_writable(path)
    file = _take(path)
    try:
        for folder in (path, path / PIECES, *_subfolders(path / PIECES)):
            sweep(folder)
        yield
    finally:
        if is_at(file, path / LOCK):
            with suppress(OSError):
                (path / LOCK).unlink()
        os.close(file)


#: Content of a lock file: the process that holds it.
_HOLDER = re.compile(rb"(zoracle (\d{1,10})\n?)?")


def _take(path: Path) -> int:
    """The lock of a folder, as a descriptor; it says which process has it."""
    while True:
        file = open_owned(path / LOCK)
        try:
            held = _HOLDER.fullmatch(os.read(file, 40))
            if held is None:
                raise InputError(
                    f"{path / LOCK} is not a lock of this version of zoracle; remove it, or choose another folder"
                )
            if not lock(file):
                other = (held[2] or b"").decode()
                raise InputError(
                    f"{path} is in use by another run{f' (process {other})' if other else ''}; "
                    "wait for it, end it, or choose another folder"
                )
            if is_at(file, path / LOCK):
                os.ftruncate(file, 0)
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, f"zoracle {os.getpid()}\n".encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its last owner has just removed it


def _subfolders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []


def open_run(out: str | Path, config: dict[str, Any], command: Mapping[str, Any] | None = None) -> RunFolder:
    """Create a run folder and write its config and versions, or reopen the folder of the same run.

    If this fails, nothing has been queried yet.

    Args:
        out: the folder.
        config: JSON values; everything that the run's numbers depend on.
        command: JSON values; how the run was requested, stored if nothing is stored yet.

    Raises:
        InputError: the folder cannot be written to, holds something else, or was made with another config.
    """
    path = Path(out)
    _check_writable(path)
    known = path / CONFIG
    config = {"format": FORMAT, **config}
    if known.is_file():
        there = read_json(known)
        if isinstance(there, dict) and there.get("format") != FORMAT:
            raise InputError(
                f"{path} holds a run of another version of zoracle (format {there.get('format', 1)}; "
                f"expected {FORMAT}); choose another folder"
            )
        if not isinstance(there, dict) or config_hash(there) != config_hash(config):
            raise InputError(
                f"{path} holds a run with another config ({_difference(there, config)}); "
                "choose another folder, or the same settings to resume it"
            )
        _note_versions(path / VERSIONS)
        _note_command(path / COMMAND, command)
        return RunFolder(path, config, resumed=True)
    if any(not entry.name.startswith(".") and entry.name != ATTEMPTS for entry in path.iterdir()):
        raise InputError(f"{path} is not empty and contains no {CONFIG}; choose a new or empty folder")
    write_json(known, config)
    _note_versions(path / VERSIONS)
    _note_command(path / COMMAND, command)
    return RunFolder(path, config, resumed=False)


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays atomically as an npz file without pickles.

    Raises:
        InputError: the folder cannot be written to, or an array holds objects.
    """
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise InputError(f"array {objects[0]!r} holds Python objects; expected numbers")
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(buffer, **named)
    write_bytes(path, buffer.getvalue())


def _note_versions(path: Path) -> None:
    """Write the versions and the time; a run resumed with other versions keeps the first and adds the latest."""
    now: dict[str, Any] = dict(versions())
    if path.is_file():
        first = read_json(path)
        known = {name: first.get(name) for name in now} if isinstance(first, dict) else None
        if known == now:
            return
        if known is not None:
            now = {BEGUN: first.get(BEGUN), **known, "resumed_with": now}
    else:
        now = {BEGUN: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), **now}
    write_json(path, now)


def _note_command(path: Path, command: Mapping[str, Any] | None) -> None:
    if command is not None and not path.is_file():
        write_json(path, command)


def _check_writable(path: Path) -> None:
    try:
        make_folder(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write into {path}: {error.strerror or error}; choose another folder") from error


def _difference(there: Any, asked: dict[str, Any]) -> str:
    """The first settings that differ, by name, with both values."""
    if not isinstance(there, dict):
        return "not one that zoracle wrote"
    told = differences(there, asked)
    return "; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")
