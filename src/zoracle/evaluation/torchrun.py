"""Processes that torchrun started, on one machine or several: they share the shards of evaluations.

The first process runs the command, and the others wait for work. Their jobs, plain data as in
:mod:`zoracle.evaluation.workers`, go through the store of ``torch.distributed``; their results are read from the run
folder, which all processes share. A free process takes the next shard, by a counter in the store. If a process dies,
torchrun ends all of them; with ``--max-restarts`` it restarts them, and the run resumes from its folder.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch

from zoracle.errors import InputError
from zoracle.evaluation.jobs import Blueprint, Job
from zoracle.evaluation.pool import TELL_SECONDS, Message, StoppedError, named, perform
from zoracle.evaluation.shards import Shard
from zoracle.group import meet
from zoracle.tasks.base import Task

#: Polling interval of waiting processes.
_LOOK_SECONDS = 0.05
#: How long a file may take to appear on another machine; network file systems cache names for up to a minute.
_SEEN_SECONDS = 90.0
#: How long the first process waits for the others to acknowledge the end.
_END_SECONDS = 20.0


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """Shards of one evaluation, with their common task and optimizer."""

    task: Blueprint
    optimizer: Blueprint
    shards: list[Shard]
    threads: int
    folder: str

    def job(self, index: int) -> Job:
        return Job(task=self.task, optimizer=self.optimizer, shard=self.shards[index])


class Ranks:
    """The processes of one torchrun, as a pool for the first of them.

    Attributes:
        rank: rank of this process.
        number: number of processes.
        parts: number of shards of a run: several per process, so that none waits long at the end.
    """

    def __init__(self) -> None:
        self._store, self.rank, self.number = meet()
        self.parts = 4 * self.number
        self._round = 0
        self._warned: set[str] = set()
        self._scratch: list[TemporaryDirectory[str]] = []
        self._known: tuple[Blueprint, Task] | None = None
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())

    def scratch(self) -> Path:
        """An empty folder for the shards of a run that does not keep them; visible on this machine only."""
        self._scratch.append(TemporaryDirectory(prefix="zoracle-"))
        return Path(self._scratch[-1].name)

    def run(self, jobs: Sequence[Job], on_counts: Callable[[Sequence[int]], object] = lambda counts: None) -> None:
        """Run all jobs, of one task and one optimizer, together with the others; each writes its result to its file.

        Args:
            jobs: the jobs, in order.
            on_counts: called a few times per second with the total progress of the jobs.

        Raises:
            InputError: a job raised it in any process, or a machine does not see the run folder.
            KeyboardInterrupt: Ctrl-C; the last complete step of each running job is kept.
        """
        first = jobs[0]
        assert first.shard.stem is not None
        stems = [Path(str(job.shard.stem)).absolute() for job in jobs]
        shards = [msgspec.structs.replace(job.shard, stem=str(stem)) for job, stem in zip(jobs, stems, strict=True)]
        work = _Work(
            task=first.task,
            optimizer=first.optimizer,
            shards=shards,
            threads=torch.get_num_threads(),
            folder=str(stems[0].parent),
        )
        on = _Round(self._store, self._round)
        self._round += 1
        on.set("work", msgspec.msgpack.encode(work))
        board = _Board(on, len(shards), on_counts, self._warn)
        self._share(on, work, board.look)
        while not board.done():
            board.look()
            time.sleep(_LOOK_SECONDS)
        for stem in stems:
            _wait_for(stem.with_name(stem.name + ".safetensors"))

    def serve(self) -> int:
        """Do the work that the first process distributes until it ends; returns its exit code."""
        while True:
            on = _Round(self._store, self._round)
            while not on.has("work"):
                if self._store.check(["end"]):
                    code = int(self._store.get("end"))
                    self._store.add("gone", 1)
                    return code
                time.sleep(_LOOK_SECONDS)
            self._round += 1
            work = msgspec.msgpack.decode(on.get("work"), type=_Work)
            torch.set_num_threads(work.threads)
            with _warnings_to(on):
                self._share(on, work, lambda: None)

    def end(self, code: int) -> None:
        """Tell the others that the command has ended, and wait for their acknowledgement."""
        for folder in self._scratch:
            folder.cleanup()
        self._store.set("end", str(code))
        deadline = time.monotonic() + _END_SECONDS
        # This process may host the store, which ends with it.
        while self._store.add("gone", 0) < self.number - 1 and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def _share(self, on: _Round, work: _Work, look: Callable[[], object]) -> None:
        """Take and run shards until none is left or any process has failed."""
        told = time.monotonic()

        def step(index: int, counts: tuple[int, ...], last: bool = False) -> None:
            nonlocal told
            now = time.monotonic()
            if last or now - told >= TELL_SECONDS:
                told = now
                on.set(f"counts/{index}", msgspec.msgpack.encode(tuple(counts)))
                if on.has("trouble"):
                    raise StoppedError
                look()

        try:
            _wait_for(Path(work.folder))
            while not on.has("trouble") and (index := on.add("next") - 1) < len(work.shards):
                job = work.job(index)
                seen: tuple[int, ...] = ()

                def tell(counts: tuple[int, ...], index: int = index) -> None:
                    nonlocal seen
                    seen = counts
                    step(index, counts)

                perform(job, self._task(work.task), tell)
                on.set(f"counts/{index}", msgspec.msgpack.encode(tuple(seen)))
                on.set(f"done/{index}", b"1")
        except StoppedError:
            pass
        except KeyboardInterrupt:
            on.trouble(Message("stopped"))
        except InputError as error:
            on.trouble(Message("error", name=type(error).__name__, text=str(error)))
        except Exception:
            on.trouble(Message("crash", text=traceback.format_exc()))

    def _task(self, blueprint: Blueprint) -> Task:
        """The task, cached so that images and weights are read once, not for each shard."""
        if self._known is None or self._known[0] != blueprint:
            self._known = None
            made: Task = blueprint.make()
            self._known = (blueprint, made)
        return self._known[1]

    def _warn(self, message: Message) -> None:
        if message.text not in self._warned:
            self._warned.add(message.text)
            warnings.warn(message.text, named(message.name, UserWarning), stacklevel=5)


class _Round:
    """The part of the store for one evaluation."""

    def __init__(self, store: Any, number: int) -> None:
        self._store = store
        self._prefix = f"round/{number}/"

    def set(self, key: str, value: bytes) -> None:
        self._store.set(self._prefix + key, value)

    def get(self, key: str) -> bytes:
        found: bytes = self._store.get(self._prefix + key)
        return found

    def has(self, key: str) -> bool:
        return bool(self._store.check([self._prefix + key]))

    def add(self, key: str, number: int = 1) -> int:
        return int(self._store.add(self._prefix + key, number))

    def trouble(self, message: Message) -> None:
        """Report an error; only the first one counts."""
        if self.add("troubles") == 1:
            self.set("trouble", msgspec.msgpack.encode(message))


class _Board:
    """The first process's view of all shards of an evaluation."""

    def __init__(
        self,
        on: _Round,
        shards: int,
        on_counts: Callable[[Sequence[int]], object],
        warn: Callable[[Message], object],
    ) -> None:
        self.on, self.on_counts, self.warn = on, on_counts, warn
        self.waiting = set(range(shards))
        self.counts: dict[int, tuple[int, ...]] = {}
        self.warnings = 0

    def done(self) -> bool:
        """Whether all shards are.

        Raises:
            InputError: what one raised.
            KeyboardInterrupt: one was interrupted.
        """
        if self.on.has("trouble"):
            message = msgspec.msgpack.decode(self.on.get("trouble"), type=Message)
            if message.kind == "stopped":
                raise KeyboardInterrupt
            if message.kind == "error":
                raise named(message.name, InputError)(message.text)
            raise RuntimeError(f"a process of this run failed:\n{message.text}")
        return not self.waiting

    def look(self) -> None:
        """Collect the progress of all processes, and pass it on."""
        taken = self.on.add("next", 0)
        for index in sorted(i for i in self.waiting if i < taken):
            finished = self.on.has(f"done/{index}")  # read before the counts, so that those are final
            if self.on.has(f"counts/{index}"):
                self.counts[index] = msgspec.msgpack.decode(self.on.get(f"counts/{index}"), type=tuple[int, ...])
            if finished:
                self.waiting.discard(index)
        told = self.on.add("warned", 0)
        for number in range(self.warnings, told):
            self.warn(msgspec.msgpack.decode(self.on.get(f"warning/{number + 1}"), type=Message))
        self.warnings = told
        if self.counts:
            self.on_counts([sum(one) for one in zip(*self.counts.values(), strict=True)])


@contextmanager
def _warnings_to(on: _Round) -> Iterator[None]:
    """Send warnings to the first process, which shows each once."""

    def warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        number = on.add("warnings")
        told = Message("warning", name=category.__name__, text=str(message))
        on.set(f"warning/{number}", msgspec.msgpack.encode(told))
        on.add("warned")

    with warnings.catch_warnings():
        warnings.showwarning = warn
        yield


def _wait_for(path: Path) -> None:
    """Wait until a file or folder created by another process is visible here.

    Raises:
        InputError: it is still not visible after a while.
    """
    deadline = time.monotonic() + _SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise InputError(
                f"{path} is not there on {socket.gethostname()}; give --out a folder that all machines share"
            )
        time.sleep(_LOOK_SECONDS)
