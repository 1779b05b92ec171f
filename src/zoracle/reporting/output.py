"""The files that a comparison or an attack writes to its folder."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from zoracle.errors import InputError, MissingExtraError
from zoracle.objectives.attack import Attack, ImageAttack
from zoracle.objectives.base import Objective
from zoracle.objectives.reduced import Reduced
from zoracle.reporting.attack_page import Again, AttackPage, attack_page
from zoracle.reporting.gallery import Gallery, best_points, drawn, make_gallery
from zoracle.reporting.page import check_extra
from zoracle.reporting.report import write_report
from zoracle.reporting.rows import Row
from zoracle.reporting.tables import rows_table
from zoracle.results.result import Result
from zoracle.results.tuned import Tuned, write_tuned
from zoracle.storage.files import read_json, write_json, write_text
from zoracle.storage.fingerprint import config_hash
from zoracle.storage.runfolder import BEGUN, VERSIONS, RunFolder, write_npz
from zoracle.tasks.base import Task
from zoracle.types import StopReason


class RunResults(NamedTuple):
    """Results of optimizers, by label."""

    results: dict[str, Result]
    worst: dict[str, Result]
    """The worst case of several attacks, which makes no query of its own; empty if there is none."""
    verified: Mapping[str, Again] = {}
    """Result of querying adversarial images once more, if that was done."""

    @property
    def all(self) -> dict[str, Result]:
        """Both."""
        return {**self.results, **self.worst}

    @property
    def drawn(self) -> dict[str, Result]:
        """Whose images are shown: where some were left out by some attacks, those of the worst case."""
        every = all(bool((r.attacked | r.misclassified).all()) for r in self.results.values())
        return self.results if every or not self.worst else self.worst


def write_run(
    run: RunFolder,
    task: Task,
    objective: Objective,
    rows: Sequence[Row],
    found: RunResults,
    tuned_here: Sequence[Tuned],
    notes: list[str],
    title: str,
    *,
    attack: bool = False,
) -> dict[str, Path]:
    """Write table, curves, the count of all queries and the report into an open run folder.

    Without the extra for reports everything else is written, and a note says what is missing.

    Args:
        run: the folder.
        task: what the problems are of.
        objective: all its problems that were run.
        rows: of the table.
        found: the results.
        tuned_here: settings that were tuned in this run.
        notes: what a reader should know; more may be added.
        title: heading of the report.
        attack: write adversarial examples as well, and the report of an attack.

    Returns:
        The files by name: table, markdown, curves, queries, and where there are some tuned, report, and the
        adversarial examples of each label.
    """
    paths = {
        name: run.path / file
        for name, file in (
            ("table", "table.json"),
            ("markdown", "table.md"),
            ("curves", "curves.npz"),
            ("queries", "queries.json"),
        )
    }
    write_json(paths["table"], [row._asdict() for row in rows])
    write_text(paths["markdown"], rows_table("rows", title, rows).markdown())
    write_npz(paths["curves"], curve_arrays(found.all))
    if attack:
        names = file_names(list(found.all))
        for label, result in found.all.items():
            paths[f"adversarial {label}"] = run.path / f"adversarial-{names[label]}.npz"
            arrays = adversarial_arrays(task, objective, result)
            if label in found.verified:
                arrays["verified"] = found.verified[label].holds.numpy()
            write_npz(paths[f"adversarial {label}"], arrays)
    if tuned_here:
        paths["tuned"] = run.path / "tuned.json"
        write_tuned(paths["tuned"], tuned_here)
    gallery: Gallery | None = None
    draws = True
    try:
        check_extra()
    except MissingExtraError as error:
        notes.append(f"no report was written: {error}")
        draws = False
    else:
        gallery = _gallery(run, task, objective, found.drawn, attack)
    ledger = _ledger(found, tuned_here, gallery, objective)
    write_json(paths["queries"], ledger)
    if draws:
        paths["report"] = run.path / "report.html"
        page = _attack_page(run, objective, found, ledger) if attack else None
        write_report(
            paths["report"],
            title=title,
            rows=rows,
            results=found.all,
            drawn=list(found.drawn),
            config=run.config,
            versions=read_json(run.path / VERSIONS),
            gallery=gallery,
            notes=notes,
            attack=page,
        )
    return paths


def _attack_page(run: RunFolder, objective: Objective, found: RunResults, ledger: dict[str, Any]) -> AttackPage | None:
    """What the report of an attack has beside tables and curves; None where the objective is none."""
    attacked = _innermost(objective)
    if not isinstance(attacked, Attack):
        return None
    return attack_page(
        attacked,
        run.config,
        found.all,
        found.verified,
        pictures=ledger["pictures"],
        target=ledger.get("target", {}),
        begun=read_json(run.path / VERSIONS).get(BEGUN),
    )


def curve_arrays(results: dict[str, Result]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of ``curves.npz``: LABEL.losses and LABEL.queries (seed, problem, step), and LABEL.best.

    Step t is the iterate after t steps, from the starting point (t = 0) to the last iterate; queries are the points
    spent to reach it.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for label, result in results.items():
        arrays[f"{label}.losses"] = np.ascontiguousarray(result.losses.numpy())
        arrays[f"{label}.queries"] = np.ascontiguousarray(result.queries.numpy())
        arrays[f"{label}.best"] = np.ascontiguousarray(result.best.numpy())
    return arrays


def adversarial_arrays(task: Task, objective: Objective, result: Result) -> dict[str, npt.NDArray[Any]]:
    """The best adversarial image of each problem and seed, the best failed one where none succeeded.

    Returns:
        ids (P,), labels (P,), seeds (S,), images (P, C, H, W), adversarial (S, P, C, H, W), and (S, P) each: success,
        misclassified (the image itself is a success, found by the check of the start), queries, queries_to_success
        (-1 where none), reason (why it stopped, a word), l1, l2, linf (of ``adversarial``).

    Raises:
        InputError: the task is not an attack on images.
    """
    pictures = task.pictures(tuple(result.ids[0].tolist()))
    if pictures is None or not isinstance(objective, ImageAttack):
        raise InputError(f"task {task.name} is not an attack on images; use `zoracle compare`")
    # In the run's own precision: rounded, an image that barely succeeded might not.
    points = best_points(result)
    rows = torch.arange(result.ids.shape[1])
    images = torch.stack([objective.adversarial(found, rows) for found in points])
    distances = [objective.distances(found, rows) for found in points]
    arrays = {
        "ids": result.ids[0],
        "labels": pictures.labels,
        "seeds": result.seed[:, 0],
        "images": pictures.images,
        "adversarial": images,
        "success": result.success_ever,
        "misclassified": result.misclassified,
        "queries": result.spent,
        "queries_to_success": result.first_success,
        **{name: torch.stack([one[name] for one in distances]) for name in ("l1", "l2", "linf")},
    }
    bits = objective.threat.bits
    if bits is not None:  # the levels, so that what is saved is the picture that was queried
        kind = torch.uint8 if bits <= 8 else torch.int32
        for name in ("images", "adversarial"):
            arrays[name] = (arrays[name].double() * (2**bits - 1)).round().to(kind)
    words = np.array([reason.name.lower() for reason in StopReason])
    return {**{name: value.cpu().numpy() for name, value in arrays.items()}, "reason": words[result.reason.numpy()]}


def _innermost(objective: Objective) -> Objective:
    """The attack itself, where its points lie in a smaller space."""
    return objective.inner if isinstance(objective, Reduced) else objective


def file_name(label: str) -> str:
    """A label with only what a file's name may hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label)


