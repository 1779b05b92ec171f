"""Quality of gradient estimates: several estimators on the same trajectories, against the true gradient."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from zoracle.experiments.base import Experiment, Outcome
from zoracle.experiments.context import Context, Named, described
from zoracle.experiments.covariance_report import applies, covariances, windows
from zoracle.experiments.covariances import BANDS, PHASES
from zoracle.experiments.shadow import MEASURES, shadow_estimates
from zoracle.experiments.weights import PAPER, own_form, paper_weights, training_steps
from zoracle.experiments.work import Work
from zoracle.optimizers import make, with_directions, with_settings
from zoracle.reporting import BAND, Figure, Table, lines_figure, records_table
from zoracle.results import clustered, tuned
from zoracle.storage import optimizer_config
from zoracle.tasks import Task, task_config

_GROUP = 10  # problems stored together


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the experiment.

    Attributes:
        split: to take the first problems from.
        problems: number of problems.
        seeds: repeats.
        steps: T.
        num_directions: q of every estimator.
        task: a task of images whose objective is differentiable.
        parts: what to measure: "estimators" along trajectories of zo-lstm and ZO-SGD, "covariances" of zo-lstm.
    """

    split: str = "valid"
    problems: int = 40
    seeds: int = 1
    steps: int = 200
    num_directions: int = 20
    task: str = "mnist"
    parts: tuple[Literal["estimators", "covariances"], ...] = ("estimators", "covariances")


def estimators(context: Context, made: Task, q: int) -> Named:
    """The shadow estimators: QueryRNN, standard Gaussian, orthogonal, and Guided-ES in both scalings."""
    paper = with_settings(paper_weights(context, "weights", made), num_directions=q)
    guided = {s: with_settings(paper, query="guided-es", guided_scaling=s) for s in ("published", "balanced")}
    return [
        ("query-rnn", with_settings(paper, sampling_probability=1.0)),
        ("gaussian", make("zo-sgd", num_directions=q)),
        ("orthogonal", make("zo-sgd", num_directions=q, directions="orthogonal")),
        *((f"guided-es-{scaling}", optimizer) for scaling, optimizer in guided.items()),
    ]


def run(context: Context) -> Outcome:
    """Run the experiment."""
    s: Settings = context.settings
    made = context.task(s.task)
    ids = made.ids(s.split)[: s.problems]
    label, learned = own_form(context, made)
    own = with_directions(learned, s.num_directions)
    tables: list[Table] = []
    figures: list[Figure] = []
    curves: dict[str, Any] = {}
    findings: list[str] = []
    if "estimators" in s.parts:
        shadows = estimators(context, made, s.num_directions)
        for name, reference in ((label, own), ("zo-sgd", _descent(context, made, s))):
            # ZO-SGD's own estimate is the standard Gaussian one, so it is measured only once.
            others = shadows if name == label else [shadow for shadow in shadows if shadow[0] != "gaussian"]
            heading = name if name == label else "gaussian"
            found = _measured(context, made, ids, name, heading, reference, others)
            curves |= {f"{name}/{key}": tensor.numpy() for key, tensor in found.items()}
            table, figure, finding = _reported(context, made, ids, name, heading, found)
            tables.append(table)
            figures.append(figure)
            findings.append(finding)
    if "covariances" in s.parts and applies(own, made):
        more = covariances(context, made, ids, label, own, s.seeds, s.steps)
        tables += more[0]
        figures += more[1]
        curves |= more[2]
        findings += more[3]
    return Outcome(tables, figures, curves, findings)


def _reported(
    context: Context, made: Task, ids: tuple[int, ...], name: str, heading: str, found: dict[str, Tensor]
) -> tuple[Table, Figure, str]:
    """The table, the figure and the finding of estimators along one reference."""
    s: Settings = context.settings
    estimates = {key: values for key, values in found.items() if key.startswith("estimate/")}
    records = [_record(key, values, found["success"]) for key, values in estimates.items()]
    records.sort(key=lambda record: -record["cosine"])
    title = f"Along trajectories of {name}: {len(ids)} {s.split} problems of {made.name}, q = {s.num_directions}"
    figure = lines_figure(
        f"cosine-{name}",
        f"Cosine similarity to the true gradient, along {name}",
        f"{BAND} Means over a twentieth of the steps each.",
        {key.removeprefix("estimate/"): windows(values[0]) for key, values in estimates.items()},
        x="step", y="cosine",
    )  # fmt: skip
    mine = next(record for record in records if record["estimator"] == heading)
    finding = (
        f"Along {name}, the estimate of {heading} has a mean cosine of {mine['cosine']:.4f} over all "
        f"{s.steps} steps at q = {s.num_directions}."
    )
    return records_table(f"along {name}", title, _COLUMNS, records), figure, finding


