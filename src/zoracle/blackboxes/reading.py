"""Bodies of answers, read no further than a limit, packed or not."""

from __future__ import annotations

import zlib
from typing import Any

from zoracle.blackboxes.v2_protocol import MalformedError, clip

#: What is asked for; whatever else comes is not unpacked.
ACCEPTED = "gzip, deflate"

#: Bytes of an answer that brings no outputs: metadata, and errors, of which the rest is left unread.
FEW = 2**18


async def read_body(response: Any, limit: int, *, cut: bool = False) -> bytes:
    """The body of a response whose reading has begun, unpacked; no byte is read or unpacked past the limit.

    Args:
        response: of ``httpx``, as a stream.
        limit: bytes, unpacked.
        cut: what is longer is cut off; otherwise it is malformed.

    Raises:
        MalformedError: it is longer, packed in a way that was not asked for, or cannot be unpacked.
    """
    told = response.headers.get("Content-Length", "")
    if not cut and told.isascii() and told.isdigit() and int(told[:20]) > limit:
        raise _too_long(limit)
    unpacker = _unpacker(response.headers.get("Content-Encoding", ""))
    parts: list[bytes] = []
    size = raw = 0
    async for chunk in response.aiter_raw():
        raw += len(chunk)
        part = chunk if unpacker is None else _unpacked(unpacker, chunk, limit + 1 - size)
        parts.append(part[: limit + 1 - size])
        size += len(parts[-1])
        if size > limit or raw > limit + FEW:
            if cut:
                break
            raise _too_long(limit)
    return b"".join(parts)[:limit]


class _Deflate:
    """Either form that goes by this name: with the header of zlib, or without any."""

    def __init__(self) -> None:
        self._inner: Any = None

    def decompress(self, data: bytes, most: int) -> bytes:
        if self._inner is not None:
            found: bytes = self._inner.decompress(data, most)
            return found
        self._inner = zlib.decompressobj()
        try:
            return self.decompress(data, most)
        except zlib.error:
            self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
            return self.decompress(data, most)


def _unpacker(encoding: str) -> Any:
    kind = encoding.strip().lower()
    if kind in ("", "identity"):
        return None
    if kind in ("gzip", "x-gzip"):
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    if kind == "deflate":
        return _Deflate()
    raise MalformedError(f"an answer packed by {clip(encoding, 40)!r}, which was not asked for")


def _unpacked(unpacker: Any, chunk: bytes, most: int) -> bytes:
    try:
        found: bytes = unpacker.decompress(chunk, max(1, most))
    except zlib.error as error:
        raise MalformedError(f"an answer that cannot be unpacked ({error})") from None
    return found


def _too_long(limit: int) -> MalformedError:
    return MalformedError(
        f"an answer of more than {limit:,} bytes, which is more than its outputs take; where the model has so many "
        "classes, say how many: classes="
    )
