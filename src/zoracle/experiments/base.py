"""Definition of an experiment and of its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from zoracle.experiments.context import Context
from zoracle.experiments.work import Work
from zoracle.reporting import Array, Figure, Table


class Outcome(NamedTuple):
    """Results of an experiment."""

    tables: Sequence[Table]
    figures: Sequence[Figure]
    curves: Mapping[str, Array]
    """The raw numbers, as in ``curves.npz``."""
    findings: Sequence[str] = ()
    """Sentences that summarise the tables."""


class Experiment(NamedTuple):
    """One experiment. ``quick`` and ``full`` are its settings, structs of plain values."""

    name: str
    summary: str
    about: str
    """What is measured, on which split, with which seeds; plain text, paragraphs separated by empty lines."""
    full: Any
    quick: Any
    run: Callable[[Context], Outcome]
    work: Callable[[Any], Work]
    """Settings of the form."""
    needs: tuple[tuple[str, str], ...] = ()
    """Required modules, and the extras that install them."""