def _measured(
    context: Context, made: Task, ids: tuple[int, ...], name: str, label: str, reference: Any, shadows: Named
) -> dict[str, Tensor]:
    """All measures along one reference, (3, S, P, T) per estimator; stored ten problems at a time."""
    s: Settings = context.settings
    tell = context.display.steps_of(f"along {name}")
    seeds: list[dict[str, Tensor]] = []
    groups = [ids[i : i + _GROUP] for i in range(0, len(ids), _GROUP)]
    total = s.seeds * len(groups) * s.steps
    for seed in range(s.seeds):
        parts = []
        for j, some in enumerate(groups):
            before = (seed * len(groups) + j) * s.steps

            def compute(some: tuple[int, ...] = some, seed: int = seed, before: int = before) -> dict[str, Tensor]:
                quality = shadow_estimates(
                    reference, shadows, made, some, label=label, seed=seed, steps=s.steps,
                    on_step=lambda done, _: tell(before + done, total),
                )  # fmt: skip
                tensors = {f"estimate/{key}": value.transpose(1, 2) for key, value in quality.measured.items()}
                points = torch.tensor(quality.points)
                return tensors | {"success": quality.success.T, "loss": quality.loss.T, "points": points}

            about = {
                **described(reference, some),
                "shadows": [[key, optimizer_config(optimizer)] for key, optimizer in shadows],
                "seed": seed, "steps": s.steps,
            }  # fmt: skip
            part = context.kept(f"along-{name}-{seed}-{j}", made, about, compute)
            parts.append(part)
            context.meter.add("optimise and monitor", int(part["points"]))
            context.meter.time(float(part["seconds"]), int(part["points"]))
        keys = [key for key in parts[0] if key not in ("seconds", "points")]
        seeds.append({key: torch.cat([part[key] for part in parts], dim=-2) for key in keys})
    return {key: torch.stack([one[key] for one in seeds], dim=-3) for key in seeds[0]}


def _descent(context: Context, made: Task, s: Settings) -> Any:
    """ZO-SGD with the step size stored for the task, otherwise 4 / d as in the public code."""
    record = tuned(task_config(made), "zo-sgd", s.steps, s.num_directions)
    lr = 4 / made.dim if record is None else record.chosen["lr"]
    context.note(f"zo-sgd: lr = {lr:.4g}, {'4 / d' if record is None else 'tuned on validation problems, stored'}")
    return make("zo-sgd", num_directions=s.num_directions, lr=lr)


_COLUMNS = [
    ("estimator", "estimator", ""),
    ("cosine, all steps", "cosine", ".4f"),
    ("before success", "cosine_before", ".4f"),
    ("after", "cosine_after", ".4f"),
    ("error", "error", ".4f"),
    ("before", "error_before", ".4f"),
    ("after", "error_after", ".4f"),
    ("variance", "variance", ".4f"),
    ("before", "variance_before", ".4f"),
    ("after", "variance_after", ".4f"),
]


def _record(key: str, values: Tensor, success: Tensor) -> dict[str, Any]:
    """Means over steps, a problem first, of all steps and of those before and after its first success."""
    record: dict[str, Any] = {"estimator": key.removeprefix("estimate/")}
    phases = {"": torch.ones_like(success), "_before": ~success, "_after": success}
    for measure, value in zip(MEASURES, values, strict=True):
        for phase, mask in phases.items():
            interval = clustered(value.masked_fill(~mask, torch.nan).nanmean(2))
            record[measure + phase] = interval.mean
            record |= {f"{measure}{phase}_low": interval.low, f"{measure}{phase}_high": interval.high}
    return record


def work(s: Settings) -> Work:
    """The amount of work of a form."""
    per_step = (1 + 2 * 5) * (s.num_directions + 1) + 1 + (1 + 2 * 4) * (s.num_directions + 1) + 1
    per_step += s.num_directions + 2  # covariances: the run, and a true gradient a step
    return Work(s.problems * s.seeds * s.steps * per_step, training_steps((PAPER,)))


FULL = Settings()
EXPERIMENT = Experiment(
    "gradient-quality",
    "Cosine, error and variance of gradient estimates along the same trajectories.",
    f"""At every iterate of a trajectory each estimator draws its q = {FULL.num_directions} directions twice, \
and the two estimates are compared with the true gradient (counted as monitoring, as all queries are that the \
trajectory does not need). Cosine: its mean. Error: after the best scaling of both draws by one number, squared, \
relative to the gradient. Variance: of the estimate, relative to its own mean square. "Before" are the steps \
that begin before any point of the problem has succeeded. All steps count, the last ones near a minimum too.

Trajectories: {FULL.steps} steps of zo-lstm, and of ZO-SGD, on the first {FULL.problems} validation images of \
the MNIST attack, seed 0. QueryRNN and Guided-ES keep states of their own along them, made of their own \
estimates and the steps that the trajectory took. zo-lstm is measured along its own trajectory only: its state \
holds steps in units of its own. QueryRNN has the weights given by `--optimizers`, or is trained in the run. \
Intervals are over images, each averaged over its steps first.

Covariances: along further trajectories of zo-lstm, with exact slopes, the directions that lie along no guess are \
drawn under each covariance that its weights allow, beside the same guesses. "learned" is what it uses, the sigma of \
each pixel and the learned spectrum of this run; "pixel" and "spectrum" are one of the two; "prior" is the spectrum \
as it is before the first estimate; "fixed" is 1 / (1 + cycles per image); "isotropic" is none. Bands are by the \
radius of a frequency in cycles per pixel: below {BANDS[0]}, below {BANDS[1]}, and above. Early, middle and late are \
the first {PHASES[0]:.0%} of the steps, those up to {PHASES[1]:.0%}, and the rest.""",
    FULL,
    Settings(problems=3, steps=10),
    run,
    work,
)
