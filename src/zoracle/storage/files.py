"""Atomic file writes, and one-line errors about files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zoracle.errors import CheckpointError, InputError
from zoracle.storage.hashing import raw

#: Suffix of the temporary name of a file being written, which begins with a dot and the name of the file.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old or the new file, never a partial one.

    It is written under a temporary name and then renamed, and both are synced to disk before this returns. A
    link at this path is replaced, and its target is not touched.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        make_folder(path.parent)
        # Not tempfile: its files are readable by the owner only, and run folders are often shared.
        temporary = _unfinished(path)
        try:
            with temporary.open("xb") as file:
                lock(file.fileno())  # else it would be taken for a leftover of a killed process
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                if sys.platform != "win32":
                    os.replace(temporary, path)
            if sys.platform == "win32":
                os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents.

    Raises:
        OSError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except RecursionError:  # one in a thousand others
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path)) from None


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk; does nothing on systems that do not support it."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove unfinished files of killed processes from a folder; files still being written are locked, and stay.

    Args:
        folder: the folder; subfolders are not searched.
        name: name of the file that was being written; None for all.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            begins = name is None or entry.name.startswith(f".{name[:_NAME]}.")
            if not (begins and _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
                continue
            with suppress(OSError):
                file = os.open(entry.path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
                try:
                    left = lock(file)
                finally:
                    os.close(file)
                if left:
                    os.unlink(entry.path)


#: Number of characters of a file's name used in its temporary name, since the length of names is limited.
_NAME = 100


def _unfinished(path: Path) -> Path:
    return path.parent / f".{path.name[:_NAME]}.{secrets.token_hex(4)}.tmp"


def lock(file: int) -> bool:
    """Lock an open file against other processes until it is closed or its process ends in any way.

    Args:
        file: its descriptor.

    Returns:
        False where another process has it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            # A byte far beyond the data: locks are mandatory there.
            os.lseek(file, 2**30, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # a file system without locks: running is better than refusing
    return True


def exists(path: Path) -> bool:
    """Whether a file or folder of this name exists; False for invalid names."""
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False


def check_writable(path: Path) -> None:
    """Check, before any query is spent, that a file can be written; creates its folder, but leaves no file.

    Raises:
        InputError: it cannot, or a folder has its name.
    """
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; pass a file name")
        make_folder(path.parent)
        probe = _unfinished(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """As :func:`write_bytes`, UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """As :func:`write_bytes`, indented JSON; numbers that are not finite are refused by the caller's own form."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """A safetensors file whose metadata values are JSON, with a checksum of all of it."""
    flat: dict[str, Tensor] = {}
    seen = set[int]()
    for name, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        # The format does not support two names for the same memory, but parts of a state may share memory.
        memory = whole.untyped_storage().data_ptr()
        flat[name] = whole.clone() if memory in seen else whole
        seen.add(memory)
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    write_bytes(path, save(flat, {**texts, _CHECKSUM: json.dumps(_checksum(flat, texts))}))


def read_tensors(path: Path, *, sealed: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file; nothing is ever unpickled.

    Args:
        path: the file.
        sealed: whether a checksum is required; an existing checksum is always verified.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or not a safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            texts = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({reason[:200]}); it is truncated or another kind of file"
        ) from error
    told = texts.pop(_CHECKSUM, None)
    if told is None and sealed:
        raise CheckpointError(f"{path} has no checksum: it is from another version of zoracle, or another kind of file")
    if told is not None and _json_or_text(told) != _checksum(tensors, texts):
        raise CheckpointError(f"{path} is damaged: its checksum does not match; restore a copy, or remove it")
    return tensors, {name: _json_or_text(value) for name, value in texts.items()}


_CHECKSUM = "checksum"


def _checksum(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    """BLAKE2 of all names, types, shapes, bytes and metadata."""
    digest: Any = hashlib.blake2b(digest_size=16)
    for name, text in sorted(texts.items()):
        digest.update(f"{len(name)} {len(text)} {name}{text}".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{len(name)} {name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(raw(tensor))
    return str(digest.hexdigest())


def _json_or_text(value: str) -> Any:
    """What we wrote is JSON; what others wrote is left as it is, for the caller to say whose file it is not."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        InputError: it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {str(error).splitlines()[0][:200]}") from error
