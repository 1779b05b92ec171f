"""The definitions of the reported numbers.

========================  ==========================================================================================
word                      meaning
========================  ==========================================================================================
initial                   loss at the starting point
final                     loss of the last iterate; where runs stop at their first success, that of the success, or of
                          the best failed point
best                      lowest loss of any evaluated point, the last iterate included
ratio                     mean over problems (and seeds) of final / initial
best_ratio                mean over problems (and seeds) of best / initial
success_final             share of problems whose last iterate succeeds
success_ever              share of problems of which any evaluated point succeeded, the last iterate included
queries to first success  points evaluated for a problem up to and including the first that succeeds; a problem that
                          never succeeds counts at the whole budget, and so does one whose only success is a last
                          iterate that was evaluated just to report
whole budget              the budget given, or else steps times points per step
l1, l2, linf              distance of the last iterate from the original, mean over problems (and seeds); within a
                          ball, of the success with the lowest loss, or the best failed point where there is none
misclassified             problems whose start was checked, for one query, and is a success: there was nothing to
                          attack. They are in no success rate, no queries to first success and no distance
attacked                  problems that are neither that nor left out, since an earlier attack had broken them
clean accuracy            share of images that are not misclassified; of one image, in any repeat
robust accuracy           share of images that were attacked in every repeat and broken in none, with Wilson's interval
                          over images
queries_per_problem       points that the optimizer spent, the check of the start included, mean over all problems;
                          monitoring is counted apart
========================  ==========================================================================================

Failures are included in every mean. A non-finite final loss counts as the largest finite loss of any iterate of the
same run, so at least as much as the starting point: divergence is never an advantage. If no evaluated point was finite,
best is the starting point. A ratio needs a positive, finite initial loss; a problem without one is excluded from the
ratios only. This depends on the starting point, not on the optimizer, and the number of such problems is reported.

A problem that stops early (at its first success) spends fewer queries than the whole budget; in curves, its loss
remains constant from then on.

For a stochastic objective, initial, final and best are losses of the full objective, evaluated for reporting.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.results.intervals import Interval, clustered, wilson
from zoracle.results.result import Result

DEFINITIONS: tuple[tuple[str, str], ...] = (
    ("ratio", "Mean over problems and repeats of final / initial loss. Lower is better."),
    (
        "final",
        "The last iterate; its loss is evaluated only for reporting and counted as monitoring. If runs stop at their "
        "first success: that point or the best failed one, without monitoring.",
    ),
    ("best", "The best evaluated point, including the last iterate."),
    ("initial", "The starting point."),
    (
        "queries to first success",
        "Points evaluated for a problem up to and including the first success. Problems that never succeed count at "
        "the whole budget.",
    ),
    ("success (final, ever)", "Share of problems whose last iterate succeeds, or for which any evaluated point did."),
    (
        "l1, l2, linf",
        "Distance of the last iterate from the original, mean over problems and repeats. Within a ball: of the "
        "successful image, or of the best failed one.",
    ),
    (
        "misclassified",
        "Images that the model misclassifies before the attack, found with one query each. They are excluded from "
        "success rates, queries to first success and distances. Without the initial check there is no such count.",
    ),
    (
        "clean, robust accuracy",
        "Share of images that the model classifies correctly before the attack, and that are also not broken in any "
        "repeat; in the worst case, by any attack. The interval is a Wilson interval over images.",
    ),
    (
        "95 % interval",
        "Student's t over problems, each first averaged over its repeats, because repeats of one problem are not "
        "independent. With a single problem, over the repeats.",
    ),
    (
        "not finite",
        "A final loss that is NaN or infinite counts as the largest finite loss of any iterate of the same run, "
        "including the starting point. Failures are included in every mean.",
    ),
)


class Summary(NamedTuple):
    """The reported numbers of one result; None where the task does not define them."""

    queries_per_problem: float
    monitor_queries_per_problem: float
    final_loss: Interval
    ratio: Interval
    best_ratio: float
    success_final: float | None
    success_ever: float | None
    queries_to_success_mean: float | None
    queries_to_success_median: float | None
    l1: float | None
    l2: float | None
    linf: float | None
    seconds: float
    non_finite_values: int
    """Values of all runs together that were not finite."""
    non_finite_finals: int
    """Runs whose last iterate's loss was not finite."""
    ratio_undefined: int
    """Runs whose initial loss has no ratio to it."""
    misclassified: int
    """Runs whose start was a success already."""
    attacked: int
    """Runs that were neither that nor left out, since an earlier attack had broken the image."""
    broken: int
    """Those among them in which some evaluated point succeeded."""
    clean: float | None
    """Share of images that the model gets right as they are; None if not checked."""
    robust: Interval
    """Share of images that no repeat broke, those misclassified already counted as broken."""


