"""Fine-tuning by forward passes of small transformers and a CNN, with tuned and untuned methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.context import Context
from zoracle.experiments.finetuning import memory, training
from zoracle.experiments.finetuning.tasks import TASKS, Sizes, pretrained, problem
from zoracle.experiments.finetuning.training import GRADIENTS, GRIDS, START, fine_tuned, searched
from zoracle.experiments.work import Work
from zoracle.finetune import METHODS, shipped_controller
from zoracle.reporting import Array, Line, Table, panels_figure, records_table
from zoracle.results import clustered
from zoracle.storage import file_hash

_PRETRAINED = {"causal": "causal", "lora": "causal", "encoder": "encoder"}
ROWS = (START, GRADIENTS, "mezo", "fzoo", "lozo", "hizoo", "learned")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        tasks: of TASKS.
        methods: of ROWS.
        seeds: repeats.
        forwards: evaluations of the loss in a run on a transformer.
        forwards_digits: in a run of the CNN.
        width: of the transformers.
        layers: of the transformers.
        pretraining: steps of their pretraining with gradients.
        pieces: of text in training; validation and testing use 15 % and 25 % of this number.
        fine: whether the search for step sizes has a second round.
        peaks: whether to measure peak memory, in a process for each task and method.
    """

    tasks: tuple[str, ...] = TASKS
    methods: tuple[str, ...] = ROWS
    seeds: int = 3
    forwards: int = 600
    forwards_digits: int = 2500
    width: int = 128
    layers: int = 4
    pretraining: int = 300
    pieces: int = 2000
    fine: bool = True
    peaks: bool = True

    @property
    def sizes(self) -> Sizes:
        """Of networks and data."""
        n = self.pieces
        return Sizes(self.width, self.layers, n, max(8, n * 15 // 100), max(8, n // 4), self.pretraining)

    def budget(self, name: str) -> int:
        """Evaluations of the loss in a run on a task."""
        return self.forwards_digits if name == "digits" else self.forwards


def checked(s: Settings) -> None:
    """Refuse unknown names.

    Raises:
        InputError: a task or a method is unknown.
    """
    for what, given, known in (("task", s.tasks, TASKS), ("method", s.methods, (*ROWS, *METHODS))):
        for name in given:
            if name not in known:
                raise InputError(f"{what} {name!r} is unknown; expected one of {', '.join(dict.fromkeys(known))}")


def weights_of(context: Context, name: str) -> dict[str, Tensor]:
    """The pretrained transformer of a task; empty if it has none."""
    s: Settings = context.settings
    if name not in _PRETRAINED:
        return {}
    kind = _PRETRAINED[name]
    about = {"width": s.width, "layers": s.layers, "steps": s.pretraining, "kind": kind}
    tell = context.display.steps_of(f"pretraining {kind}")
    kept = context.kept(f"{kind}-pretrained", None, about, lambda: pretrained(s.sizes, kind == "causal", 0, tell))
    return {key: value for key, value in kept.items() if key != "seconds"}


def measured(
    context: Context, name: str, weights: dict[str, Tensor], method: str, forwards: int, seed: int, lr: float | None
) -> training.Outcome:
    """One fine-tuning, read from the folder if it is stored there."""
    s: Settings = context.settings
    settings: dict[str, Any] = {} if lr is None else {"lr": lr}

    def compute() -> dict[str, Tensor]:
        made = problem(name, s.sizes, seed, weights)
        tell = context.display.steps_of(f"{name} {method}, seed {seed}" + ("" if lr is None else f", lr {lr:.2g}"))
        found = fine_tuned(made, method, forwards, seed, settings, tell)
        seconds = torch.tensor(found.seconds, dtype=torch.float64)
        return {
            "curve": found.curve,
            "forwards": found.forwards,
            "validated": found.validated,
            "steps_seconds": seconds,
        }

    about: dict[str, Any] = {"fine-tuned": name, "method": method, "forwards": forwards, "seed": seed, **settings}
    about["sizes"] = None if name == "digits" else [*s.sizes]
    if method == "learned":
        about["controller"] = file_hash(shipped_controller())
    size = "" if lr is None else f"-{lr:.3g}"
    key = f"{name}-{method.replace(', ', '-')}-{forwards}-{seed}{size}"
    kept = context.kept(key, None, about, compute)
    timed = float(kept["steps_seconds"]), float(kept["seconds"])
    found = training.Outcome(kept["curve"], kept["forwards"], kept["validated"], *timed)
    context.meter.add("fine-tuning", int(found.forwards[-1]))
    context.meter.time(found.seconds, int(found.forwards[-1]), pace=found.seconds > 0)
    return found


def peak_of(context: Context, name: str, method: str) -> float:
    """Peak memory of a method on a task, MiB, read from the folder if it is stored there."""
    s: Settings = context.settings
    about = {"peak memory": name, "method": method, "width": s.width, "layers": s.layers}
    key = f"peak-{name}-{method.replace(', ', '-')}"
    kept = context.kept(key, None, about, lambda: {"mib": torch.tensor(memory.peak(name, s.sizes, method))})
    return float(kept["mib"])


def row(context: Context, name: str, weights: dict[str, Tensor], method: str) -> tuple[dict[str, Any], Tensor, Tensor]:
    """A row of a task's table, and the curves: accuracies (S, PARTS + 1) at evaluations (PARTS + 1,)."""
    s: Settings = context.settings
    budget, lr, search = s.budget(name), None, 0.0
    if method in GRIDS:
        # With a seed that is not used in any row.
        found = searched(
            lambda lr, forwards: measured(context, name, weights, method, forwards, 1000, lr), method, budget, s.fine
        )
        lr, search = found.lr, found.forwards
    runs = [measured(context, name, weights, method, budget, seed, lr) for seed in range(s.seeds)]
    curves = torch.stack([run.curve for run in runs])
    record: dict[str, Any] = {"method": method, "lr": lr, "search": search, "forwards": float(runs[0].forwards[-1])}
    for key, at in (("half", training.PARTS // 2), ("accuracy", training.PARTS)):
        interval = clustered(curves[:, at : at + 1])
        record |= {key: interval.mean, f"{key}_low": interval.low, f"{key}_high": interval.high}
    record["worst"] = float(curves[:, -1].min())
    record["below_start"] = int((curves[:, -1] < curves[:, 0] - 0.02).sum())
    record["seconds"] = sum(run.seconds for run in runs) / len(runs)
    record["seconds_wall"] = sum(run.wall for run in runs) / len(runs)
    if s.peaks:
        record["peak"] = peak_of(context, name, method)
        record["peak_ratio"] = record["peak"] / peak_of(context, name, START)
    record["memory"] = METHODS[method].extra_memory if method in METHODS else "none"
    if method == GRADIENTS:
        record["memory"] = "3 numbers a weight that moves, and all activations"
    return record, curves, runs[0].forwards


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    checked(s)
    tables: list[Table] = []
    curves: dict[str, Array] = {}
    panels: dict[str, dict[str, Line]] = {}
    findings = []
    for name in s.tasks:
        weights = weights_of(context, name)
        records = []
        panels[name] = {}
        for method in s.methods:
            record, accuracies, spent = row(context, name, weights, method)
            records.append(record)
            curves[f"{name}/{method}/accuracy"], curves[f"{name}/{method}/forwards"] = accuracies.numpy(), spent.numpy()
            panels[name][method] = _line(accuracies, spent, s.budget(name))
        columns = [
            ("method", "method", ""), ("step size", "lr", ".2g"), ("forwards", "forwards", ",.0f"),
            ("forwards of the search", "search", ",.0f"), ("accuracy", "accuracy", ".1%"), ("at half", "half", ".1%"),
            ("worst seed", "worst", ".1%"), ("seeds below the start", "below_start", "d"),
            ("processor seconds", "seconds", ".1f"), ("wall seconds", "seconds_wall", ".1f"),
            ("peak memory, MiB", "peak", ".1f"), ("peak / inference's", "peak_ratio", ".2f"),
            ("memory besides the weights", "memory", ""),
        ]  # fmt: skip
        columns = [column for column in columns if s.peaks or not column[1].startswith("peak")]
        tables.append(records_table(name, f"{name}: {s.seeds} seeds, test data", columns, records))
        findings.append(_finding(name, records))
    speeds = [found for name in s.tasks if (found := speed(name, curves)) is not None]
    if speeds:
        headings = [
            ("task", "task", ""), ("accuracy of the start", "start", ".1%"), ("of mezo, tuned", "target", ".1%"),
            ("learned at half of the forwards, minus that", "half", "+.1%"), ("at the end, minus that", "end", "+.1%"),
            ("forwards to reach it / mezo's", "share", ".2f"), ("runs that reach it", "runs", "d"),
        ]  # fmt: skip
        tables.append(records_table("speed", f"learned against tuned mezo, {s.seeds} seeds", headings, speeds))
    figure = panels_figure(
        "curves", "Accuracy on the test data", "Mean over seeds and its 95 % interval; scored at the start and after "
        "each quarter of a run.", panels, x="evaluations of the loss", y="accuracy", log_y=False,
    )  # fmt: skip
    context.note("A step with gradients counts as three evaluations. Text differs a little from one Python to another.")
    return Outcome(tables, [figure], curves, [text for text in findings if text])


def reached(curve: Tensor, spent: Tensor, target: float) -> float:
    """Evaluations after which an accuracy is first reached, linear between two scores; infinite if it is not.

    Args:
        curve: accuracies of a run, (PARTS + 1,).
        spent: evaluations at each, (PARTS + 1,).
        target: the accuracy.
    """
    above = (curve >= target).nonzero().flatten()
    if not len(above):
        return math.inf
    k = int(above[0])
    if k == 0:
        return 0.0
    share = (target - float(curve[k - 1])) / float(curve[k] - curve[k - 1])
    return float(spent[k - 1] + share * (spent[k] - spent[k - 1]))


def speed(name: str, curves: Mapping[str, Array]) -> dict[str, Any] | None:
    """How soon the learned controller reaches tuned MeZO's accuracy; None where one of them is not measured.

    Seeds draw the same data and initial weights for both, so differences are by seed. A run that does not reach the
    accuracy counts with all its evaluations: the mean is then too low, and ``runs`` tells how many did. Where tuned
    MeZO does not end above the start, there is nothing to reach.
    """
    if not {f"{name}/mezo/accuracy", f"{name}/learned/accuracy"} <= set(curves):
        return None
    theirs, ours = (torch.as_tensor(curves[f"{name}/{method}/accuracy"]) for method in ("mezo", "learned"))
    spent = torch.as_tensor(curves[f"{name}/learned/forwards"])
    budget, target = float(curves[f"{name}/mezo/forwards"][-1]), float(theirs[:, -1].mean())
    found = torch.tensor([reached(curve, spent, target) for curve in ours], dtype=torch.float64)
    record: dict[str, Any] = {"task": name, "target": target, "start": float(ours[:, 0].mean())}
    intervals = {
        "half": ours[:, training.PARTS // 2] - theirs[:, -1],
        "end": ours[:, -1] - theirs[:, -1],
    }
    if target > record["start"]:
        record["runs"] = int(found.isfinite().sum())
        intervals["share"] = found.clamp(max=float(spent[-1])) / budget
    for key, values in intervals.items():
        interval = clustered(values.unsqueeze(1))
        record |= {key: interval.mean, f"{key}_low": interval.low, f"{key}_high": interval.high}
    return record


def _line(accuracies: Tensor, spent: Tensor, budget: int) -> Line:
    """Mean and interval over seeds; an untrained network is drawn as a constant."""
    x = spent if float(spent[-1]) else torch.linspace(0, budget, len(spent), dtype=torch.float64)
    bands = [clustered(accuracies[:, at : at + 1]) for at in range(accuracies.shape[1])]
    mean, low, high = (torch.tensor([band[i] for band in bands]).numpy() for i in range(3))
    return Line(x.numpy(), mean, low, high)


def _finding(name: str, records: list[dict[str, Any]]) -> str:
    """The learned controller against tuned MeZO, as in the table."""
    known = {record["method"]: record for record in records}
    if not {"mezo", "learned"} <= set(known):
        return ""
    ours, theirs = known["learned"], known["mezo"]
    return (
        f"{name}: learned, untuned, {ours['accuracy']:.1%} and {ours['half']:.1%} at half of its forwards; mezo, "
        f"tuned, {theirs['accuracy']:.1%}."
    )


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    checked(s)
    total = 0.0
    for name in s.tasks:
        for method in s.methods:
            if method != START:
                runs = s.seeds + (0 if method not in GRIDS else len(GRIDS[method]) / 4 + len(training.FINE) * s.fine)
                total += runs * s.budget(name)
    return Work(total)


FULL = Settings()
EXPERIMENT = Experiment(
    "finetune",
    "Fine-tuning by forward passes: small transformers and a CNN, tuned methods and the learned one, untuned.",
    f"""digits: a CNN of 1,898 weights from drawn ones, on the 8x8 digits that ship with the package, \
{FULL.forwards_digits:,} evaluations of the loss on batches of 64. The others begin with a transformer of 0.8 million \
weights over bytes, which the experiment pretrains with gradients, {FULL.pretraining} steps, on files of Python's \
standard library, and take {FULL.forwards:,} evaluations on batches of 16. causal: is a piece of 40 bytes prose \
(docstrings) or code, asked as a prompt behind it and answered by the next byte; all weights move. lora: the same with \
adapters of rank 4 beside the maps into attention, nothing else moves. encoder: which of three packages a piece is \
from, by a new linear head on a transformer that was pretrained to fill in hidden bytes.

Training, validation and test data are from different files (different images). Step sizes are chosen by the accuracy \
on validation data with a seed of their own: a grid by tens at a quarter of the evaluations, then its best one and \
three times more and less at all of them; where the best is at the edge, the grid is extended. \
The learned controller has no setting; it is given the number of steps. \
Forwards until it reaches mezo's mean accuracy are linear between two scores. \
fzoo and learned use their default number of directions, the others one. \
Seeds 0 to {FULL.seeds - 1} draw batches, directions, pieces of text and new weights; intervals are over seeds. \
Processor seconds are of the steps; wall seconds are of a run, scoring included. Peak memory is that of network, batch \
and three steps in a process of its own, without Python and torch; zero-shot is inference.""",
    FULL,
    Settings(
        tasks=("digits", "causal"), methods=(START, GRADIENTS, "mezo", "learned"), seeds=1, forwards=24,
        forwards_digits=48, width=32, layers=1, pretraining=5, pieces=64, fine=False, peaks=False,
    ),
    run,
    work,
)  # fmt: skip
