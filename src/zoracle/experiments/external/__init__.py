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
    """Where rows come from."""

    name: str
    module: str
    optimizer: type[Optimizer[Any, Any]]
    rows: Mapping[str, Mapping[str, Any]]
    """Settings by label; those that the paper's public code is compared with."""
    slow: str
    """The row that quick forms leave out."""
    versions: tuple[str, ...]
    """Distributions that the numbers depend on."""


_PACKAGES = (
    _Package(
        "pycma",
        "cma",
        PyCMA,
        {"pycma": {"sigma": 0.03}, "pycma-diagonal": {"sigma": 0.1, "diagonal": True}},
        slow="pycma",  # to run: it factorises a covariance of d x d
        versions=("cma",),
    ),
    _Package(
        "evosax",
        "evosax",
        Evosax,
        {f"evosax-{strategy}": {"strategy": strategy} for strategy in ("snes", "les", "cma-anchored-les")},
        slow="evosax-cma-anchored-les",  # to compile
        versions=("evosax", "jax"),
    ),
)


def external(quick: bool) -> tuple[list[tuple[str, Optimizer[Any, Any]]], list[str]]:
    """The rows of each package that is installed, and what a reader should know: versions, and what is missing.

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
    """How many rows the full form has with what is installed; nothing is imported to know that."""
    return sum(len(package.rows) for package in _PACKAGES if find_spec(package.module) is not None)


def _versions(package: _Package) -> str:
    told = []
    for name in package.versions:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # a copy that merely lies on the path
            told.append(name)
    return " and ".join(told)
