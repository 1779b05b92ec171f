"""Processes that run shards of evaluations.

Processes, not threads. Torch's own threads share one small operation between cores and mostly wait for each other;
Python threads that run one shard each wait for the interpreter if tensors are small. Workers are started
afresh (``spawn``), since a forked process must not use torch's threads. They receive plain data: the names
of the task's and the optimizer's classes, their settings, and weights as safetensors bytes. Their results are read
from the files from which an interrupted run continues.
"""

from __future__ import annotations

import signal
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch

from zoracle.calling.calls import MOST_WORKERS
from zoracle.errors import InputError, WorkerError
from zoracle.evaluation.jobs import Job
from zoracle.evaluation.pool import TELL_SECONDS, Message, Pool, StoppedError, named, perform


class _Worker:
    """A process, the parent's ends of the pipes to and from it, and its current job."""

    def __init__(self, threads: int) -> None:
        context = get_context("spawn")
        commands, self.commands = context.Pipe(duplex=False)
        self.replies, replies = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(commands, replies, threads), daemon=True)
        self.process.start()
        commands.close()
        replies.close()
        self.ready = False
        self.job: int | None = None


class Workers:
    """N processes that run shards, kept from one evaluation to the next. A context manager.

    They are started on demand, at most one per shard. A script must create the pool
    under ``if __name__ == "__main__":``, since each worker imports the script.

    Args:
        number: N, at least 2; for a single process, evaluate without a pool.
        threads: CPU threads shared by the workers; None uses torch's number in this process.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, number: int, *, threads: int | None = None) -> None:
        if number < 2:
            raise InputError(f"workers is {number}; expected at least 2, or none")
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; expected at least 1")
        self.number = self.parts = number
        self.threads = max(1, (threads or torch.get_num_threads()) // number)
        self._workers: list[_Worker] = []
        self._warned: set[str] = set()
        self._scratch: list[TemporaryDirectory[str]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.close()
        finally:
            for folder in self._scratch:
                folder.cleanup()

    def scratch(self) -> Path:
        """An empty folder for the shards of a run that does not keep them; it exists as long as the context."""
        self._scratch.append(TemporaryDirectory(prefix="zoracle-"))
        return Path(self._scratch[-1].name)

    def run(self, jobs: Sequence[Job], on_counts: Callable[[Sequence[int]], object] = lambda counts: None) -> None:
        """Run all jobs; each writes its result to its file.

        Args:
            jobs: the jobs, in order.
            on_counts: called a few times per second with the total progress of the jobs.

        Raises:
            InputError: a job raised it, or a worker died; the other workers have then kept their progress.
            KeyboardInterrupt: Ctrl-C; the last complete step of each running job is kept.
        """
        waiting = deque(range(len(jobs)))
        counts: list[tuple[int, ...]] = [()] * len(jobs)
        try:
            while waiting or self._busy():
                self._start(min(self.number, len(jobs)))
                for worker in self._workers:
                    if worker.job is None and waiting:
                        worker.job = waiting.popleft()
                        with suppress(BrokenPipeError):  # it died, which is detected below
                            worker.commands.send_bytes(msgspec.msgpack.encode(jobs[worker.job]))
                busy = self._busy()
                for ready in connection.wait([worker.replies for worker in busy]):
                    worker = next(worker for worker in busy if worker.replies is ready)
                    self._hear(worker, jobs, counts)
                if known := [some for some in counts if some]:
                    on_counts([sum(one) for one in zip(*known, strict=True)])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers. A running shard is kept up to its last complete step; a second Ctrl-C does not wait."""
        workers, self._workers = self._workers, []
        try:
            for worker in workers:
                worker.commands.close()  # the worker takes this as the end, whatever was sent before
            for worker in workers:
                # Its remaining messages are read, so that it never waits for space in the pipe.
                with suppress(EOFError, OSError):
                    while True:
                        worker.replies.recv_bytes()
                worker.process.join()
        finally:
            for worker in workers:
                if worker.process.is_alive():
                    worker.process.kill()
                    worker.process.join()
                worker.replies.close()
                worker.process.close()

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.job is not None]

    def _start(self, number: int) -> None:
        while len(self._workers) < number:
            # A new process ignores Ctrl-C until it is ready; this process tells it when to stop.
            with _blocked():
                self._workers.append(_Worker(self.threads))

    def _hear(self, worker: _Worker, jobs: Sequence[Job], counts: list[tuple[int, ...]]) -> None:
        assert worker.job is not None
        job = jobs[worker.job]
        try:
            message = msgspec.msgpack.decode(worker.replies.recv_bytes(), type=Message)
        except (EOFError, OSError):
            raise _death(worker, job) from None
        if message.kind == "ready":
            worker.ready = True
        elif message.kind == "counts":
            counts[worker.job] = message.counts
        elif message.kind == "done":
            counts[worker.job] = message.counts
            worker.job = None
        elif message.kind == "stopped":
            raise KeyboardInterrupt
        elif message.kind == "warning":
            if message.text not in self._warned:
                self._warned.add(message.text)
                warnings.warn(message.text, named(message.name, UserWarning), stacklevel=5)
        elif message.kind == "error":
            raise named(message.name, InputError)(message.text)
        else:
            raise RuntimeError(f"a worker process failed in {job.shard.label}:\n{message.text}")


