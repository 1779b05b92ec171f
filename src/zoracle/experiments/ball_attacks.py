"""Attacks within balls: queries to success for each network and radius."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from zoracle.comparison import GRIDS, load_named_optimizers, use_of
from zoracle.errors import InputError
from zoracle.experiments.ball_rows import Attacked, BallRow, Targeted, attacked, rows_named
from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import comparison_queries, verdict
from zoracle.experiments.context import Compared, Context
from zoracle.experiments.work import Work
from zoracle.optimizers import PLAIN
from zoracle.reporting import Array, Table, records_table, success_panels
from zoracle.results import Result, clustered, paired, summarise

#: The hand-designed methods and the learned controllers by the norm of the ball, where no others are named.
RIVALS = {
    "linf": "square,sign-hunter,bandits,nes",
    "l2": "square,simba,simba-dct,bandits,nes",
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        rows: names of networks and balls, comma-separated; empty for all.
        problems: first test images that the network classifies correctly.
        seeds: repeats.
        budget: queries per image.
        valid: validation images for tuning settings.
        rivals: attacks to compare ``zo-lstm`` with, comma-separated; empty for those of the norm.
        targeted: "no"; or the class to reach, "random" or "runner-up".
    """

    rows: str = ""
    problems: int = 100
    seeds: int = 3
    budget: int = 1000
    valid: int = 30
    rivals: str = ""
    targeted: Targeted = "no"


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    rows: list[tuple[BallRow, Attacked]] = []
    for row in rows_named(s.rows):
        try:
            rows.append((row, attacked(context, row, s.problems, s.valid, s.targeted)))
        except InputError as error:
            if s.rows:  # it was requested by name
                raise
            context.note(f"{row.name} was skipped: {error}")
    # The rivals of every row first, so that they are kept when a new training of zo-lstm is measured.
    others = [_compared(context, row, problems, own=False) for row, problems in rows]
    owns = [_compared(context, row, problems, own=True) for row, problems in rows]
    done: dict[str, tuple[BallRow, Attacked, str, Compared]] = {}
    for (row, problems), one, other in zip(rows, owns, others, strict=True):
        both = Compared([*one.rows, *other.rows], {**one.results, **other.results})
        done[row.name] = row, problems, next(iter(one.results)), both
    if not done:
        raise InputError(
            "no row of ball-attacks can run without data; set ZORACLE_DATA, or choose rows that need none: "
            "--set rows=digits-linf-0.2,digits-l2-1"
        )
    summary = [
        _against_best(row, next(iter(one.results.items())), other.results)
        for (row, _), one, other in zip(rows, owns, others, strict=True)
    ]
    tables: list[Table] = [
        records_table("summary", "The learned attacker and the best of the others, row by row", _SUMMARY, summary),
        *(
            records_table(row.name, _heading(row, problems, s), _COLUMNS, _row(row, problems, label, found))
            for row, problems, label, found in done.values()
        ),
    ]
    curves: dict[str, Array] = {}
    for name, (_, _, _, found) in done.items():
        for label, result in found.results.items():
            curves[f"{name}/{label}.first_success"] = result.first_success.numpy()
    panels = {row.title: _own_first(own_label, found.results) for row, _, own_label, found in done.values()}
    figure = success_panels("success", "Success against queries", panels)
    return Outcome(tables, [figure], curves, [_sentence(record) for record in summary])


def _compared(context: Context, row: BallRow, problems: Attacked, *, own: bool) -> Compared:
    """The learned attacks of a row, or their rivals."""
    s: Settings = context.settings
    learned = context.learned(problems.task, PLAIN)
    if own:
        chosen = learned
    else:
        known = {label for label, _ in learned}
        rivals = load_named_optimizers(s.rivals or RIVALS[row.norm], use_of(problems.task))
        chosen = [(label, loaded) for label, loaded in rivals if label not in known]
        if not chosen:
            raise InputError(f"rivals={s.rivals} leaves only {', '.join(known)}; expected others to compare with")
    return context.compared(
        f"{row.name}-own" if own else row.name,
        problems.task,
        [(label, loaded.optimizer) for label, loaded in chosen],
        problems.ids,
        seeds=s.seeds,
        budget=s.budget,
        valid=s.valid,
        tuned_on=problems.valid,
        batch=row.batch,
        stopping=True,
    )


def _heading(row: BallRow, problems: Attacked, s: Settings) -> str:
    goal = "" if s.targeted == "no" else f", to a given class ({s.targeted})"
    return (
        f"{row.title}{goal}: {len(problems.ids)} test images, {s.budget:,} queries, seeds 0 to {s.seeds - 1}; the "
        f"network reads {problems.accuracy:.1%} of the test images correctly"
    )


#: The settings that are tuned, of any method.
_TUNED = {axis.setting for axes in GRIDS.values() for axis in axes}

_COLUMNS = [
    ("optimizer", "optimizer", ""),
    ("success", "success", ".1%"),
    ("accuracy left", "accuracy", ".1%"),
    ("queries, mean", "mean", ".1f"),
    ("median", "median", ".1f"),
    ("minus the first row's", "difference", "+.1f"),
    ("seconds per image", "seconds", ".2f"),
    ("settings", "settings", ""),
]
_SUMMARY = [
    ("row", "row", ""),
    ("optimizer", "optimizer", ""),
    ("success", "success", ".1%"),
    ("queries, mean", "mean", ".1f"),
    ("median", "median", ".1f"),
    ("best of the others", "best", ""),
    ("its success", "best_success", ".1%"),
    ("its mean", "best_mean", ".1f"),
    ("its median", "best_median", ".1f"),
    ("mean, times the best's", "times", ".3f"),
    ("mean, difference", "difference", "+.1f"),
    ("success, difference", "success_difference", "+.1%"),
    ("verdict", "verdict", ""),
]


