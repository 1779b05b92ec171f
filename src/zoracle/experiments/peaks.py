"""Peak memory of a function, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

_CHILD = "import sys; from zoracle.experiments.peaks import child; child(sys.argv[1], sys.argv[2])"


class Peak(NamedTuple):
    """Memory of a process of its own."""

    above: float
    """MiB at the peak, above what the process held before."""
    whole: float
    """MiB at the peak."""


def peak_memory(
    target: str,
    arguments: Mapping[str, Any],
    path: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Peak:
    """Peak memory of a function in a fresh process.

    The function is called twice: with ``small=True``, so that the libraries it uses are loaded, then with
    ``small=False``, which is measured.

    Args:
        target: "module:function".
        arguments: its arguments, JSON values.
        path: folders to import from besides those of this process.
        environment: variables of the process besides those of this one.

    Raises:
        RuntimeError: it failed.
    """
    places = os.pathsep.join([*path, *filter(None, sys.path)])
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": places}
    command = [sys.executable, "-c", _CHILD, target, json.dumps(arguments)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{target} {dict(arguments)} failed in a process of its own:\n{done.stderr}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def child(target: str, arguments: str) -> None:
    """The fresh process of :func:`peak_memory`."""
    module, _, name = target.partition(":")
    call = getattr(import_module(module), name)
    import torch

    torch.set_num_threads(1)
    settings = json.loads(arguments)
    call(**settings, small=True)
    held = _reset_peak()
    call(**settings, small=False)
    peak = _peak()
    sys.stdout.write(json.dumps({"above": peak - held, "whole": peak}) + "\n")


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
