"""Every shipped optimizer on every task that it was not trained on, compared with baselines tuned on the task."""

from __future__ import annotations

from typing import Any

import msgspec

from zoracle.errors import InputError
from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.common import BASELINES, arrays, baselines, comparison_queries, verdict
from zoracle.experiments.context import Context
from zoracle.experiments.work import Work
from zoracle.optimizers import Loaded, resolve, shipped
from zoracle.reporting import BAND, Figure, Table, best_line, panels_figure, records_table, rows_table
from zoracle.results import paired
from zoracle.tasks import names, task

_TUNED = (*BASELINES, "snes")
#: Tasks of the experiments `black-boxes` and `ball-attacks`; the latter's networks for ImageNet take hours here.
_ELSEWHERE = ("rover", "lasso", "hyperparameters", "policy", "imagenet")
#: Kinds that search a ball.
_BALL = ("spectral-search", "square-controllers")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        problems: first test problems of a task.
        seeds: repeats.
        budget: queries per problem.
        valid: validation problems for step sizes.
        only: the shipped optimizers to run, comma-separated; empty for all. Those named by ``--optimizers`` run too.
    """

    problems: int = 50
    seeds: int = 2
    budget: int = 4200
    valid: int = 20
    only: str = ""


def candidates(context: Context) -> dict[str, Loaded]:
    """The optimizers to transfer: all shipped ones and the user's, except those for attacks within a ball."""
    found = _wanted(context.settings)
    if context.optimizers is not None:
        found |= dict(context.learned(None))
    kept = {name: loaded for name, loaded in found.items() if loaded.metadata.get("name") not in _BALL}
    if dropped := sorted(set(found) - set(kept)):
        context.note(f"{', '.join(dropped)} search within a ball and were skipped: these tasks have none")
    return kept


def carried_to() -> list[str]:
    """The tasks to transfer to: all except those covered by other experiments."""
    return [name for name in names() if name not in _ELSEWHERE]


def _wanted(s: Settings) -> dict[str, Loaded]:
    """The shipped optimizers to run."""
    there = shipped()
    wanted = [name.strip() for name in s.only.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - set(there)):
        raise InputError(f"only={s.only}: {', '.join(unknown)} is not shipped; these are: {', '.join(there)}")
    return {name: resolve(name) for name in wanted or there}


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    every = candidates(context)
    tables: list[Table] = []
    curves: dict[str, Any] = {}
    panels = {}
    records: list[dict[str, Any]] = []
    for name in carried_to():
        foreign = {label: loaded.optimizer for label, loaded in every.items() if name not in loaded.trained_on()}
        if not foreign:
            context.note(f"{name}: every optimizer was trained on it")
            continue
        try:
            made = task(name) if not context.quick else context.task(name)
            ids = made.ids("test")[: s.problems]
        except InputError as error:
            context.note(f"{name} was skipped, and counts neither as a win nor as a loss: {error}")
            continue
        if made.name != name:
            continue  # its data are missing; the task that replaces it runs under its own name
        found = context.compared(
            name, made, [*foreign.items(), *baselines(_TUNED)], ids, seeds=s.seeds, budget=s.budget, valid=s.valid
        )
        tables.append(rows_table(name, f"{name}: {len(ids)} test problems, {s.seeds} repeats", found.rows))
        curves |= arrays(found.results, name)
        panels[name] = {label: best_line(result) for label, result in found.results.items()}
        for label in foreign:
            for rival in _TUNED:
                difference = paired(found.results[label], found.results[rival])["final_loss"]
                records.append(
                    {
                        "task": name, "optimizer": label, "against": rival, "final_loss": difference.mean,
                        "final_loss_low": difference.low, "final_loss_high": difference.high,
                        "verdict": verdict(difference.low, difference.high),
                    }
                )  # fmt: skip
    columns = [
        ("task", "task", ""),
        ("optimizer", "optimizer", ""),
        ("against", "against", ""),
        ("final loss, difference", "final_loss", "+.4g"),
        ("verdict", "verdict", ""),
    ]
    title = "Each optimizer minus each tuned baseline, paired; a win or a loss where the interval excludes zero"
    counts = [_count(label, records) for label in every if any(r["optimizer"] == label for r in records)]
    summary = [("optimizer", "optimizer", ""), *((key, key, "d") for key in ("wins", "losses", "undecided"))]
    summary.append(("tasks where it beats every baseline", "clean", ""))
    tables = [
        records_table("summary", "Wins and losses over all tasks and baselines", summary, counts),
        records_table("verdicts", title, columns, records),
        *tables,
    ]
    figures: list[Figure] = []
    if panels:
        figures.append(
            panels_figure(
                "curves", "Best loss so far, task by task",
                f"{BAND} Where steps see mini-batches, it is the lowest of their losses, which is less than that of "
                "all data: at the right end, where the last iterate is evaluated on all, lines jump up.",
                _alike(panels, [*every, *_TUNED]), x="queries per problem", y="best loss so far", log_y=True,
            )
        )  # fmt: skip
    return Outcome(tables, figures, curves, [_sentence(count) for count in counts])


def _count(label: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Wins and losses of one optimizer, and the tasks on which it beats every baseline."""
    own = [record for record in records if record["optimizer"] == label]
    tasks = list(dict.fromkeys(record["task"] for record in own))
    clean = [name for name in tasks if all(r["verdict"] == "win" for r in own if r["task"] == name)]
    verdicts = [record["verdict"] for record in own]
    return {
        "optimizer": label,
        "wins": verdicts.count("win"),
        "losses": verdicts.count("loss"),
        "undecided": verdicts.count("undecided"),
        "clean": f"{len(clean)} of {len(tasks)}" + (f": {', '.join(clean)}" if clean else ""),
    }


def _sentence(count: dict[str, Any]) -> str:
    return f"{count['optimizer']} beats every tuned baseline by final loss on {count['clean']} (tasks not trained on)."


def _alike(panels: dict[str, dict[str, Any]], labels: list[str]) -> dict[str, dict[str, Any]]:
    """Every label in every panel in one order, so that they share a legend; empty lines if an optimizer did not run."""
    some = next(iter(next(iter(panels.values())).values()))
    nothing = type(some)(*(part[:0] for part in some))
    return {name: {label: lines.get(label, nothing) for label in labels} for name, lines in panels.items()}


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    tasks = [loaded.trained_on() for loaded in _wanted(s).values() if loaded.metadata.get("name") not in _BALL]
    # An upper bound: stored settings are counted as if they had to be searched for.
    return Work(
        sum(
            comparison_queries(s.problems, s.seeds, s.budget, sum(name not in own for own in tasks), _TUNED, s.valid)
            for name in carried_to()
        )
    )


FULL = Settings()
EXPERIMENT = Experiment(
    "transfer",
    "Every shipped optimizer on every task that it was not trained on.",
    f"""The shipped learned optimizers (and those named by `--optimizers`) run as they are, with no setting \
changed, on every task that they were not trained on, beside ZO-SGD, ZO-signSGD, ZO-ADAM and SNES tuned on that \
very task's validation problems: the first {FULL.valid}, or stored settings. The first {FULL.problems} test \
problems of each task, {FULL.budget:,} queries each, seeds 0 to {FULL.seeds - 1}.

A win (a loss) is a paired difference of final loss whose 95 % interval over problems lies below (above) zero. \
Every task is reported but those that `black-boxes` and `ball-attacks` are about; one whose data are missing is \
named and counts neither way.""",
    FULL,
    Settings(problems=3, seeds=1, budget=210, valid=3),
    run,
    work,
)
