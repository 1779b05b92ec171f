"""Tables, figures and findings of how far directional derivatives and queries agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoracle.estimators import default_mu
from zoracle.experiments.agreement import PRECISIONS, order, relative
from zoracle.experiments.agreement_settings import PAIRS, Agreement
from zoracle.experiments.weights import PAPER
from zoracle.reporting import BAND, Array, Cell, Figure, Line, Table, line, lines_figure, records_table

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


class Measured(NamedTuple):
    """Measurements of one task."""

    values: dict[str, dict[str, Tensor]]
    """By precision, what :func:`agreement.values` gives."""
    meta: dict[tuple[str, int, str], dict[str, Tensor]]
    """By case, first step and precision, what :func:`agreement.meta_gradients` gives; empty for MNIST."""
    seconds: Tensor
    """(2, R)."""


class Outcome(NamedTuple):
    """This part's contribution to the experiment."""

    tables: list[Table]
    figures: list[Figure]
    curves: dict[str, Array]
    findings: list[str]


def outcome(settings: Agreement, found: Mapping[str, Measured]) -> Outcome:
    """Tables, figures, curves and findings from what was measured of each task."""
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
            lines, x="smoothing radius", y="relative difference", log_x=True, log_y=True, markers=True,
        ),
        lines_figure(
            "agreement-meta",
            "Meta-gradients by queries against directional derivatives, float64",
            "Norm of the difference over the norm, neither with the graph through the values. Lines are means of the "
            "segments at the start and in the middle of an unroll, bands reach from one to the other.",
            {f"{name}, {case}": _meta_line(settings, one.meta, case) for name, one in found.items()
             for case in dict.fromkeys(label for label, *_ in one.meta)},
            x="smoothing radius", y="relative difference", log_x=True, log_y=True, markers=True,
        ),
    ]  # fmt: skip
    curves: dict[str, Array] = {}
    for name, one in found.items():
        for precision, tensors in one.values.items():
            curves |= {f"agreement/{name}/{precision}/{key}": t.numpy() for key, t in tensors.items()}
        for (case, first, precision), tensors in one.meta.items():
            place = f"agreement-meta/{name}/{case}/{first}/{precision}"
            curves |= {f"{place}/{key}": t.numpy() for key, t in tensors.items()}
    return Outcome(tables, figures, curves, _findings(slopes, graphs, seconds))


def _slope_records(s: Agreement, name: str, precision: str, found: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """One record per mu, over places, problems and directions."""
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
    """One record per case, place, precision and mu."""
    records = []
    for (case, first, precision), found in meta.items():
        mus = s.grid(precision)
        eps = torch.finfo(PRECISIONS[precision]).eps
        # In float32 the steps of a segment amplify rounding errors by an unknown factor.
        differences = found["without"][:, 1].tolist()
        power = order(mus, differences, [eps / mu for mu in mus]) if precision == "float64" else None
        for i, mu in enumerate(mus):
            record = {"task": name, "case": case, "first": first, "precision": precision, "mu": mu, "order": power}
            record["meta_loss_queries"] = float(found["meta_loss"][i])
            record["meta_loss_directional"] = float(found["meta_loss"][-1])
            for pair in PAIRS:
                cosine, difference, quotient = found[pair][i].tolist()
                slot = pair.replace(" ", "_")
                record |= {f"cosine_{slot}": cosine, f"difference_{slot}": difference, f"quotient_{slot}": quotient}
            records.append(record)
    return records


def _meta_table(s: Agreement, records: Sequence[Mapping[str, Any]]) -> Table:
    """One line per case, place and precision, one cell per mu; the records contain all numbers."""
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
    """Slopes near the default smoothing radius of float32, what the graph does, and how long a segment takes."""
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
