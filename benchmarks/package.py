"""How long the command line takes to start, and how large an installation is without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import zoracle
from benchmarks.measure import Options, interleaved, seconds
from benchmarks.report import Report, figure

ABOUT = "start-up of the command line, its process included, and the installed size of zoracle and what it needs"
COMMANDS = {"zoracle --help": ["--help"], "zoracle optimizers": ["optimizers"]}


def start(arguments: list[str]) -> float:
    """Seconds of a command in a process of its own."""
    command = [sys.executable, "-m", "zoracle.cli.main", *arguments]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def needed() -> list[Distribution]:
    """What zoracle needs without its extras, without torch and what only torch needs, and without itself."""
    found: dict[str, Distribution] = {}
    waiting = list(_requires(distribution("zoracle")))
    while waiting:
        name = waiting.pop()
        if name == "torch" or name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform or Python
        waiting += _requires(found[name])
    return [found[name] for name in sorted(found)]


def _requires(of: Distribution) -> list[str]:
    names = []
    for line in of.requires or ():
        wanted, _, marker = line.partition(";")
        if "extra" not in marker and (name := re.match(r"[A-Za-z0-9._-]+", wanted)):
            names.append(name[0].lower().replace("_", "-"))
    return names


def size_of(of: Distribution) -> float:
    """MiB of the files of a distribution, compiled Python left out."""
    paths = [Path(str(of.locate_file(file))) for file in of.files or () if "__pycache__" not in file.parts]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


def own_size() -> float:
    """MiB of zoracle's own package, installed or in a working tree."""
    folder = Path(str(zoracle.__file__)).parent
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sum(path.stat().st_size for path in files) / 2**20


def run(options: Options) -> Report:
    """Both."""
    calls = {name: partial(start, arguments) for name, arguments in list(COMMANDS.items())[: 1 if options.quick else 2]}
    for call in calls.values():
        call()  # compiles what is not yet
    times = interleaved(calls, options.repeats)
    figures = [figure(name, "s", values) for name, values in times.items()]
    sizes = {of.metadata["Name"]: size_of(of) for of in needed()}
    own = own_size()
    figures.append(figure("zoracle itself", "MiB", [own]))
    figures.append(figure("zoracle and what it needs, without torch", "MiB", [own + sum(sizes.values())]))
    settings: dict[str, Any] = {
        "repeats": options.repeats,
        "MiB": {"zoracle": round(own, 2), **{name: round(size, 2) for name, size in sizes.items()}},
    }
    return Report("package", ABOUT, figures, settings, [])
