"""Files that are there whole or not at all, and errors about them in one line."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zoracle.errors import CheckpointError, InputError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, never a part.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: its files are for the owner's eyes only, and a run folder is often shown to others.
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def lock(file: int) -> bool:
    """Lock an open file against other processes until it is closed, or its process has ended in whatever way.

    Args:
        file: its descriptor.

    Returns:
        False where another process has it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            # A byte far behind what is ever written: locks are mandatory there.
            os.lseek(file, 2**30, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # a file system without locks: it is better to run than to refuse
    return True


def check_writable(path: Path) -> None:
    """Find out before anything is paid for whether a file can be written; makes its folder, and leaves no file.

    Raises:
        InputError: it cannot, or a folder has its name.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f".{path.name}.{secrets.token_hex(4)}"
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
    """A safetensors file whose metadata values are JSON."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(flat, {name: json.dumps(value) for name, value in metadata.items()}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file; nothing is ever unpickled.

    Raises:
        CheckpointError: the file is missing, truncated, or something else than safetensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = {name: _json_or_text(value) for name, value in (file.metadata() or {}).items()}
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({reason}); it is truncated, or something else"
        ) from error
    return tensors, metadata


def _json_or_text(value: str) -> Any:
    """What we wrote is JSON; what others wrote is left as it is, for the caller to say whose file it is not."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        InputError: it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {str(error).splitlines()[0]}") from error
