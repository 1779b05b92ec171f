"""What was sent over the network, beside what the oracle counts: retries are made below the meter."""

from __future__ import annotations

import json
import warnings
import zlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from zoracle.errors import DamagedWarning, InputError
from zoracle.storage.owned import Appended

#: How an attempt ended that brought the outputs.
ANSWERED = "answered"


class Attempt(NamedTuple):
    """One request over the network."""

    request: int
    """Number of the request; its retries share it."""
    attempt: int
    """1 for the first."""
    images: int
    """How many images it held, copies that fill up a batch not among them."""
    result: str
    """"answered", or how it failed: "timeout", "connection", "status", "malformed", "non-finite", "refused",
    "unusable", "cancelled"."""
    billed: bool
    """Whether the server answered it, or may have worked on it."""
    seconds: float
    """How long it took."""
    status: int | None = None
    """HTTP status, where there was one."""


class Attempts:
    """Counts of attempts, and a log of them: one JSON object a line, added at the end, without payloads or keys.

    Images sent are images answered and images in failed attempts; images answered are what the oracle counts.

    Args:
        path: the log, or None. What it holds already is counted too: a run that was resumed is one run.

    Raises:
        InputError: the log cannot be written.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.requests = 0
        self._ended: Counter[str] = Counter()
        self._images: Counter[str] = Counter()
        self._billed = 0
        self._file: Appended | None = None
        if self.path is not None:
            self._file = Appended(self.path)
            try:
                self._read(self._file)
            except BaseException:
                self._file.close()
                raise

    def next_request(self) -> int:
        """The number of a request that is about to be made."""
        self.requests += 1
        return self.requests

    def add(self, attempt: Attempt) -> None:
        """Count an attempt that has ended, and log it.

        Raises:
            InputError: the log cannot be written.
        """
        self._count(attempt.images, attempt.result, attempt.billed)
        if self._file is not None:
            line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **attempt._asdict()}
            line["seconds"] = round(attempt.seconds, 6)
            self._file.write(json.dumps({**line, "check": _check(line)}).encode() + b"\n")

    def report(self) -> dict[str, Any]:
        """Counts as JSON values: attempts by how they ended, and images."""
        failed = {kind: number for kind, number in sorted(self._ended.items()) if kind != ANSWERED}
        sent, answered = sum(self._images.values()), self._images[ANSWERED]
        return {
            "requests_sent": sum(self._ended.values()),
            "requests_answered": self._ended[ANSWERED],
            "requests_failed": failed,
            "images_sent": sent,
            "images_answered": answered,
            "images_in_failed_attempts": sent - answered,
            "images_billed": self._billed,
        }

    def close(self) -> None:
        """Close the log."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _count(self, images: int, result: str, billed: bool) -> None:
        self._ended[result] += 1
        self._images[result] += images
        self._billed += images if billed else 0

    def _read(self, file: Appended) -> None:
        """Count what a log holds. A damaged end is cut off and said; damage before it is refused."""
        data, good = file.read(), 0
        damaged: int | None = None
        for content in data.splitlines(keepends=True):
            line = _line(content)
            if line is None:
                damaged = good if damaged is None else damaged
            elif damaged is not None:
                raise InputError(
                    f"{self.path} is not a log of attempts, or is damaged at byte {damaged}; choose another file"
                )
            else:
                good += len(content)
                self.requests = max(self.requests, line["request"])
                self._count(line["images"], line["result"], line["billed"])
        if damaged == 0 and data.strip(b"\0"):
            raise InputError(f"{self.path} is not a log of attempts; choose another file")
        if damaged is not None:
            warnings.warn(
                f"the last {len(data) - good} bytes of {self.path} are damaged, as a kill or a power failure leaves "
                "them; they were cut off, and the attempt that they were of is in no count of the target",
                DamagedWarning,
                stacklevel=6,
            )
            file.cut(good)


def _check(line: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(line).encode()):08x}"


def _line(content: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is not whole, or not ours."""
    try:
        line = json.loads(content)
        check = line.pop("check")
        return line if content.endswith(b"\n") and check == _check(line) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
