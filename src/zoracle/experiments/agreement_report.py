"""Tables and a figure of how far directional derivatives and queries agree in meta-training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
import torch
from torch import Tensor

from zoracle.comparison import load_named_optimizers, use_of
from zoracle.errors import InputError
from zoracle.estimators import default_mu
from zoracle.experiments import agreement
from zoracle.experiments.agreement import PRECISIONS, Case, order, relative
from zoracle.experiments.context import Context, described
from zoracle.experiments.weights import PAPER, paper_config
from zoracle.metatrain import TrainConfig
from zoracle.optimizers import Positive, make
from zoracle.reporting import BAND, Array, Cell, Figure, Line, Table, line, lines_figure, records_table
from zoracle.tasks import Task, available, task

_MNIST = "mnist"
_SMOOTH = "binary-classification"
_PLACES = 3
#: Optimizers whose meta-gradients are compared, and whether their weights are trained.
_Label = Literal["zo-lstm, first weights", "zo-lstm, trained", "zo-lstm-paper, first weights"]
CASES: tuple[_Label, ...] = get_args(_Label)
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Grid = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
_PAIRS = ("without", "with", "as trained")


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of this part of the experiment.

    Attributes:
        problems: first training problems of each task.
        mus: smoothing parameters in float64.
        mus_float32: likewise in float32; larger ones give what float64 gives.
        dim: d of the smooth problem.
        mnist: whether MNIST is measured too where its data are there.
        cases: optimizers whose meta-gradients are compared; trained weights on the attack only.
        middle: whether the segment in the middle of an unroll is measured too, not the first one only.
        repeats: segments of each kind that are timed.
    """

    problems: _Count = 10
    mus: _Grid = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    mus_float32: _Grid = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
    dim: _Count = 100
    mnist: bool = True
    cases: Annotated[tuple[_Label, ...], msgspec.Meta(min_length=1)] = CASES
    middle: bool = True
    repeats: _Count = 7

    def grid(self, precision: str) -> tuple[float, ...]:
        """Smoothing parameters of a precision."""
        return self.mus if precision == "float64" else self.mus_float32


class Found(NamedTuple):
    """What the part adds to the outcome."""

    tables: list[Table]
    figures: list[Figure]
    curves: dict[str, Array]
    findings: list[str]


class _Measured(NamedTuple):
    """Of one task."""

    values: dict[str, dict[str, Tensor]]
    """By precision, what :func:`agreement.values` gives."""
    meta: dict[tuple[str, int, str], dict[str, Tensor]]
    """By case, first step and precision, what :func:`agreement.meta_gradients` gives; empty for MNIST."""
    seconds: Tensor
    """(2, R)."""


def measured(context: Context, settings: Agreement, config: TrainConfig, trained_on: Task) -> Found:
    """Measure, or read what was measured, and write it down.

    Args:
        context: of the experiment.
        settings: of this part.
        config: of the trainings; its last stage is taken.
        trained_on: the task of the trainings.
    """
    tasks = [made for made in (trained_on, _mnist(context, settings)) if made]
    tasks.append(task(_SMOOTH, dim=settings.dim, batch_size=None))
    found = {made.name: _one(context, settings, config, made) for made in tasks}
    slopes = [
        record
        for name, one in found.items()
        for precision in PRECISIONS
        for record in _slope_records(settings, name, precision, one.values[precision])
    ]
    meta = [record for name, one in found.items() for record in _meta_records(settings, name, one.meta)]
    graphs = [record for record in meta if record["mu"] == min(settings.mus) and record["precision"] == "float64"]
    seconds = [_seconds_record(name, one.seconds) for name, one in found.items()]
    tables = [
        records_table("agreement", "Agreement: slopes by q queries against one gradient", _SLOPES, slopes),
        _meta_table(settings, meta),
        records_table("agreement-graph", "Agreement: what the graph through the values does", _GRAPH, graphs),
        records_table("agreement-seconds", "Agreement: seconds of a segment, float32", _SECONDS, seconds),
    ]
    lines = {
        f"{name}, {precision}": _line(settings.grid(precision), one.values[precision])
        for name, one in found.items()
        for precision in PRECISIONS
    }
    figures = [
        lines_figure(
            "agreement",
            "Slopes by q queries against one gradient",
            "Size of the difference over the root mean square of the slopes, mean over directions. "
            f"{BAND} The repeats are start, middle and end of a trajectory.",
            lines, x="smoothing parameter", y="relative difference", log_x=True, log_y=True, markers=True,
        ),
        lines_figure(
            "agreement-meta",
            "Meta-gradients by queries against directional derivatives, float64",
            "Norm of the difference over the norm, neither with the graph through the values. Lines are means of the "
            "segments at the start and in the middle of an unroll, bands reach from one to the other.",
            {f"{name}, {case}": _meta_line(settings, one.meta, case) for name, one in found.items()
             for case in dict.fromkeys(label for label, *_ in one.meta)},
            x="smoothing parameter", y="relative difference", log_x=True, log_y=True, markers=True,
        ),
    ]  # fmt: skip
    curves: dict[str, Array] = {}
    for name, one in found.items():
        for precision, tensors in one.values.items():
            curves |= {f"agreement/{name}/{precision}/{key}": t.numpy() for key, t in tensors.items()}
        for (case, first, precision), tensors in one.meta.items():
            place = f"agreement-meta/{name}/{case}/{first}/{precision}"
            curves |= {f"{place}/{key}": t.numpy() for key, t in tensors.items()}
    return Found(tables, figures, curves, _findings(slopes, graphs, seconds))


