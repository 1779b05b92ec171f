"""What was asked of a black box and what it answered, on disk before and after each call.

A checkpoint costs too much to be written after each step. This file is what happened since the last one: before a
call its points are noted, after it their values. A process that is killed loses the answers of the call in flight and
no others: the run is done again from the checkpoint with the noted values, without asking. Points that were noted and
never answered may have been seen, and billed; they are counted as lost.

Records are length-prefixed MessagePack, added at the end. They outlive the process at once, and the machine where a
call was slow enough for a disk to keep up (:data:`SLOW`).
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import torch
from torch import Tensor

from zoracle.errors import CheckpointError, InputError
from zoracle.storage.files import lock
from zoracle.types import Evaluation, Purpose

#: Seconds: after a call that took longer, what is noted goes through to the disk.
SLOW = 0.1

_LENGTH = struct.Struct("<I")
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}


class _Call(NamedTuple):
    """One call: its number, purpose, rows of the problems of its points, and what was answered."""

    number: int
    purpose: str
    rows: Tensor
    answer: Evaluation | None


class Journal:
    """The calls of one run since its last checkpoint. Two processes cannot have the same one open.

    Args:
        path: the file; made where there is none, and gone on with where there is.

    Attributes:
        number: of the next call.
        lost: (P,) int64, points that were asked for and whose answers are gone, calls of killed processes included;
            empty before :meth:`resume`.

    Raises:
        InputError: the file cannot be written, or another process has it open.
        CheckpointError: it is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.lost = torch.zeros(0, dtype=torch.int64)
        self._kept: deque[_Call] = deque()
        self._since: list[_Call] = []
        self._asking: _Call | None = None
        self._asked = 0.0
        self._slow = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
        try:
            if not lock(self._file):
                raise InputError(f"{path} is in use by another process; wait for it, or end it")
            self._found = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def resume(self, number: int, lost: Tensor) -> None:
        """Begin after a checkpoint: what it holds already is forgotten, the rest is kept to be answered from.

        Args:
            number: of the first call that the checkpoint does not hold.
            lost: (P,) points lost before it.
        """
        self.lost = lost.clone()
        later = [call for call in self._found if call.number >= number]
        self._found = []
        for call in later:
            if call.answer is None:
                self._lose(call.rows)
        self._kept = deque(call for call in later if call.answer is not None)
        self.number = max([number, *(call.number + 1 for call in later)])

    def answered(self, purpose: Purpose, rows: Tensor) -> Evaluation | None:
        """What this call was answered by a process that has ended since; None where it has to be made.

        Answers to other calls than those that are made now (a run that goes on with another batch) are lost.
        """
        if not self._kept:
            return None
        call = self._kept.popleft()
        if call.purpose == purpose and torch.equal(call.rows, rows):
            self._since.append(call)
            return call.answer
        for other in (call, *self._kept):
            self._lose(other.rows)
        self._kept.clear()
        return None

    def ask(self, purpose: Purpose, rows: Tensor) -> None:
        """Note a call before it is made: points of these problems (N,)."""
        self._write([self.number, purpose.value, rows.to("cpu", torch.int32).numpy().tobytes()])
        self._asking = _Call(self.number, purpose.value, rows, None)
        self.number += 1
        self._asked = time.monotonic()

    def answer(self, answer: Evaluation) -> None:
        """Note what the last call was answered."""
        self._slow = time.monotonic() - self._asked > SLOW
        loss = answer.loss.detach().cpu().contiguous()
        success = None if answer.success is None else answer.success.cpu().numpy().tobytes()
        self._write([str(loss.dtype), loss.view(torch.uint8).numpy().tobytes(), success])
        if self._asking is not None:
            self._since.append(self._asking._replace(answer=answer))

    def mark(self) -> None:
        """What was answered so far has been made use of: there is a state that it led to."""
        self._since = []

    def carry(self) -> tuple[int, dict[Purpose, Tensor]]:
        """Note again what was answered since the last mark, for a checkpoint of the state of then.

        A step may take several calls. Where one of them failed, the others were paid for and need not be made again.

        Returns:
            The number of the first call that this checkpoint does not hold, and by purpose the points (P,) that were
            answered after it and will be counted again.
        """
        first = self.number
        points = {purpose: torch.zeros_like(self.lost) for purpose in Purpose}
        carried, self._since = self._since, []
        for call in carried:
            assert call.answer is not None
            self.ask(Purpose(call.purpose), call.rows)
            self.answer(call.answer)
            points[Purpose(call.purpose)] += call.rows.bincount(minlength=self.lost.shape[0])
        return first, points

    def forget(self) -> None:
        """Empty the file: a checkpoint holds all of it."""
        os.ftruncate(self._file, 0)

    @property
    def answering(self) -> bool:
        """Whether there are answers left of a process that has ended since; the last checkpoint stands until then."""
        return bool(self._kept)

    def close(self) -> None:
        """Close the file; another process may go on. One that holds nothing is removed."""
        if self._file >= 0:
            empty = os.fstat(self._file).st_size == 0
            os.close(self._file)
            self._file = -1
            if empty:
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lose(self, rows: Tensor) -> None:
        self.lost += rows.bincount(minlength=self.lost.shape[0])

    def _write(self, record: list[Any]) -> None:
        payload = msgspec.msgpack.encode(record)
        try:
            left = memoryview(_LENGTH.pack(len(payload)) + payload)
            while left:
                left = left[os.write(self._file, left) :]
            if self._slow:
                os.fsync(self._file)
        except OSError as error:
            told = error.strerror or error
            raise InputError(f"cannot write {self.path}: {told}; mended, the same call goes on from here") from error

    def _read(self) -> list[_Call]:
        """All calls of the file; a record that a kill cut short is cut off."""
        data = self.path.read_bytes()
        calls: list[_Call] = []
        at = 0
        while at + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            end = at + _LENGTH.size + length
            if end > len(data):
                break
            try:
                self._add(calls, msgspec.msgpack.decode(data[at + _LENGTH.size : end]))
            except (msgspec.DecodeError, ValueError, KeyError, IndexError, TypeError) as error:
                raise CheckpointError(f"{self.path} is no journal of a run; choose another folder") from error
            at = end
        if at < len(data):
            os.ftruncate(self._file, at)
        return calls

    @staticmethod
    def _add(calls: list[_Call], record: Any) -> None:
        if isinstance(record[0], int):
            number, purpose, rows = record
            found = torch.from_numpy(np.frombuffer(rows, np.int32).astype(np.int64))
            calls.append(_Call(number, purpose, found, None))
            return
        name, loss, success = record
        answer = Evaluation(
            torch.frombuffer(bytearray(loss), dtype=_DTYPES[name]),
            None if success is None else torch.frombuffer(bytearray(success), dtype=torch.bool),
        )
        calls[-1] = calls[-1]._replace(answer=answer)
