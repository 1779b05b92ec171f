"""Where data sets are found, how their files are read, and how they are downloaded and verified."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import struct
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoracle.errors import InputError

Progress = Callable[[int, int | None], None]

#: Names an own copy of the data sets; searched before the cache.
DATA_VARIABLE = "ZORACLE_DATA"
#: Names the folder that downloads and trained target networks are kept in.
CACHE_VARIABLE = "ZORACLE_CACHE"

_BLOCK = 1 << 16
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def cache_dir() -> Path:
    """The cache folder: ``ZORACLE_CACHE``, or ``zoracle`` under ``XDG_CACHE_HOME`` (by default ``~/.cache``).

    It need not exist yet.
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zoracle"


def find_data(relative: str) -> Path | None:
    """A data file by its path below ``ZORACLE_DATA`` or the cache, in this order; None where neither has it."""
    own = os.environ.get(DATA_VARIABLE)
    folders = [Path(own)] if own else []
    for folder in (*folders, cache_dir()):
        path = folder / relative
        if path.is_file():
            return path
    return None


def read_idx(path: Path) -> NDArray[np.generic]:
    """The array of an IDX file, compressed by gzip or not.

    Raises:
        InputError: no such file, not an IDX file, or truncated.

    References:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); expected an IDX file") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise InputError(f"{path} is not an IDX file: its first bytes are {content[:4].hex() or 'missing'}")
    dtype, rank = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise InputError(f"{path} is truncated: {len(content)} bytes, and the header alone has {start}")
    shape = struct.unpack(f">{rank}I", content[4:start])
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise InputError(f"{path} has {len(content)} bytes; expected {expected} for shape {shape}")
    array: NDArray[np.generic] = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def read_images(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, ...) and labels (N,) of an ``.npz`` file with arrays ``images`` and ``labels``, both uint8.

    Raises:
        InputError: no such file, not such an archive, or arrays that disagree.
    """
    try:
        # Opened here, since np.load leaves a truncated file open; its members may fail too, so they are read inside.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except Exception as error:
        raise InputError(f"{path} cannot be read ({error}); expected .npz with arrays images and labels") from error
    if images.dtype != np.uint8 or labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise InputError(
            f"{path} holds images {images.dtype} {images.shape} and labels {labels.dtype} {labels.shape}; "
            "expected uint8 (N, ...) and uint8 (N,)"
        )
    return images, labels


def download(
    urls: str | Sequence[str],
    path: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Path:
    """Download a file from the first mirror that serves it whole, unless it is there already.

    The file appears under its name only once it is complete and its hash agrees, so an interrupted download leaves
    nothing behind that a later call could take for the file.

    Args:
        urls: one address, or mirrors in the order to try them.
        path: where the file goes; its folder is made.
        sha256: expected hash, hexadecimal.
        md5: expected hash, hexadecimal; at least one of the two.
        timeout: seconds that a connection may stay silent.
        progress: called with the bytes received and the bytes expected (None where the server does not say).

    Raises:
        InputError: no hash was given, no mirror served the file (each one's failure is named), or the folder cannot be
            written.
    """
    if sha256 is None and md5 is None:
        raise InputError(f"no hash is given for {path.name}; expected sha256 or md5, since a download must be verified")
    expected = {name: value.lower() for name, value in (("sha256", sha256), ("md5", md5)) if value is not None}
    if path.is_file() and _hashes(path, expected) == expected:
        return path
    failures = []
    for url in [urls] if isinstance(urls, str) else urls:
        try:
            _fetch(url, path, expected, timeout, progress)
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            TimeoutError,
            ConnectionError,
            _BadBodyError,
        ) as error:
            failures.append(f"{url}: {error}")
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error}); set {CACHE_VARIABLE} to a writable folder"
            ) from error
        else:
            return path
    raise InputError(f"{path.name} could not be downloaded ({'; '.join(failures)}); place the file at {path} yourself")


class _BadBodyError(Exception):
    """What arrived is not the file."""


def _fetch(url: str, path: Path, expected: dict[str, str], timeout: float, progress: Progress | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each download, so that two at once cannot mix their bytes.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=timeout) as response:
            length = response.headers.get("Content-Length")
            _copy(response, file, int(length) if length else None, progress)
        found = _hashes(partial, expected)
        for kind, value in expected.items():
            if found[kind] != value:
                raise _BadBodyError(f"{kind} is {found[kind]}; expected {value}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: BinaryIO, sink: BinaryIO, total: int | None, progress: Progress | None) -> None:
    received = 0
    while block := source.read(_BLOCK):
        sink.write(block)
        received += len(block)
        if progress is not None:
            progress(received, total)
    if total is not None and received != total:
        raise _BadBodyError(f"{received} bytes arrived; expected {total}")


def _hashes(path: Path, kinds: dict[str, str]) -> dict[str, str]:
    # MD5 only tells a damaged file from a whole one here: for some data sets no other hash was ever published.
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for digest in digests.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}
