"""The report of an attack in addition to its table: target, method and cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from zoracle.objectives.attack import Attack
from zoracle.results.result import Result

#: How many misclassified images are named; there is a file that names all.
NAMED = 60


class Again(Protocol):
    """Adversarial images that were queried once more."""

    @property
    def holds(self) -> Tensor:
        """(S, P) bool, those that succeeded again."""

    @property
    def queries(self) -> int:
        """Points evaluated."""

    @property
    def lost(self) -> int:
        """Points requested again because an interruption lost their answers."""


class AttackPage(NamedTuple):
    """The parts, as text."""

    facts: list[tuple[str, str]]
    """What was attacked and how: a word, and what it was."""
    counts: list[tuple[str, list[str]]]
    """An optimizer, and its numbers under :data:`COUNTS`."""
    target: list[tuple[str, str]]
    """What the target reports of itself: a word and a value."""
    misclassified: list[str]
    """Ids of the images that the target gets wrong as they are."""
    more: int
    """How many of those are not named."""
    pictures: int
    """Queries for the predictions that the report shows."""


#: The headings of ``AttackPage.counts``.
COUNTS = (
    "attacked", "broken", "broken when verified", "misclassified before", "queries", "monitoring", "interrupted",
)  # fmt: skip


def attack_page(
    objective: Attack,
    config: Mapping[str, Any],
    results: Mapping[str, Result],
    verified: Mapping[str, Again],
    *,
    pictures: int,
    target: Mapping[str, Any],
    begun: str | None = None,
) -> AttackPage:
    """Put together what a reader has to know of an attack.

    Args:
        objective: the attack.
        config: of the run.
        results: by label.
        verified: by label, what came of asking about adversarial images once more.
        pictures: queries for the predictions that the report shows.
        target: what the black box reports of itself.
        begun: when the run began, in words.
    """
    first, looked = next(iter(results.values())), bool(config.get("check_start"))
    wrong = first.ids[0][first.misclassified.any(0)].tolist()
    return AttackPage(
        facts=[*([("begun", begun)] if begun else []), *_facts(objective, config, first)],
        counts=[(label, _counts(result, verified.get(label), looked)) for label, result in results.items()],
        target=[(name, str(value)) for name, value in _leaves(target)],
        misclassified=[str(one) for one in wrong[:NAMED]],
        more=max(0, len(wrong) - NAMED),
        pictures=pictures,
    )


def _facts(objective: Attack, config: Mapping[str, Any], result: Result) -> list[tuple[str, str]]:
    task = config.get("task", {})
    name = task.get("target") or f"the classifier of {task.get('name', 'the task')}"
    if "network" in task:
        name += f", {task['network']}"
    if "target_file_sha256" in task:
        name += f" (SHA-256 of the file {task['target_file_sha256'][:16]}...)"
    shape = " x ".join(map(str, objective.shape))
    budget = config.get("budget")
    stop = "the first success" if config.get("stop_on_success") else "the end of the budget or steps"
    facts = [
        ("target", name),
        ("images", f"{result.ids.shape[1]:,} of {shape}, repeats: {result.ids.shape[0]:,}"),
        ("goal", objective.threat.sentence(objective.targets is not None)),
        ("budget", f"{budget or int(result.allowance.max()):,} queries per image{_shared(config)}"),
        ("stops at", stop),
    ]
    if config.get("check_start"):
        facts.append(("initial check", "each image was queried once; images already misclassified were not attacked"))
    return facts


def _shared(config: Mapping[str, Any]) -> str:
    """Whose the budget of an image is, where there are several attacks."""
    number = len(config.get("optimizers", ()))
    if number < 2:
        return ""
    return f", which {number} attacks share" if config.get("ensemble") else " and attack"


def _counts(result: Result, again: Again | None, looked: bool) -> list[str]:
    return [
        f"{int(result.attacked.sum()):,}",
        f"{int((result.attacked & result.success_ever).sum()):,}",
        "-" if again is None else f"{int(again.holds.sum()):,}",
        f"{int(result.misclassified.sum()):,}" if looked else "not checked",
        f"{int(result.spent.sum()):,}",
        f"{int(result.monitored.sum()):,}",
        f"{int(result.lost.sum()):,}",
    ]


def _leaves(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        words = f"{before}{name}".replace("_", " ")
        found += _leaves(value, f"{words}, ") if isinstance(value, Mapping) else [(words, value)]
    return found
