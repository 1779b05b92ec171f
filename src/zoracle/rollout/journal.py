"""Journal of the queries to a black box and its answers, written to disk before and after each call.

A checkpoint is too expensive to write after each step. This file records the calls since the last one: before a
call its points, after it their values. A killed process loses only the answers of the current
call: the run is replayed from the checkpoint with the recorded values, without queries. Points recorded but
never answered may have been seen and billed; they are counted as lost.

An answer belongs to its point: the problem, the purpose, and a hash of the coordinates. It is therefore found again
whatever else is in the same call, and never given to another point.

Records have numbers and checksums (:class:`zoracle.storage.owned.Records`). Each part of the file names the checkpoint
that it follows, by a number (the epoch): a part whose checkpoint was never written is useless. Records
survive the process at once, and a crash of the machine if calls are slow enough to sync each one (:data:`SLOW`).
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import torch
from torch import Tensor

from zoracle.errors import CheckpointError
from zoracle.storage.hashing import raw
from zoracle.storage.owned import Appended, Records
from zoracle.types import Evaluation, Purpose

#: Seconds: after a call that took longer, records are synced to disk.
SLOW = 0.1

_MARK = b"zoracle-calls-3\n"
_HASH = 16
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}

Digests = tuple[bytes, ...]


class Call(NamedTuple):
    """One call: its purpose, the problems of its points (N,), hashes of the points, and the answers."""

    purpose: str
    rows: Tensor
    digests: Digests
    answer: Evaluation | None


class Known(NamedTuple):
    """The answer of one point: its position in the answer of a call."""

    digest: bytes
    answer: Evaluation
    at: int


class Journal:
    """The calls of one run since its last checkpoint. Two processes cannot have the same one open.

    Args:
        path: the file; created if missing, else continued.

    Attributes:
        epoch: number of the checkpoint before the records.
        lost: (P,) int64, points queried without a surviving answer, including calls of killed processes;
            empty before :meth:`resume`.

    Raises:
        InputError: the file cannot be written, or another process has it open.
        CheckpointError: it is not a journal, or damaged in the middle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epoch = 0
        self.lost = torch.zeros(0, dtype=torch.int64)
        self._kept: dict[tuple[str, int], deque[Known]] = defaultdict(deque)
        self._since: list[Call] = []
        self._asking: Call | None = None
        self._asked = 0.0
        self._slow = False
        self._bare = len(_MARK)
        self._file = Appended(path, _MARK, exclusive=True)
        try:
            self._records = Records(self._file)
        except BaseException:
            self._file.close()
            raise

    def resume(self, epoch: int, lost: Tensor) -> None:
        """Begin after a checkpoint: records that it covers are dropped, the others are kept as answers.

        Args:
            epoch: number of the checkpoint; 0 if there is none.
            lost: (P,) points lost before it.

        Raises:
            CheckpointError: the file follows a later checkpoint, which is missing, or its records are invalid.
        """
        self.epoch, self.lost = epoch, lost.clone()
        try:
            calls, end, follows = _calls_of(self._records.found, epoch)
        except (msgspec.DecodeError, ValueError, KeyError, IndexError, TypeError) as error:
            raise CheckpointError(
                f"{self.path} is not the journal of a run; choose another name, or remove it"
            ) from error
        if not follows:
            raise CheckpointError(
                f"{self.path} goes with a later checkpoint than there is here; put that back, or remove this file "
                "to continue without the answers in it"
            )
        if end is None:
            self.forget(epoch)
        else:
            self._records.cut(end)
        self._records.found = []
        for call in calls:
            if call.answer is None:
                self._lose(call.rows)
                continue
            for at, (row, digest) in enumerate(zip(call.rows.tolist(), call.digests, strict=True)):
                self._kept[call.purpose, row].append(Known(digest, call.answer, at))

    def recall(self, purpose: Purpose, rows: Tensor, digests: Digests) -> list[Known | None]:
        """The answers of points (N,) from an earlier process; None for points that must be queried.

        The answers of a problem are used in the order in which they were given. If a point differs from
        that of the next answer, the run has diverged (the target does not answer the same twice), and
        the remaining answers of this problem are lost.
        """
        if not self.answering:
            return [None] * len(digests)
        found: list[Known | None] = []
        for row, digest in zip(rows.tolist(), digests, strict=True):
            kept = self._kept.get((purpose.value, row))
            if kept and kept[0].digest != digest:
                self.lost[row] += len(kept)
                kept.clear()
            found.append(kept.popleft() if kept else None)
            if kept is not None and not kept:
                del self._kept[purpose.value, row]
        self._since += [
            Call(purpose.value, rows[i : i + 1], digests[i : i + 1], _part(one))
            for i, one in enumerate(found)
            if one is not None
        ]
        return found

    def ask(self, purpose: Purpose, rows: Tensor, digests: Digests = ()) -> None:
        """Record a call before it is made: points of these problems (N,), with their hashes if they are answered.

        Raises:
            InputError: it cannot be recorded, and must then not be made.
        """
        call = Call(purpose.value, rows, digests, None)
        self._records.add([_encoded("ask", call)], through=self._slow)
        self._asking = call
        self._asked = time.monotonic()

    def answer(self, answer: Evaluation) -> None:
        """Record the answers of the last call.

        Raises:
            InputError: they cannot be recorded; the call counts as failed.
        """
        assert self._asking is not None
        self._slow = time.monotonic() - self._asked > SLOW
        call, self._asking = self._asking._replace(answer=answer), None
        self._records.add([_encoded("answer", call)], through=self._slow)
        self._since.append(call)

    def again(self, purpose: Purpose, rows: Tensor) -> None:
        """Record that points of these problems (N,) are queried again, only to check their answers.

        They appear in no other count.
        """
        self.ask(purpose, rows)
        self._asking = None
        self._lose(rows)

    def mark(self) -> None:
        """Mark the answers so far as used: there is a state that includes them."""
        self._since = []

    def since(self, purpose: Purpose) -> Tensor:
        """(P,) points answered since the last mark; if their call is repeated, they need not be queried."""
        found = torch.zeros_like(self.lost)
        for call in self._since:
            if call.purpose == purpose.value:
                found += call.rows.bincount(minlength=self.lost.shape[0])
        return found

    def abandon(self, purpose: Purpose, rows: Tensor) -> None:
        """Drop the answers of these problems since the last mark, whose call will not be repeated.

        They were paid for, and stay counted under their purpose.
        """
        kept = []
        for call in self._since:
            stays = ~torch.isin(call.rows, rows) if call.purpose == purpose.value else torch.ones(len(call.rows)) > 0
            where = stays.nonzero().flatten().tolist()
            kept.append(call if len(where) == len(call.rows) else _select(call, where))
        self._since = [call for call in kept if len(call.rows)]

    def carry(self) -> dict[Purpose, Tensor]:
        """Record again, for a checkpoint of the state at the last mark, the answers since then and those kept.

        A step may take several calls. If one of them failed, the others were paid for and need not be repeated.

        Returns:
            For each purpose, the points (P,) that are counted now, and will be again when they are used.

        Raises:
            InputError: they cannot be recorded; the last checkpoint and the records after it are complete.
        """
        counted = {purpose: self.since(purpose) for purpose in Purpose}
        calls = [*self._since]
        for (purpose, row), kept in self._kept.items():
            calls += [Call(purpose, torch.tensor([row]), (one.digest,), _part(one)) for one in kept]
        self.epoch += 1
        payloads = [_epoch(self.epoch), *(_encoded("kept", call) for call in calls)]
        self._records.add(payloads, through=True)
        return counted

    def forget(self, epoch: int) -> None:
        """Empty the file, since the checkpoint with this number covers all of it.

        Raises:
            InputError: it cannot be written.
        """
        self._records.cut()
        self.epoch = epoch
        self._records.add([_epoch(epoch)])
        self._bare = self._file.end

    def settle(self) -> None:
        """End the run: answers that were not requested again are lost."""
        for (_, row), kept in self._kept.items():
            self.lost[row] += len(kept)
        self._kept.clear()

    @property
    def answering(self) -> bool:
        """Whether answers of an earlier process are left; until they are used, the last checkpoint is kept."""
        return bool(self._kept)

    def close(self) -> None:
        """Close the file, so that another process may continue; a file without calls is removed."""
        self._file.close(remove=self._file.end in (len(_MARK), self._bare))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lose(self, rows: Tensor) -> None:
        self.lost += rows.bincount(minlength=self.lost.shape[0])


