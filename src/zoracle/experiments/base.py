"""What an experiment is, and what it returns to be written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from zoracle.experiments.context import Context
from zoracle.experiments.work import Work
from zoracle.reporting import Array, Figure, Table


class Outcome(NamedTuple):
    """What an experiment found."""

    tables: Sequence[Table]
    figures: Sequence[Figure]
    curves: Mapping[str, Array]
    """The raw numbers, as ``curves.npz`` holds them."""
    findings: Sequence[str] = ()
    """Sentences that say what came out, no more than the tables do."""


class Experiment(NamedTuple):
    """One experiment. ``quick`` and ``full`` are its settings, structs of plain values."""

    name: str
    summary: str
    about: str
    """What is measured, on which split, with which seeds; plain text, paragraphs apart by an empty line."""
    full: Any
    quick: Any
    run: Callable[[Context], Outcome]
    work: Callable[[Any], Work]
    """Of settings."""
    needs: tuple[tuple[str, str], ...] = ()
    """Modules that it cannot do without, and the extras that install them."""
