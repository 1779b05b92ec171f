"""The rows of a comparison: each optimizer's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from zoracle.results.intervals import Interval
from zoracle.results.metrics import paired, summarise
from zoracle.results.result import Result


class Row(NamedTuple):
    """One optimizer's numbers, in the order of ``table.json``; None where the task does not define a number.

    The words are defined in :mod:`zoracle.results.metrics`. Intervals are 95 %.
    """

    optimizer: str
    problems: int
    seeds: int
    queries_per_problem: float
    final_loss: float | None
    final_loss_low: float | None
    final_loss_high: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    best_ratio: float | None
    success_final: float | None
    success_ever: float | None
    queries_to_success_mean: float | None
    queries_to_success_median: float | None
    l1: float | None
    l2: float | None
    linf: float | None
    seconds: float
    """Wall-clock seconds of all its runs."""
    steps: int
    monitor_queries_per_problem: float
    """Points evaluated only to report; not among queries_per_problem."""
    non_finite_values: int
    non_finite_finals: int
    ratio_undefined: int
    settings: dict[str, Any]
    """All settings it ran with."""
    settings_from: str
    """Where those came from: "given", "defaults", "defaults, none tuned", "tuned" or "tuned in this run"; "of all
    attacks" in the row of their worst case."""
    misclassified: int
    """Runs whose start was checked and is a success: there was nothing to attack."""
    stop_on_success: bool
    """Whether problems stopped at their first success."""
    attacked: int | None
    """Of an attack: runs that it made, neither of misclassified images nor of those that an earlier attack of an
    ensemble had broken."""
    broken: int | None
    """Those among them that succeeded."""
    left_out: int | None
    """Runs that it did not make, since an earlier attack of the ensemble had broken the image."""
    clean_accuracy: float | None
    """Share of images that the target gets right as they are; None if not checked."""
    robust_accuracy: float | None
    """Share of images that are left: right, and broken by no repeat of this attack or of those before it in an
    ensemble. Low and high are Wilson's interval over images."""
    robust_accuracy_low: float | None
    robust_accuracy_high: float | None
    versus_first: dict[str, dict[str, float | None]] | None
    """This row minus the first row on the same problems and seeds: mean, low, high of ratio, final_loss and
    queries_to_success. None in the first row."""
    weights: str | None = None
    """What its weights are called, where "optimizer" is another name for them."""

    def lost(self, more_than: float = 0.0) -> str | None:
        """A line on the values that were not finite; None where they are no more than a share of all."""
        asked = round(self.queries_per_problem * self.problems * self.seeds)
        if not self.non_finite_values > more_than * asked:
            return None
        share = self.non_finite_values / max(1, asked)
        return f"{self.optimizer}: {share:.1%} of the values ({self.non_finite_values:,}) were NaN or infinite"


def rows_of(
    results: Mapping[str, Result],
    settings: Mapping[str, dict[str, Any]] | None = None,
    settings_from: Mapping[str, str] | None = None,
    stopping: bool = False,
    *,
    attack: bool = False,
    ranked: bool = True,
) -> list[Row]:
    """Rows with the best first and undefined ones last.

    Sorted by ratio, and by final loss where there is none; where runs stop at a success, by queries to it first.

    Args:
        results: by label.
        settings: that each ran with.
        settings_from: where those came from.
        stopping: whether runs stop at their first success.
        attack: whether they are attacks, which leave a robust accuracy.
        ranked: whether they are to be ranked; else they keep their order, and are not compared.
    """
    order = sorted(results, key=lambda label: _rank(results[label], stopping)) if ranked else list(results)
    first = results[order[0]] if order else None
    rows = []
    for label in order:
        alone = results[label] is first or first is None or not ranked
        rows.append(
            _row(
                label,
                results[label],
                (settings or {}).get(label, {}),
                (settings_from or {}).get(label, "given"),
                None if alone else paired(results[label], first),  # type: ignore[arg-type]  # alone where it is None
                stopping,
                attack,
            )
        )
    return rows


def _row(
    label: str,
    result: Result,
    settings: dict[str, Any],
    source: str,
    versus: dict[str, Interval] | None,
    stopping: bool,
    attack: bool,
) -> Row:
    s = summarise(result)
    runs = result.ids.numel()
    return Row(
        optimizer=label,
        problems=result.ids.shape[1],
        seeds=result.ids.shape[0],
        queries_per_problem=s.queries_per_problem,
        final_loss=_finite(s.final_loss.mean),
        final_loss_low=_finite(s.final_loss.low),
        final_loss_high=_finite(s.final_loss.high),
        ratio=_finite(s.ratio.mean),
        ratio_low=_finite(s.ratio.low),
        ratio_high=_finite(s.ratio.high),
        best_ratio=_finite(s.best_ratio),
        success_final=s.success_final,
        success_ever=s.success_ever,
        queries_to_success_mean=s.queries_to_success_mean,
        queries_to_success_median=s.queries_to_success_median,
        l1=s.l1,
        l2=s.l2,
        linf=s.linf,
        seconds=s.seconds,
        steps=result.losses.shape[2] - 1,
        monitor_queries_per_problem=s.monitor_queries_per_problem,
        non_finite_values=s.non_finite_values,
        non_finite_finals=s.non_finite_finals,
        ratio_undefined=s.ratio_undefined,
        misclassified=s.misclassified,
        stop_on_success=stopping,
        attacked=s.attacked if attack else None,
        broken=s.broken if attack else None,
        left_out=runs - s.attacked - s.misclassified if attack else None,
        clean_accuracy=s.clean if attack else None,
        robust_accuracy=_finite(s.robust.mean) if attack else None,
        robust_accuracy_low=_finite(s.robust.low) if attack else None,
        robust_accuracy_high=_finite(s.robust.high) if attack else None,
        settings=settings,
        settings_from=source,
        versus_first=None
        if versus is None
        else {name: {k: _finite(v) for k, v in i._asdict().items()} for name, i in versus.items()},
    )


def _rank(result: Result, stopping: bool) -> tuple[float, float, float]:
    s = summarise(result)
    first = s.queries_to_success_mean if stopping else 0.0
    return math.inf if first is None else first, _last(s.ratio.mean), _last(s.final_loss.mean)


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
