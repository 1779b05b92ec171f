"""Calls of a user's function, one after another or in an executor.

Imports neither torch nor NumPy: a worker process imports this module and the function's own, and nothing else.
"""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count
from typing import Any

from zoracle.errors import InputError, WorkerError, failure, one_line

#: Processes that may be started; each takes tens of megabytes.
MOST_WORKERS = 1024
#: Executors whose workers cannot be counted are given this many parts of a batch.
_PARTS = cpu_count() or 1


class Failure:
    """Result of a call that raised.

    Attributes:
        text: type and first line of the exception.
        error: the exception; None where it was raised in another process.
    """

    def __init__(self, text: str, error: BaseException | None = None) -> None:
        self.text, self.error = text, error

    def __reduce__(self) -> tuple[Any, ...]:
        return Failure, (self.text,)  # an exception that cannot be unpickled would break the pool


class Guarded:
    """A function that returns a :class:`Failure` instead of raising, after a number of further attempts."""

    def __init__(self, f: Callable[[Any], Any], retries: int = 0) -> None:
        self.f, self.retries = f, retries

    def __call__(self, given: Any) -> Any:
        """What the function returns for a copy of what is given."""
        for attempt in range(self.retries + 1):
            try:
                # A function may overwrite what it gets, so that a further attempt needs a copy.
                return self.f(given.copy() if hasattr(given, "copy") else given.clone())
            except BaseException as error:
                told = failure(error)
                if attempt == self.retries:
                    return Failure(told, error)
        raise AssertionError("unreachable")


class Calls:
    """Calls a function with many inputs, in their order.

    Args:
        f: the function to call.
        workers: 1 calls it here, one input after another; N starts that many processes; an executor is used as it
            is, and left open.
        retries: further attempts of a call that raised.

    Attributes:
        slots: number of concurrent calls.

    Raises:
        InputError: ``workers`` is neither, or ``f`` cannot be sent to processes.
    """

    def __init__(self, f: Callable[[Any], Any], workers: int | Executor = 1, retries: int = 0) -> None:
        self._guarded = Guarded(f, retries)
        self._executor: Executor | None = None
        self._own: ProcessPoolExecutor | None = None
        if isinstance(workers, Executor):
            self._executor = workers
            self.slots = int(getattr(workers, "_max_workers", _PARTS))
            return
        self.slots = workers
        if workers > 1:
            self._own = ProcessPoolExecutor(
                workers,
                mp_context=get_context("spawn"),  # a forked process must not use torch's threads
                initializer=_keep,
                initargs=(_sendable(self._guarded),),
            )

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """The results in the order of the inputs; a :class:`Failure` for each call that raised.

        Raises:
            WorkerError: a worker process ended.
        """
        if self._own is None and self._executor is None:
            return [self._guarded(one) for one in inputs]
        futures: list[Future[Any]] = []
        try:
            for one in inputs:
                futures.append(self._submit(one))  # noqa: PERF401  # those before one that cannot be sent are cancelled
            return [future.result() for future in futures]
        except BrokenExecutor as error:
            raise WorkerError(
                "a worker process ended before its call was done; f has to be importable by a new process (defined in "
                'a module, or in a script that calls from under if __name__ == "__main__":), or give threads: '
                "workers=concurrent.futures.ThreadPoolExecutor(2)"
            ) from error
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def _submit(self, given: Any) -> Future[Any]:
        if self._own is not None:
            return self._own.submit(_call_kept, given)
        assert self._executor is not None
        return self._executor.submit(self._guarded, given)

    def close(self, *, now: bool = False) -> None:
        """End the processes that this object started; ``now`` without waiting for calls in flight."""
        if self._own is None:
            return
        if now:
            for process in list((getattr(self._own, "_processes", None) or {}).values()):
                process.terminate()
        self._own.shutdown(wait=True, cancel_futures=True)


def _sendable(guarded: Guarded) -> Guarded:
    """The same, or an InputError where a process could not be given it."""
    try:
        if getattr(guarded.f, "__module__", "") == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
            raise pickle.PicklingError("it is defined in an interactive session")
        pickle.dumps(guarded)
    except Exception as error:
        raise InputError(
            f"f cannot be sent to worker processes ({one_line(error)}); define it at the top of a module, or give "
            "threads: workers=concurrent.futures.ThreadPoolExecutor(2)"
        ) from error
    return guarded


# What follows runs in a worker process.

_kept: Guarded | None = None


def _keep(guarded: Guarded) -> None:
    """Keep the function of this worker; Ctrl-C is the parent's to handle."""
    global _kept
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _kept = guarded


def _call_kept(given: Any) -> Any:
    assert _kept is not None
    return _kept(given)