def points(settings: Agreement, config: TrainConfig, tasks: int) -> tuple[float, float]:
    """About how many points the slopes take, and how many steps of one problem the segments."""
    stage = config.stages[-1]
    q, grids = 20, len(settings.mus) + len(settings.mus_float32)
    slopes = tasks * settings.problems * (q + 1) * (stage.steps + _PLACES * grids)
    cases = 2 * len(settings.cases) - (CASES[1] in settings.cases)
    segments = cases * (1 + settings.middle) * (2 * grids + 4) + tasks * 2 * (settings.repeats + 1)
    return slopes, segments * stage.truncation * settings.problems


def _mnist(context: Context, settings: Agreement) -> Task | None:
    if not settings.mnist:
        return None
    try:
        if not available(_MNIST):
            raise InputError("no target network")  # asked first: the images alone would be downloaded
        made = task(_MNIST)
        made.ids("train")
    except InputError as error:
        context.note(f"mnist was left out of the agreement: {error}")
        return None
    return made


def _one(context: Context, s: Agreement, config: TrainConfig, made: Task) -> _Measured:
    """Everything of one task; each part is kept by itself."""
    ids = made.ids("train")[: s.problems]
    stage = config.stages[-1]
    trained = load_named_optimizers("zo-lstm", use_of(made))[0][1].optimizer
    tell = context.display.steps_of(f"agreement {made.name}")
    key = f"agreement-{made.name}"

    def slopes() -> dict[str, Tensor]:
        at, spent = agreement.places(trained, made, ids, stage.steps)
        tensors: dict[str, Tensor] = {}
        for precision, dtype in PRECISIONS.items():
            found, cost = agreement.values(made, ids, at, dtype, s.grid(precision))
            tensors |= {f"{precision}/{name}": tensor for name, tensor in found.items()}
            spent += cost
        return tensors | {"points": torch.tensor(spent)}

    about = {**described(trained, ids), "steps": stage.steps, "mus": [s.mus, s.mus_float32]}
    kept = context.kept(key, made, about, slopes)
    tell(1, 2)
    context.meter.time(float(kept["seconds"]), int(kept["points"]))
    spent = int(kept["points"])
    values = {p: {n: kept[f"{p}/{n}"] for n in ("queries", "directional", "loss")} for p in PRECISIONS}
    first = Case(CASES[0], make(config.optimizer, **config.settings), stage)
    meta: dict[tuple[str, int, str], dict[str, Tensor]] = {}
    wanted: list[tuple[Case, int]] = []
    if made.name != _MNIST:
        paper = paper_config(made, context.quick)
        # No weights that ship were trained on the smooth problem.
        cases = [first] if made.name == _SMOOTH else [first, Case(CASES[1], trained, stage)]
        cases.append(Case(CASES[2], make(paper.optimizer, **paper.settings), paper.stages[-1]))
        wanted = [(case, at) for case in cases if case.label in s.cases
                  for at in (0, case.stage.steps // 2)[: 1 + s.middle]]  # fmt: skip
        for done, (case, at) in enumerate(wanted):
            part = _segment(context, s, key, made, ids, case, at)
            tell(done + 2, len(wanted) + 2)
            spent += int(part["points"])
            for precision in PRECISIONS:
                names = ("meta_loss", *_PAIRS)
                meta[case.label, at, precision] = {n: part[f"{precision}/{n}"] for n in names}
    # Segments are not timed for the estimate of the full form: its pace is that of the trainings.
    clock = {**described(first.optimizer, ids), "repeats": s.repeats, "stage": msgspec.to_builtins(stage)}

    def time() -> dict[str, Tensor]:
        found, cost = agreement.timed(first, made, ids, s.repeats)
        return found | {"points": torch.tensor(cost)}

    kept = context.kept(f"{key}-seconds", made, clock, time)
    tell(len(wanted) + 2, len(wanted) + 2)
    context.meter.add("agreement", spent + int(kept["points"]))
    return _Measured(values, meta, kept["segments"])


def _segment(
    context: Context, s: Agreement, key: str, made: Task, ids: Sequence[int], case: Case, at: int
) -> dict[str, Tensor]:
    """Meta-gradients of one case at one place, in both precisions."""

    def compute() -> dict[str, Tensor]:
        begun = agreement.segment_at(case, made, ids, at)
        tensors: dict[str, Tensor] = {}
        spent = 0
        for precision, dtype in PRECISIONS.items():
            found, cost = agreement.meta_gradients(case, made, ids, begun, dtype, s.grid(precision))
            tensors |= {f"{precision}/{name}": tensor for name, tensor in found.items()}
            spent += cost
        return tensors | {"points": torch.tensor(spent)}

    about = {**described(case.optimizer, ids), "first": at, "mus": [s.mus, s.mus_float32]}
    about["stage"] = msgspec.to_builtins(case.stage)
    slot = case.label.replace(", ", "-").replace(" ", "-")
    return context.kept(f"{key}-{slot}-{at}", made, about, compute)


_SLOPES = [
    ("problems", "task", ""),
    ("precision", "precision", ""),
    ("mu", "mu", ".0e"),
    ("median", "median", ".1e"),
    ("95th percentile", "p95", ".1e"),
    ("mean", "mean", ".1e"),
    ("order of the mean", "order", ".2f"),
]
_GRAPH = [
    ("problems", "task", ""),
    ("optimizer", "case", ""),
    ("first step", "first", "d"),
    ("both without: cosine", "cosine_without", ".6f"),
    ("both with: cosine", "cosine_with", ".6f"),
    ("queries without, directional with: cosine", "cosine_as_trained", ".4f"),
    ("quotient of norms", "quotient_as_trained", ".3f"),
]
_SECONDS = [
    ("problems", "task", ""),
    ("queries", "seconds_queries", ".3f"),
    ("directional", "seconds_directional", ".3f"),
    ("quotient", "seconds_quotient", ".2f"),
]


def _slope_records(s: Agreement, name: str, precision: str, found: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """One record a mu: over places, problems and directions."""
    mus = s.grid(precision)
    apart = relative(found["queries"], found["directional"])
    size = found["directional"].square().mean(2).sqrt()
    eps = torch.finfo(PRECISIONS[precision]).eps
    floor = float((found["loss"].abs() / size).nanmean()) * eps
    each = apart.transpose(0, 1).flatten(1)
    means = each.nanmean(1).tolist()
    power = order(mus, means, [floor / mu for mu in mus]) if precision == "float64" else None
    return [
        {
            "task": name, "precision": precision, "mu": mu, "median": float(row.nanmedian()),
            "p95": float(row.nanquantile(0.95)), "mean": mean, "order": power,
        }
        for mu, row, mean in zip(mus, each, means, strict=True)
    ]  # fmt: skip


def _meta_records(s: Agreement, name: str, meta: Mapping[tuple[str, int, str], Any]) -> list[dict[str, Any]]:
    """One record a case, place, precision and mu."""
    records = []
    for (case, first, precision), found in meta.items():
        mus = s.grid(precision)
        eps = torch.finfo(PRECISIONS[precision]).eps
        # In float32 the steps of a segment multiply rounding by more than is known here.
        differences = found["without"][:, 1].tolist()
        power = order(mus, differences, [eps / mu for mu in mus]) if precision == "float64" else None
        for i, mu in enumerate(mus):
            record = {"task": name, "case": case, "first": first, "precision": precision, "mu": mu, "order": power}
            record["meta_loss_queries"] = float(found["meta_loss"][i])
            record["meta_loss_directional"] = float(found["meta_loss"][-1])
            for pair in _PAIRS:
                cosine, difference, quotient = found[pair][i].tolist()
                slot = pair.replace(" ", "_")
                record |= {f"cosine_{slot}": cosine, f"difference_{slot}": difference, f"quotient_{slot}": quotient}
            records.append(record)
    return records


def _meta_table(s: Agreement, records: Sequence[Mapping[str, Any]]) -> Table:
    """One line a case, place and precision, one cell a mu; all numbers are in the records."""
    mus = sorted({*s.mus, *s.mus_float32}, reverse=True)
    lines: dict[tuple[str, ...], dict[float, Mapping[str, Any]]] = {}
    for record in records:
        place = tuple(str(record[key]) for key in ("task", "case", "first", "precision"))
        lines.setdefault(place, {})[record["mu"]] = record
    texts = []
    for place, row in lines.items():
        last = next(iter(row.values()))
        cells = [
            f"{row[mu]['cosine_without']:.4f} / {row[mu]['difference_without']:.1e} / "
            f"{row[mu]['meta_loss_queries']:.4g}" if mu in row else "-"
            for mu in mus
        ]  # fmt: skip
        power = "-" if last["order"] is None else f"{last['order']:.2f}"
        texts.append([*place, f"{last['meta_loss_directional']:.4g}", *cells, power])
    return Table(
        "agreement-meta",
        "Agreement: meta-gradients of one segment; for each mu cosine / relative difference / meta-loss by queries",
        ["problems", "optimizer", "first step", "precision", "meta-loss, directional",
         *(f"mu = {mu:.0e}" for mu in mus), "order"],
        [[Cell(text) for text in line] for line in texts],
        [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in records],
    )  # fmt: skip


def _seconds_record(name: str, seconds: Tensor) -> dict[str, Any]:
    queries, directional = seconds.median(1).values.tolist()
    return {
        "task": name, "seconds_queries": queries, "seconds_directional": directional,
        "seconds_quotient": queries / directional,
    }  # fmt: skip


def _line(mus: Sequence[float], found: Mapping[str, Tensor]) -> Line:
    """The mean over directions, (L, B, M) with places as repeats."""
    return line(list(mus), relative(found["queries"], found["directional"]).nanmean(3).transpose(1, 2))


def _meta_line(s: Agreement, meta: Mapping[tuple[str, int, str], Any], case: str) -> Line:
    each = torch.stack([m["without"][:, 1] for (label, _, p), m in meta.items() if label == case and p == "float64"])
    low, high = each.min(0).values, each.max(0).values
    return Line(torch.tensor(s.mus).double().numpy(), each.mean(0).numpy(), low.numpy(), high.numpy())


def _findings(
    slopes: Sequence[Mapping[str, Any]], graphs: Sequence[Mapping[str, Any]], seconds: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Slopes near the default smoothing parameter of float32, what the graph does, and how long a segment takes."""
    near = default_mu(torch.float32)
    mus = [record["mu"] for record in slopes if record["precision"] == "float32"]
    mu = min(mus, key=lambda one: abs(torch.tensor(one / near).log().item()))
    found = [
        f"{record['task']}, float32, mu = {mu:.0e}: slopes by queries and by one gradient differ by "
        f"{record['median']:.1e} of their root mean square (median; 95th percentile {record['p95']:.1e})."
        for record in slopes
        if record["precision"] == "float32" and record["mu"] == mu
    ]
    same = min(min(record["cosine_without"], record["cosine_with"]) for record in graphs)
    found.append(
        f"Meta-gradients by queries (float64, mu = {graphs[0]['mu']:.0e}) and by directional derivatives have a cosine "
        f"of at least {same:.6f} where both have the graph through the values, or neither has it."
    )
    for kind in ("zo-lstm", PAPER):
        apart = [record["cosine_as_trained"] for record in graphs if record["case"].startswith(f"{kind},")]
        if apart:
            found.append(
                f"{kind}, as trainings have it, that is queries without the graph of its points and directional "
                f"derivatives with it: cosines from {min(apart):.4f} to {max(apart):.4f}."
            )
    found += [
        f"{record['task']}: a segment takes {record['seconds_quotient']:.2f} times as long by queries as by "
        f"directional derivatives ({record['seconds_queries']:.3f} s, {record['seconds_directional']:.3f} s)."
        for record in seconds
    ]
    return found
