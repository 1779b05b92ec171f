"""Covariances of query directions: a run of measurements, its tables, and pictures of the spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from zoracle.experiments.context import Context, described
from zoracle.experiments.covariances import (
    BAND_NAMES,
    BANDS,
    PHASE_NAMES,
    PHASES,
    alignment,
    phases,
)
from zoracle.optimizers import GuidedLSTM, spectrum
from zoracle.reporting import BAND, Array, Figure, Table, line, lines_figure, records_table
from zoracle.results import clustered
from zoracle.tasks import Task

_GROUP = 10  # problems stored together
_KINDS = ("all", *BAND_NAMES)


def applies(optimizer: Any, made: Task) -> TypeGuard[GuidedLSTM]:
    """Whether there is a covariance to choose, and frequencies to tell apart."""
    first = tuple(made.ids("valid")[:1])
    space = made.objective(first).space(torch.arange(1), made.start(first, seed=0))
    return isinstance(optimizer, GuidedLSTM) and space is not None and spectrum.is_image(tuple(space.shape[0].tolist()))


def covariances(
    context: Context, made: Task, ids: tuple[int, ...], label: str, optimizer: GuidedLSTM, seeds: int, steps: int
) -> tuple[list[Table], list[Figure], dict[str, Array], list[str]]:
    """Tables, figures, curves and findings along the trajectories of one optimizer."""
    found = _measured(context, made, ids, label, optimizer, seeds, steps)
    cosine = {key.removeprefix("cosine/"): value for key, value in found.items() if key.startswith("cosine/")}
    spectra = {key.removeprefix("spectrum/"): value for key, value in found.items() if key.startswith("spectrum/")}
    part = phases(steps)
    records = [_record(name, value, part) for name, value in cosine.items()]
    title = f"Covariances along trajectories of {label}: {len(ids)} problems of {made.name}, exact slopes"
    table = records_table("covariances", f"{title}; cosine by part of the run and by band", _COLUMNS, records)
    energy = {
        "energy": "gradient",
        **{
            f"{phase}_{band}": clustered(found["energy"][b][..., part == p].mean(2)).mean
            for p, phase in enumerate(PHASE_NAMES)
            for b, band in enumerate(BAND_NAMES)
            if bool((part == p).any())
        },
    }
    shares = records_table(
        "energy by band", "Share of the gradient's energy in each band", _energy_columns(energy), [energy]
    )
    figures = [
        lines_figure(
            "cosine-covariances",
            f"Cosine to the true gradient by covariance, along {label}",
            f"{BAND} Means over a twentieth of the steps each; exact slopes, the same guesses for all.",
            {name: windows(value[0]) for name, value in cosine.items()},
            x="step", y="cosine",
        ),
        spectra_figure(spectra),
    ]  # fmt: skip
    best = max(records, key=lambda record: record["all"])
    findings = [
        f"Along {label}, with exact slopes, the covariance {best['covariance']!r} has the highest mean cosine, "
        f"{best['all']:.4f}; isotropic directions beside the same guesses have "
        f"{next(r['all'] for r in records if r['covariance'] == 'isotropic'):.4f}."
    ]
    return [table, shares], figures, {f"covariances/{key}": value.numpy() for key, value in found.items()}, findings


def _measured(
    context: Context, made: Task, ids: tuple[int, ...], label: str, optimizer: GuidedLSTM, seeds: int, steps: int
) -> dict[str, Tensor]:
    """Cosines (4, S, P, T) and energies (3, S, P, T), stored ten problems at a time, and spectra (phases, C, H, W)."""
    tell = context.display.steps_of(f"covariances along {label}")
    groups = [ids[i : i + _GROUP] for i in range(0, len(ids), _GROUP)]
    total = seeds * len(groups) * steps
    runs: list[dict[str, Tensor]] = []
    spectra: dict[str, Tensor] = {}
    for seed in range(seeds):
        parts = []
        for j, some in enumerate(groups):
            before = (seed * len(groups) + j) * steps

            def compute(some: tuple[int, ...] = some, seed: int = seed, before: int = before) -> dict[str, Tensor]:
                one = alignment(
                    optimizer, made, some, seed=seed, steps=steps, on_step=lambda done, _: tell(before + done, total)
                )
                return {
                    **{f"cosine/{name}": value for name, value in one.cosine.items()},
                    "energy": one.energy,
                    **{f"spectrum/{name}": value for name, value in one.spectra.items()},
                    "points": torch.tensor(one.points),
                }

            about = {**described(optimizer, some), "seed": seed, "steps": steps, "bands": BANDS, "phases": PHASES}
            part = context.kept(f"covariances-{seed}-{j}", made, about, compute)
            parts.append(part)
            context.meter.add("optimise and monitor", int(part["points"]))
            context.meter.time(float(part["seconds"]), int(part["points"]), pace=False)
            for key in (key for key in part if key.startswith("spectrum/")):
                weight = len(some) / (len(ids) * seeds)
                spectra[key] = spectra.get(key, torch.zeros_like(part[key])) + weight * part[key].square()
        keys = [key for key in parts[0] if key == "energy" or key.startswith("cosine/")]
        runs.append({key: torch.cat([part[key] for part in parts], dim=1) for key in keys})
    whole = {key: torch.stack([one[key] for one in runs], dim=1) for key in runs[0]}
    return whole | {key: value.sqrt() for key, value in spectra.items()}


_COLUMNS = [
    ("covariance", "covariance", ""),
    ("cosine, all steps", "all", ".4f"),
    *((f"{phase}", f"all_{phase}", ".4f") for phase in PHASE_NAMES),
    *((f"{band} band", band, ".4f") for band in BAND_NAMES),
    *((f"{band}, early", f"{band}_early", ".4f") for band in BAND_NAMES),
    *((f"{band}, late", f"{band}_late", ".4f") for band in BAND_NAMES),
]


def _energy_columns(record: Mapping[str, Any]) -> Sequence[tuple[str, str, str]]:
    return [
        ("of", "energy", ""),
        *((key.replace("_", ", "), key, ".1%") for key in record if key != "energy"),
    ]


def _record(name: str, values: Tensor, part: Tensor) -> dict[str, Any]:
    """Means of (4, S, P, T) over all steps and over each part of the run, with their intervals over problems."""
    record: dict[str, Any] = {"covariance": name}
    masks = {"": torch.ones_like(part, dtype=torch.bool)}
    masks |= {f"_{phase}": part == p for p, phase in enumerate(PHASE_NAMES)}
    for kind, value in zip(_KINDS, values, strict=True):
        for phase, mask in masks.items():
            interval = clustered(value[..., mask].mean(2) if bool(mask.any()) else value[..., :0].sum(2) * torch.nan)
            record[kind + phase] = interval.mean
            record |= {f"{kind}{phase}_low": interval.low, f"{kind}{phase}_high": interval.high}
    return record


def windows(values: Tensor) -> Any:
    """(S, P, T) as a line of means over twenty windows of steps."""
    t = values.shape[2]
    width = max(1, t // 20)
    whole = values[..., : t - t % width].reshape(*values.shape[:2], -1, width).nanmean(3)
    return line([width * (i + 0.5) for i in range(whole.shape[2])], whole)


def spectra_figure(spectra: Mapping[str, Tensor]) -> Figure:
    """Pictures of spectra over the spatial frequencies, of grey and of colour, one row each and a column a phase."""
    rows = [(name, channel) for name, value in spectra.items() for channel in range(min(2, value.shape[1]))]
    known = [p for p in range(len(PHASE_NAMES)) if all(bool(value[p].any()) for value in spectra.values())]

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(rows), len(known), squeeze=False, sharex=True, sharey=True)
        for line_of, (name, channel) in zip(grid, rows, strict=True):
            for axes, p in zip(line_of, known, strict=True):
                value = spectra[name][p]
                # The first component of the transform over channels is grey; the others are differences of colour.
                image = value[0] if channel == 0 else value[1:].square().mean(0).sqrt()
                shown = axes.imshow(
                    image.clamp(min=1e-2).log10().numpy(), origin="lower", extent=(0, 0.5, 0, 0.5),
                    vmin=-1, vmax=1, cmap="viridis", interpolation="nearest",
                )  # fmt: skip
                axes.grid(False)
                axes.tick_params(labelsize=7)
            colour = "" if spectra[name].shape[1] == 1 else (", grey" if channel == 0 else ", colour")
            line_of[0].set_ylabel(f"{name}{colour}", fontsize=8)
        for axes, p in zip(grid[0], known, strict=True):
            axes.set_title(PHASE_NAMES[p], fontsize=9)
        figure.colorbar(shown, ax=grid, label="log10 of the root mean square", shrink=0.5, aspect=40)
        figure.supxlabel("cycles per pixel across", fontsize=9)
        figure.supylabel("cycles per pixel down", fontsize=9)

    return Figure(
        "spectra",
        "Spectra of the directions and of the true gradient",
        "Root mean square of each spatial frequency of the directions that lie along no guess, and of the true "
        "gradient, as means over the problems, with a mean square of one. Low frequencies are at the lower left.",
        draw,
        (2.0 * len(known) + 1.6, 1.55 * len(rows) + 0.9),
    )
