"""Append-only files: never written through a link or into a foreign file; each write is complete or absent.

Records carry a checksum (:class:`Records`): a damaged end is cut off with a warning, damage in the middle raises an
error, and nothing is guessed.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

from zoracle.errors import CheckpointError, DamagedWarning, InputError
from zoracle.storage.files import check_writable, lock, sync_folder

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_owned(path: Path, flags: int = os.O_RDWR) -> int:
    """A descriptor of a regular file, created if missing; the target of a link is not touched.

    Raises:
        InputError: it is a link, a folder or a device, or cannot be written.
    """
    try:
        file = os.open(path, flags | os.O_CREAT | _NO_LINK | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or (not _NO_LINK and path.is_symlink()):
                raise InputError(f"{path} is not a regular file; remove it")
        except BaseException:
            os.close(file)
            raise
    except OSError as error:
        if path.is_symlink():
            raise InputError(f"{path} is a link, and zoracle does not write through links; remove it") from error
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    return file


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the file at a path."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    here = os.fstat(file)
    return (found.st_dev, found.st_ino) == (here.st_dev, here.st_ino)


class Appended:
    """An append-only file.

    Args:
        path: the file; created if missing.
        mark: the first bytes, which identify the file; a file with a different beginning raises an error.
        exclusive: whether only one process can have it open.

    Raises:
        InputError: it cannot be written, is a link, or another process has it.
        CheckpointError: it is not a file of this kind.
    """

    def __init__(self, path: Path, mark: bytes = b"", *, exclusive: bool = False) -> None:
        self.path = path
        self.mark = mark
        check_writable(path)
        while True:
            if mark:
                self._make()
            # A file object, so that it is closed together with its owner.
            self._file = io.FileIO(open_owned(path, os.O_RDWR | os.O_APPEND), "r+b")
            try:
                if exclusive and not lock(self._file.fileno()):
                    raise InputError(f"{path} is in use by another process; wait for it, or end it")
                if exclusive and not is_at(self._file.fileno(), path):
                    self._file.close()  # its last owner has just removed it
                    continue
                if self.read(start=0, size=len(mark)) != mark:
                    raise CheckpointError(
                        f"{path} is not a file of this version of zoracle, and is left as it is; choose another name, "
                        "or move it away"
                    )
            except BaseException:
                self._file.close()
                raise
            break
        self.end = os.fstat(self._file.fileno()).st_size

    def read(self, start: int | None = None, size: int | None = None) -> bytes:
        """The bytes after the mark, or from another position, to the end or of a given size."""
        self._file.seek(len(self.mark) if start is None else start)
        return self._file.readall() if size is None else self._file.read(size) or b""

    def write(self, data: bytes, *, through: bool = False) -> None:
        """Append data; on failure nothing is appended.

        Args:
            data: what.
            through: sync to disk, so that the data survive a crash of the machine as well.

        Raises:
            InputError: it cannot be written.
        """
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) or 0 :]
            if through:
                os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self.end)
            told = error.strerror or error
            raise InputError(f"cannot write {self.path}: {told}; fix this, then repeat the call to continue") from error
        self.end += len(data)

    def cut(self, end: int | None = None) -> None:
        """Drop the bytes after a position; by default, all after the mark."""
        self.end = len(self.mark) if end is None else end
        os.ftruncate(self._file.fileno(), self.end)

    def close(self, *, remove: bool = False) -> None:
        """Close the file, so that another process may open it; remove it on request, if it still exists."""
        if self._file.closed:
            return
        if remove and is_at(self._file.fileno(), self.path):
            with suppress(OSError):
                self.path.unlink()
        self._file.close()

    def _make(self) -> None:
        """Create the file with its mark, atomically, if it is missing."""
        if os.path.lexists(self.path):
            return
        fresh = self.path.parent / f".{self.path.name[:100]}.{secrets.token_hex(4)}.tmp"
        try:
            fresh.write_bytes(self.mark)
            try:
                os.link(fresh, self.path)
            except FileExistsError:
                return
            except OSError:  # a file system without links
                if not self.path.exists():
                    os.replace(fresh, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}; choose another folder") from error
        finally:
            fresh.unlink(missing_ok=True)


#: Bytes of a record, its number, and the checksum of both.
_HEADER = struct.Struct("<III")


class Records:
    """Records in an append-only file, each with its number and a checksum (CRC-32).

    Args:
        file: the file.

    Attributes:
        found: the records in the file, and the end of each.

    Raises:
        CheckpointError: something in the middle is damaged.
    """

    def __init__(self, file: Appended) -> None:
        self.file = file
        self.found: list[tuple[bytes, int]] = []
        self._next = 0
        data, mark = file.read(), len(file.mark)
        at = 0
        while (one := _record(data, at, self._next)) is not None:
            at += _HEADER.size + len(one)
            self.found.append((one, mark + at))
            self._next += 1
        if at < len(data):
            self._damaged(data, at)

    def add(self, payloads: list[bytes], *, through: bool = False) -> None:
        """Add records, all of them or none.

        Raises:
            InputError: they cannot be written.
        """
        data = b"".join(_framed(payload, self._next + i) for i, payload in enumerate(payloads))
        self.file.write(data, through=through)
        self._next += len(payloads)

    def cut(self, end: int | None = None) -> None:
        """Drop the records after a position; by default, all of them."""
        self.file.cut(end)
        self._next = 0 if end is None else sum(there <= end for _, there in self.found)

    def _damaged(self, data: bytes, at: int) -> None:
        """Cut off a damaged end with a warning; raise an error if an intact record follows the damage."""
        path = self.file.path
        if data[at:].strip(b"\0") and any(
            _record(data, later, None, after=self._next) is not None for later in range(at + 1, len(data))
        ):
            raise CheckpointError(
                f"{path} is damaged at byte {len(self.file.mark) + at}, with good records behind; put back a copy, or "
                "remove it to continue from the last checkpoint without them"
            )
        warnings.warn(
            f"the last {len(data) - at} bytes of {path} are damaged, as a kill or a power failure leaves them; "
            "they were cut off, and the call that they were of is made again",
            DamagedWarning,
            stacklevel=5,
        )
        self.file.cut(len(self.file.mark) + at)


def _framed(payload: bytes, number: int) -> bytes:
    return _HEADER.pack(len(payload), number, _checksum(payload, number)) + payload


def _checksum(payload: bytes, number: int) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<II", len(payload), number)))


def _record(data: bytes, at: int, number: int | None, after: int = 0) -> bytes | None:
    """The intact record at a position with this number (or a later one than another), if there is one."""
    if at + _HEADER.size > len(data):
        return None
    length, found, checksum = _HEADER.unpack_from(data, at)
    if at + _HEADER.size + length > len(data):
        return None
    if found != number if number is not None else not after < found < after + 2**20:
        return None
    payload = data[at + _HEADER.size : at + _HEADER.size + length]
    return payload if _checksum(payload, found) == checksum else None
