"""Time and memory, measured in turn, so that what slows the machine down slows both sides of a ratio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

#: The folder that holds the package ``benchmarks``.
ROOT = Path(__file__).parents[1]

_CHILD = "import sys; from benchmarks.measure import child; child(sys.argv[1], sys.argv[2])"


class Options(NamedTuple):
    """How much is measured."""

    quick: bool = False
    """The least that goes through everything: for tests of the benchmarks, not of the speed."""
    repeats: int = 5
    steps: int = 20
    """Steps of an attack in each repeat."""


def interleaved(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each in turn, again and again: what each returned, by name.

    Args:
        calls: each measures something itself, and returns it.
        repeats: rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(call())
    return found


def seconds(call: Callable[[], object], at_least: float = 0.0) -> float:
    """Seconds of one call: the mean over as many as take ``at_least`` so long."""
    begun = time.perf_counter()
    number = 0
    while number == 0 or time.perf_counter() - begun < at_least:
        call()
        number += 1
    return (time.perf_counter() - begun) / number


class StepClock:
    """Seconds a step of a run, from the moments after each step; the first one, with the set-up, is left out."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def tick(self, *_: object) -> None:
        """After a step."""
        self.moments.append(time.perf_counter())

    def seconds(self, steps: int) -> float:
        """Of one step."""
        return (self.moments[steps - 1] - self.moments[0]) / (steps - 1)


class Peak(NamedTuple):
    """Memory of a process of its own."""

    above: float
    """MiB at the peak, above what the process held before."""
    whole: float
    """MiB at the peak."""


def peak_memory(target: str, **arguments: Any) -> Peak:
    """The peak of memory of a function in a fresh process.

    The function is called twice: with ``small=True``, so that what torch loads once is there, then with
    ``small=False``, which counts.

    Args:
        target: "module:function".
        arguments: its arguments, JSON values.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-c", _CHILD, target, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{target} {arguments} failed in a process of its own:\n{done.stderr}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def child(target: str, arguments: str) -> None:
    """What :func:`peak_memory` runs in the fresh process."""
    module, _, name = target.partition(":")
    call = getattr(import_module(module), name)
    import torch

    torch.set_num_threads(1)
    settings = json.loads(arguments)
    call(**settings, small=True)
    held = _reset_peak()
    call(**settings, small=False)
    peak = _peak()
    print(json.dumps({"above": peak - held, "whole": peak}))


def _reset_peak() -> float:
    """Forget the peak so far; MiB held now. Where that cannot be done, the peak so far itself."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS") or _peak()


def _peak() -> float:
    """MiB. Not ru_maxrss where there is better: a process inherits that from the one that started it."""
    known = _status("VmHWM")
    if known is not None:
        return known
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def _status(name: str) -> float | None:
    path = Path("/proc/self/status")
    if not path.is_file():
        return None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10
    return None
