"""Imports point down, never up, and never sideways between the two wings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "zoracle"

#: The modules and packages of the house, from the ground up. One may import from the rows below its own.
ROWS: tuple[frozenset[str], ...] = (
    frozenset({"types", "errors"}),
    frozenset({"keyed", "state", "storage", "frameworks", "calling", "upsampling", "images", "estimators"}),
    frozenset({"directions", "blackboxes", "results"}),
    frozenset({"objectives", "optimizers"}),
    frozenset({"tasks", "rollout", "inputs"}),
    frozenset({"solutions", "evaluation", "metatrain", "reporting", "finetune"}),
    frozenset({"comparison", "api"}),
    frozenset({"experiments", "interop"}),
    frozenset({"cli"}),
)
PROBLEM_WING = {"blackboxes", "images", "objectives", "tasks"}
SOLVER_WING = {"directions", "estimators", "optimizers"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """The module or package at the top level that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The other rooms that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; write it in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("zoracle.")}
    return found - {room(path), "__version__"}


def row(name: str) -> int:
    for number, names in enumerate(ROWS):
        if name in names:
            return number
    raise AssertionError(f"zoracle.{name} has no place in the house; give it one in ROWS")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    own = row(room(path))
    wrong = sorted(name for name in imported(path) if row(name) >= own)
    assert not wrong, f"zoracle.{room(path)} must not import {', '.join(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_wings_do_not_know_each_other(path: Path) -> None:
    other = {**dict.fromkeys(PROBLEM_WING, SOLVER_WING), **dict.fromkeys(SOLVER_WING, PROBLEM_WING)}
    wrong = sorted(imported(path) & other.get(room(path), set()))
    assert not wrong, f"zoracle.{room(path)} must not import {', '.join(wrong)}"


def test_only_the_oracle_calls_objectives() -> None:
    calls = re.compile(r"\bobjective\.(evaluate|gradient)\(")
    callers = {room(path) for path in MODULES if calls.search(path.read_text(encoding="utf-8"))}
    assert callers == {"rollout"}


def test_every_place_is_taken() -> None:
    there = {room(path) for path in MODULES}
    assert there == frozenset().union(*ROWS)