def digests(points: Tensor, step: Tensor | None = None) -> Digests:
    """A hash of each point (N, d), and of the step (N,) at which a stochastic objective is asked."""
    data = raw(points).reshape(len(points), -1)
    steps = [b""] * len(points) if step is None else [str(one).encode() for one in step.tolist()]
    return tuple(
        hashlib.blake2b(row.data, digest_size=_HASH, salt=at[-16:]).digest()
        for row, at in zip(data, steps, strict=True)
    )


def _part(known: Known) -> Evaluation:
    success = known.answer.success
    at = slice(known.at, known.at + 1)
    return Evaluation(known.answer.loss[at], None if success is None else success[at])


def _select(call: Call, where: list[int]) -> Call:
    assert call.answer is not None
    success = call.answer.success
    answer = Evaluation(call.answer.loss[where], None if success is None else success[where])
    return Call(call.purpose, call.rows[where], tuple(call.digests[i] for i in where), answer)


def _epoch(number: int) -> bytes:
    return msgspec.msgpack.encode(["epoch", number])


def _encoded(kind: str, call: Call) -> bytes:
    record: list[Any] = [kind]
    if kind != "answer":
        record += [call.purpose, call.rows.to("cpu", torch.int32).numpy().tobytes(), b"".join(call.digests)]
    if kind != "ask":
        assert call.answer is not None
        loss = call.answer.loss
        success = None if call.answer.success is None else call.answer.success.cpu().numpy().tobytes()
        record += [str(loss.dtype), raw(loss).tobytes(), success]
    return msgspec.msgpack.encode(record)


