"""What a benchmark found, as JSON and as one Markdown table."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

import zoracle


class Figure(NamedTuple):
    """One number: the median of its repeats, the lowest and the highest."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    repeats: int
    at_most: float | None = None
    """What is asked of it, where something is."""
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is what was asked for; None where nothing was."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**self._asdict(), "met": self.met}


class Report(NamedTuple):
    """What a benchmark found."""

    name: str
    about: str
    figures: list[Figure]
    settings: dict[str, Any]
    notes: list[str]
    skipped: str | None = None
    """Why nothing was measured."""

    def as_json(self, quick: bool) -> dict[str, Any]:
        """JSON values. No path, no host and no user."""
        return {
            "benchmark": self.name,
            "about": self.about,
            "quick": quick,
            "machine": machine(),
            "settings": self.settings,
            "skipped": self.skipped,
            "figures": [figure.as_json() for figure in self.figures],
            "notes": self.notes,
        }


def figure(
    name: str,
    unit: str,
    values: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """A figure from its repeats."""
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"{name}: {list(values)} are no measurements")
    middle = statistics.median(values)
    return Figure(name, unit, middle, min(values), max(values), len(values), at_most, at_least)


def ratio(
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """A ratio of times that were measured in turn: of each pair, then their median."""
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    return figure(name, "x", pairs, at_most=at_most, at_least=at_least)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "onnxruntime": _version("onnxruntime"),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "zoracle": zoracle.__version__,
    }


def table(reports: Sequence[Report]) -> str:
    """All benchmarks as one Markdown table."""
    about = machine()
    lines = [
        f"{about['cpu']}, {about['cores']} cores; torch {about['torch']}, Python {about['python']}. Medians; "
        "lowest and highest of the repeats beside them.",
        "",
        "| benchmark | figure | median | lowest .. highest | unit | asked |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    for report in reports:
        if report.skipped is not None:
            lines.append(f"| {report.name} | skipped: {report.skipped} | | | | |")
        lines += [_row(report.name, one) for one in report.figures]
    notes = [f"- {report.name}: {note}" for report in reports for note in report.notes]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _row(name: str, one: Figure) -> str:
    asked: Literal[""] | str = ""
    if one.at_most is not None:
        asked = f"<= {number(one.at_most)}"
    elif one.at_least is not None:
        asked = f">= {number(one.at_least)}"
    if one.met is not None:
        asked += ", met" if one.met else ", not met"
    spread = f"{number(one.low)} .. {number(one.high)}"
    return f"| {name} | {one.name} | {number(one.value)} | {spread} | {one.unit} | {asked} |"


def number(value: float) -> str:
    """Three digits that mean something."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
