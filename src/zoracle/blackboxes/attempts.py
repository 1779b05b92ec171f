"""What was sent over the network, beside what the oracle counts: retries are made below the meter."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from zoracle.errors import InputError
from zoracle.storage.files import check_writable

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
        self._file = None
        if self.path is not None:
            check_writable(self.path)
            torn = self._read(self.path) if self.path.is_file() else False
            try:
                self._file = self.path.open("a", encoding="utf-8")
                if torn:  # a process that was killed wrote half a line
                    self._file.write("\n")
            except OSError as error:
                raise InputError(f"cannot write {self.path}: {error.strerror or error}; choose another file") from error

    def next_request(self) -> int:
        """The number of a request that is about to be made."""
        self.requests += 1
        return self.requests

    def add(self, attempt: Attempt) -> None:
        """Count an attempt that has ended, and log it."""
        self._count(attempt.images, attempt.result, attempt.billed)
        if self._file is not None:
            line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **attempt._asdict()}
            line["seconds"] = round(attempt.seconds, 6)
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

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

    def _read(self, path: Path) -> bool:
        """Count what a log holds; whether its last line has no end."""
        try:
            content = path.read_bytes()
            for line in content.splitlines():
                try:
                    one = json.loads(line)
                except ValueError:
                    continue  # torn by a kill
                self.requests = max(self.requests, int(one["request"]))
                self._count(int(one["images"]), str(one["result"]), bool(one["billed"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is no log of attempts; choose another file") from error
        return not content.endswith(b"\n") and bool(content)
