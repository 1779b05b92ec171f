"""Evolution strategies of other packages as optimizers of this one, so that they are counted like all the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple

from zoracle.experiments.external import evosax, pycma
from zoracle.optimizers.base import Optimizer


class _Package(NamedTuple):
    """Where rows come from."""

    name: str
    module: str
    rows: Callable[[bool], Sequence[tuple[str, Optimizer[Any, Any]]]]
    count: int
    """Rows of the full form."""
    versions: tuple[str, ...]
    """Distributions that the numbers depend on."""


_PACKAGES = (
    _Package("pycma", "cma", pycma.rows, 2, ("cma",)),
    _Package("evosax", "evosax", evosax.rows, len(evosax.LABELS), ("evosax", "jax")),
)


def external(quick: bool) -> tuple[list[tuple[str, Optimizer[Any, Any]]], list[str]]:
    """The rows of each package that is installed, and what a reader should know: versions, and which ones are missing.

    Args:
        quick: leave out what is slow to run or to compile.
    """
    found: list[tuple[str, Optimizer[Any, Any]]] = []
    notes = []
    for package in _PACKAGES:
        try:
            found += package.rows(quick)
            notes.append(f"rows of {package.name} by {', '.join(_versions(package))}")
        except ImportError as error:
            notes.append(f"no rows of {package.name}: {error}")
    return found, notes


def count() -> int:
    """How many rows the full form has with what is installed; nothing is imported to know that."""
    return sum(package.count for package in _PACKAGES if find_spec(package.module) is not None)


def _versions(package: _Package) -> list[str]:
    told = []
    for name in package.versions:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # a copy that lies on the path
            told.append(name)
    return told