def final_loss(result: Result) -> Tensor:
    """(S, P) loss of the last iterate; where it is not finite, the largest finite one of the run."""
    final = result.losses[..., -1]
    worst = result.losses.nan_to_num(nan=-torch.inf, posinf=-torch.inf).amax(2)
    worst = torch.where(worst.isfinite(), worst, torch.nan)
    return torch.where(final.isfinite(), final, worst)


def best_loss(result: Result) -> Tensor:
    """(S, P) lowest loss of any evaluated point; the starting point's where none was finite."""
    best = result.best[..., -1]
    return torch.where(best.isfinite(), best, result.losses[..., 0])


def ratio(result: Result) -> Tensor:
    """(S, P) final / initial loss; NaN where the initial loss is not positive and finite."""
    return _relative(final_loss(result), result)


def best_ratio(result: Result) -> Tensor:
    """(S, P) best / initial loss; NaN where the initial loss is not positive and finite."""
    return _relative(best_loss(result), result)


def queries_to_success(result: Result) -> Tensor:
    """(S, P) float64 points up to and including the first success, the whole budget where there is none.

    NaN where the start was checked and there was nothing to attack.
    """
    return _attacked(torch.where(result.first_success > 0, result.first_success, result.allowance), result)


def summarise(result: Result) -> Summary:
    """All reported numbers of a result."""
    known = bool(result.success_known.all())
    every_step = bool(result.first_known.all())
    first = queries_to_success(result) if every_step else None
    ratios = ratio(result)
    return Summary(
        queries_per_problem=_mean(result.spent),
        monitor_queries_per_problem=_mean(result.monitored),
        final_loss=clustered(final_loss(result)),
        ratio=clustered(ratios),
        best_ratio=clustered(best_ratio(result)).mean,
        success_final=_known(_attacked(result.final_success, result)) if known else None,
        success_ever=_known(_attacked(result.success_ever, result)) if every_step else None,
        queries_to_success_mean=None if first is None else _known(first),
        queries_to_success_median=None if first is None or first.isnan().all() else float(first.nanquantile(0.5)),
        l1=_known(_attacked(result.l1, result)),
        l2=_known(_attacked(result.l2, result)),
        linf=_known(_attacked(result.linf, result)),
        seconds=float(result.seconds.sum()),
        non_finite_values=int(result.non_finite.sum()),
        non_finite_finals=int((~result.losses[..., -1].isfinite() & (result.spent > 0)).sum()),
        ratio_undefined=int((ratios.isnan() & result.attacked).sum()),
        misclassified=int(result.misclassified.sum()),
        attacked=int(result.attacked.sum()),
        broken=int((result.attacked & result.success_ever).sum()),
        clean=_clean(result),
        robust=wilson(int(standing(result).sum()), result.ids.shape[1]),
    )


def standing(result: Result) -> Tensor:
    """(P,) bool, images that were attacked in every repeat and broken in none."""
    return (result.attacked & ~result.success_ever).all(0)


def _clean(result: Result) -> float | None:
    looked = bool((result.queries[..., 0] > 0).any()) or bool(result.misclassified.any())
    return 1 - _mean(result.misclassified.any(0)) if looked else None


def paired(one: Result, other: Result) -> dict[str, Interval]:
    """One minus other on the same problems and seeds, with intervals of the differences; negative: one is lower.

    Returns:
        "ratio", "final_loss", and "queries_to_success" where both know it.

    Raises:
        InputError: the results are of other problems or seeds.
    """
    if not (torch.equal(one.ids, other.ids) and torch.equal(one.seed, other.seed)):
        raise InputError("the two results have different problems or seeds; expected the same for a paired difference")
    differences = {
        "ratio": clustered(ratio(one) - ratio(other)),
        "final_loss": clustered(final_loss(one) - final_loss(other)),
    }
    if bool((one.first_known & other.first_known).all()):
        differences["queries_to_success"] = clustered(queries_to_success(one) - queries_to_success(other))
    return differences


def _relative(loss: Tensor, result: Result) -> Tensor:
    initial = result.losses[..., 0]
    return torch.where(initial.isfinite() & (initial > 0), loss / initial, torch.nan)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _attacked(values: Tensor, result: Result) -> Tensor:
    """Values (S, P) as float64; NaN where there was nothing to attack."""
    return values.double().masked_fill(~result.attacked, torch.nan)


def _known(values: Tensor) -> float | None:
    """The mean of what is not NaN; None where nothing is."""
    mean = float(values.nanmean())
    return None if mean != mean else mean