def check_workers(number: int | Pool) -> None:
    """Raise an InputError if this is not a valid number of processes."""
    if isinstance(number, int) and not 1 <= number <= MOST_WORKERS:
        raise InputError(f"workers is {number}; expected 1 .. {MOST_WORKERS}, for example one per core")


@contextmanager
def started(number: int | Pool) -> Iterator[Pool | None]:
    """A context with this many workers; None for 1, which is this process. An existing pool is left open."""
    if not isinstance(number, int):
        yield number
        return
    check_workers(number)
    if number == 1:
        yield None
        return
    with Workers(number) as workers:
        yield workers


def _death(worker: _Worker, job: Job) -> WorkerError:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if not worker.ready:
        return WorkerError(
            f"a worker process {how} before it was ready; a script that asks for workers must call from under "
            'if __name__ == "__main__":'
        )
    return WorkerError(
        f"a worker process {how} in {job.shard.label}; what is done is kept where the run has a folder. Where "
        "memory ran out, take fewer workers or a smaller batch"
    )


@contextmanager
def _blocked() -> Iterator[None]:
    """Defer Ctrl-C within the context, here and in processes started within it."""
    mask = getattr(signal, "pthread_sigmask", None)  # not on every platform
    if mask is None:
        yield
        return
    before = mask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


# The code below runs in a worker.


class _Parent:
    """The worker's ends of the pipes."""

    def __init__(self, commands: Connection, replies: Connection) -> None:
        self.commands, self.replies = commands, replies
        self.told = time.monotonic()
        self.counts: tuple[int, ...] = ()

    def tell(self, message: Message) -> None:
        try:
            self.replies.send_bytes(msgspec.msgpack.encode(message))
        except OSError as error:
            raise StoppedError from error

    def step(self, counts: tuple[int, ...]) -> None:
        """After each step: report the progress, and check whether to stop."""
        self.counts = tuple(counts)
        if self.commands.poll():
            raise StoppedError  # a working worker is sent nothing, so the pipe was closed
        now = time.monotonic()
        if now - self.told >= TELL_SECONDS:
            self.told = now
            self.tell(Message("counts", self.counts))

    def warn(self, message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        with suppress(StoppedError):
            self.tell(Message("warning", name=category.__name__, text=str(message)))


def _work(commands: Connection, replies: Connection, threads: int) -> None:
    """A worker: receives jobs and writes results to files until the pipe is closed."""
    # Ctrl-C takes effect in a rollout only, which ends its step first; elsewhere the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(threads)
    parent = _Parent(commands, replies)
    warnings.showwarning = parent.warn
    with suppress(StoppedError, EOFError, OSError):
        parent.tell(Message("ready"))
        known: tuple[Any, Any] | None = None
        while True:
            asked = msgspec.msgpack.decode(commands.recv_bytes(), type=Job)
            # Images and weights are read once, not for each shard.
            if known is None or known[0] != asked.task:
                known = None
            try:
                if commands.poll():
                    raise StoppedError  # asked to stop before it began
                made = asked.make_task() if known is None else known[1]
                known = (asked.task, made)
                perform(asked, made, parent.step)
            except (StoppedError, KeyboardInterrupt):
                parent.tell(Message("stopped"))
                return
            except InputError as error:
                parent.tell(Message("error", name=type(error).__name__, text=str(error)))
            except Exception:
                parent.tell(Message("crash", text=traceback.format_exc()))
            else:
                parent.tell(Message("done", parent.counts))
