"""Evolution strategies of other packages as optimizers of this one, so that they are counted like all the others."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple

from zoracle.experiments.external.evosax import Evosax
from zoracle.experiments.external.pycma import PyCMA
from zoracle.optimizers import Optimizer


class _Package(NamedTuple):
    """The package that provides the rows."""

    name: str
    module: str
    optimizer: type[Optimizer[Any, Any]]
    rows: Mapping[str, Mapping[str, Any]]
    """Settings by label."""
    slow: str
    """The row omitted in quick forms."""
    versions: tuple[str, ...]
    """Distributions whose versions affect the numbers."""


_PACKAGES = (
    _Package(
        "pycma",
        "cma",
        PyCMA,
        {"pycma": {"sigma": 0.03}, "pycma-diagonal": {"sigma": 0.1, "diagonal": True}},
        slow="pycma",  # slow to run: it factorises a d x d covariance
        versions=("cma",),
    ),
    _Package(
        "evosax",
        "evosax",
        Evosax,
        {f"evosax-{strategy}": {"strategy": strategy} for strategy in ("snes", "les", "cma-anchored-les")},
        slow="evosax-cma-anchored-les",  # slow to compile
        versions=("evosax", "jax"),
    ),
)


def external(quick: bool) -> tuple[list[tuple[str, Optimizer[Any, Any]]], list[str]]:
    """The rows of each installed package, and notes for the reader: versions and missing packages.

    Args:
        quick: leave out the slow ones.
    """
    found: list[tuple[str, Optimizer[Any, Any]]] = []
    notes = []
    for package in _PACKAGES:
        labels = [label for label in package.rows if not (quick and label == package.slow)]
        try:
            found += [(label, package.optimizer(**package.rows[label])) for label in labels]
            notes.append(f"rows of {package.name} are made by {_versions(package)}")
        except ImportError as error:
            notes.append(f"no rows of {package.name}: {error}")
    return found, notes


def count() -> int:
    """Number of rows of the full form with the installed packages, found without importing them."""
    return sum(len(package.rows) for package in _PACKAGES if find_spec(package.module) is not None)


def _versions(package: _Package) -> str:
    told = []
    for name in package.versions:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # a copy on the path that is not installed
            told.append(name)
    return " and ".join(told)