def _row(row: BallRow, problems: Attacked, own_label: str, found: Compared) -> list[dict[str, Any]]:
    """The records of a row, the learned attack first."""
    there = {one.optimizer: one for one in found.rows}
    first = found.results[own_label]
    records = []
    for label, result in _own_first(own_label, found.results).items():
        one = there[label]
        versus = None if label == own_label else paired(result, first)["queries_to_success"]
        # Only the tuned settings.
        settings = {k: v for k, v in one.settings.items() if one.settings_from.startswith("tuned") and k in _TUNED}
        records.append(
            {
                "row": row.name,
                "optimizer": label,
                "success": one.success_ever,
                "accuracy": problems.accuracy * (1 - (one.success_ever or 0.0)),
                "mean": one.queries_to_success_mean,
                "median": one.queries_to_success_median,
                "difference": None if versus is None else versus.mean,
                "difference_low": None if versus is None else versus.low,
                "difference_high": None if versus is None else versus.high,
                "seconds": one.seconds / result.ids.numel(),
                "settings": ", ".join(f"{k} = {v:.4g}" for k, v in settings.items()),
            }
        )
    return records


def _against_best(row: BallRow, learned: tuple[str, Result], rivals: Mapping[str, Result]) -> dict[str, Any]:
    """The learned attack minus the rival with the lowest mean number of queries."""
    own_label, result = learned
    own = summarise(result)
    others = {label: summarise(rival) for label, rival in rivals.items()}
    best = min(others, key=lambda label: others[label].queries_to_success_mean or 0.0)
    queries = paired(result, rivals[best])["queries_to_success"]
    success = clustered(result.success_ever.double() - rivals[best].success_ever.double())
    mean, best_mean = own.queries_to_success_mean, others[best].queries_to_success_mean
    return {
        "row": row.name,
        "optimizer": own_label,
        "success": own.success_ever,
        "mean": mean,
        "median": own.queries_to_success_median,
        "best": best,
        "best_success": others[best].success_ever,
        "best_mean": best_mean,
        "best_median": others[best].queries_to_success_median,
        "times": None if mean is None or not best_mean else mean / best_mean,
        "difference": queries.mean,
        "difference_low": queries.low,
        "difference_high": queries.high,
        "success_difference": success.mean,
        "success_difference_low": success.low,
        "success_difference_high": success.high,
        "verdict": verdict(queries.low, queries.high),
    }


def _sentence(record: Mapping[str, Any]) -> str:
    said = {
        "win": "asks less than {best}, the best of the others",
        "loss": "asks more than {best}, the best of the others",
        "undecided": "is not distinguished from {best}, the best of the others",
    }
    return f"{record['row']}: {record['optimizer']} {said[record['verdict']].format(best=record['best'])}."


def _own_first(own_label: str, results: Mapping[str, Result]) -> dict[str, Result]:
    return {own_label: results[own_label], **{label: r for label, r in results.items() if label != own_label}}


def work(s: Settings) -> Work:
    """The largest amount of work of a form: a problem stops at its first success."""
    queries = 0.0
    for row in rows_named(s.rows):
        names = [name.partition(":")[0] for name in (s.rivals or RIVALS[row.norm]).split(",")]
        tuned = [{"simba-dct": "simba"}.get(name, name) for name in names]
        tuned = [name for name in tuned if name in GRIDS]
        queries += comparison_queries(s.problems, s.seeds, s.budget, 1 + len(names) - len(tuned), tuned, s.valid)
    return Work(queries)


_ABOUT = """Each method attacks the first {problems} test images that the network reads correctly, under seeds 0 to \
{last}, with {budget:,} queries per image at most, and stops at the first success. Which images the network reads \
correctly is asked for beforehand. Means and medians are over all images and repeats, and an image that is never \
broken counts at the whole budget. Intervals are over images, each averaged over its repeats first, of differences on \
the same images.

The settings of the hand-designed methods (p_init of Square between 0.05 and 0.8 under its published schedule, the \
step of SimBA, the steps of NES and Bandits-TD) were chosen on the first {valid} validation images that the network \
reads correctly, by the mean queries to success of seed 0. The learned attacker, zo-lstm, has one set of weights for \
all rows. Two rows are of a network that blurs its inputs or compresses them to JPEG first. Five small networks of \
other architectures are trained by the experiment itself, with other widths and seeds than those that the learned \
attacker was trained on; they read less than half of the images correctly. `zoracle train-target --task cifar10` \
trains the robust network. Rows whose data or networks are missing are left out."""

_FULL = Settings()
EXPERIMENT = Experiment(
    "ball-attacks",
    "The learned attacker within linf and l2 balls beside hand-designed ones, each at its best.",
    _ABOUT.format(problems=_FULL.problems, last=_FULL.seeds - 1, budget=_FULL.budget, valid=_FULL.valid),
    _FULL,
    Settings(rows="digits-linf-0.2,digits-l2-1", problems=4, seeds=1, budget=100, valid=3),
    run,
    work,
)