def _calls_of(found: list[tuple[bytes, int]], epoch: int) -> tuple[list[Call], int | None, bool]:
    """The calls after a checkpoint; where the file has to be cut; whether no later checkpoint is missing.

    The second is None if the file has no part for the checkpoint.
    """
    calls: list[Call] = []
    here: int | None = None
    at = 0
    first = last = None
    for payload, end in found:
        record = msgspec.msgpack.decode(payload)
        kind = record[0]
        if kind == "epoch":
            last = int(record[1])
            first = last if first is None else first
            if here is not None:
                return calls, at, True  # the rest follows a checkpoint that was never written
            if last == epoch:
                here = end
        elif here is not None:
            _add(calls, record)
        at = end
    if here is None:
        return [], None, first is None or (first <= epoch and last is not None and last <= epoch)
    return calls, at, True


def _add(calls: list[Call], record: list[Any]) -> None:
    kind = record[0]
    if kind == "answer":
        calls[-1] = calls[-1]._replace(answer=_answer(*record[1:]))
        if len(calls[-1].digests) != len(calls[-1].rows):
            raise ValueError
        return
    purpose, rows, hashes = record[1:4]
    split = tuple(hashes[i : i + _HASH] for i in range(0, len(hashes), _HASH))
    numbers = torch.from_numpy(np.frombuffer(rows, np.int32).astype(np.int64))
    calls.append(Call(Purpose(purpose).value, numbers, split, _answer(*record[4:]) if kind == "kept" else None))


def _answer(name: str, loss: bytes, success: bytes | None) -> Evaluation:
    return Evaluation(
        torch.frombuffer(bytearray(loss), dtype=_DTYPES[name]),
        None if success is None else torch.frombuffer(bytearray(success), dtype=torch.bool),
    )