def file_names(labels: Sequence[str]) -> dict[str, str]:
    """Labels as parts of files' names: one each, also where they differ in what a name cannot hold, or in case."""
    plain = {label: file_name(label) for label in labels}
    times = Counter(name.casefold() for name in plain.values())
    return {
        label: name
        if times[name.casefold()] == 1 and len(name) <= _LONGEST
        else f"{name[:_LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        for label, name in plain.items()
    }


#: Characters of a label that stand in a file's name; names have a longest length.
_LONGEST = 100


def _ledger(
    found: RunResults, records: Sequence[Tuned], gallery: Gallery | None, objective: Objective
) -> dict[str, Any]:
    """Every point evaluated for the numbers of this run, by purpose.

    Under "interrupted" are those that were requested again, because a process was killed or a call did not return:
    the target may have seen them, and they are in no other count. Under "target" is what the black box reports itself,
    attempts over a network and what of them is billed.
    """
    attacked, results = _innermost(objective), found.results
    target = attacked.black_box.report() if isinstance(attacked, Attack) else {}
    return {
        "optimise": {label: int(result.spent.sum()) for label, result in results.items()},
        "monitor": {label: int(result.monitored.sum()) for label, result in results.items()},
        "tuning": {record.optimizer: record.queries for record in records},
        "pictures": 0 if gallery is None else gallery.queries,
        **({"verify": {label: one.queries for label, one in found.verified.items()}} if found.verified else {}),
        "interrupted": {
            **{label: int(result.lost.sum()) for label, result in results.items()},
            **({"verify": sum(one.lost for one in found.verified.values())} if found.verified else {}),
            **({"tuning": sum(record.interrupted for record in records)} if records else {}),
            "pictures": 0 if gallery is None else gallery.lost,
        },
        **({"target": target} if target else {}),
    }


def _gallery(
    run: RunFolder, task: Task, objective: Objective, results: dict[str, Result], attack: bool
) -> Gallery | None:
    first = next(iter(results.values()))
    rows = drawn(first, attack)
    pictures = task.pictures(tuple(first.ids[0, rows].tolist()))
    if pictures is None or not isinstance(objective, ImageAttack):
        return None
    fingerprint = {"config_sha256": config_hash(run.config), "rows": rows.tolist()}
    keep = run.pieces / "pictures.safetensors"
    return make_gallery(objective, pictures, results, rows, best=attack, keep=keep, fingerprint=fingerprint)
