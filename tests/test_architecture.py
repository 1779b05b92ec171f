"""Imports point down, never up, and never between the problem side and the solver side."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "zoracle"

#: The modules and packages of the house, from the ground up. One may import from the rows below its own.
ROWS: tuple[frozenset[str], ...] = (
    frozenset({"types", "errors"}),
    frozenset({"settings"}),
    frozenset({"keyed", "state", "storage", "calling", "upsampling", "images", "estimators", "group"}),
    frozenset({"directions", "blackboxes", "results"}),
    frozenset({"objectives", "optimizers"}),
    frozenset({"tasks", "rollout"}),
    frozenset({"testing", "evaluation", "metatrain", "reporting", "finetune"}),
    frozenset({"comparison", "api"}),
    frozenset({"experiments", "interop"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
PROBLEM_WING = {"blackboxes", "images", "objectives", "tasks"}
SOLVER_WING = {"directions", "estimators", "optimizers"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """The module or package at the top level that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The other first-level packages that a file imports, anywhere in it."""
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
def test_problems_and_solvers_do_not_import_each_other(path: Path) -> None:
    other = {**dict.fromkeys(PROBLEM_WING, SOLVER_WING), **dict.fromkeys(SOLVER_WING, PROBLEM_WING)}
    wrong = sorted(imported(path) & other.get(room(path), set()))
    assert not wrong, f"zoracle.{room(path)} must not import {', '.join(wrong)}"


#: What reaches a black box: methods of objectives, and black boxes themselves.
REACHES = {"evaluate", "gradient", "predict", "black_box", "_evaluate", "_gradient", "_log_probabilities"}
#: Objectives are made of one another, and of black boxes; a foreign library's model is what a black box calls.
INSIDE = {"objectives", "blackboxes"}
#: The batteries look at an objective by itself, outside any run: what it answers is what they test.
BATTERIES = {"testing/objectives.py", "testing/problems.py"}  # the latter are objectives
FOREIGN = {("interop/art.py", "self.estimator.predict")}


def reaching(tree: ast.AST) -> Iterator[str]:
    """Calls that reach a black box otherwise than by an oracle, as source."""
    oracles = {
        call
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("Oracle" in ast.unparse(base) for base in node.bases)
        for call in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REACHES):
            continue
        receiver = ast.unparse(node.func.value)
        by_oracle = receiver.rpartition(".")[2].endswith("oracle")
        if not by_oracle and not (node in oracles and receiver in ("self", "super()")):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_oracle_reaches_a_black_box(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    if room(path) in INSIDE or name in BATTERIES:
        return
    found = [call for call in reaching(ast.parse(path.read_text(encoding="utf-8"))) if (name, call) not in FOREIGN]
    if name == "rollout/oracle.py":
        expected = {"self.objective.evaluate", "self.objective.gradient", "objective.predict"}
        assert set(found) == expected
    else:
        assert not found, f"{name} calls {', '.join(found)}; ask the oracle"


def test_the_law_of_the_oracle_notices_who_breaks_it() -> None:
    broken = "objective.predict(x, rows)\nattack.black_box(x)\noracle.objective.evaluate(x, rows)\nf.gradient(x)"
    assert len(list(reaching(ast.parse(broken)))) == 4
    kept = "oracle.evaluate(x, rows)\nself.oracle.gradient(x, rows)\nevaluate(optimizer, task)"
    assert not list(reaching(ast.parse(kept)))


def module(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(("zoracle", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def modules_imported(path: Path, known: set[str]) -> set[str]:
    """The known modules that a file imports when it is read; what functions import comes later."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in names}
        elif isinstance(node, ast.Try | ast.With):
            waiting += node.body
        elif isinstance(node, ast.If):
            waiting += node.body + node.orelse  # what only type checkers read is in the order as well
    return found & known


def in_circle(graph: dict[str, set[str]]) -> set[str]:
    """The modules that cannot be put in an order of imports."""
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    return graph.keys() - done


def test_no_file_imports_in_a_circle() -> None:
    # Of the package itself others take the version, which is there before it imports anything.
    known = {module(path) for path in MODULES}
    circle = in_circle({module(path): modules_imported(path, known) for path in MODULES})
    assert not circle, f"imports in a circle among {', '.join(sorted(circle))}"
    assert in_circle({"a": {"b"}, "b": {"a"}, "c": set()}) == {"a", "b"}


def test_every_place_is_taken() -> None:
    there = {room(path) for path in MODULES}
    assert there == frozenset().union(*ROWS)


def listed(path: Path) -> set[str]:
    """What ``__all__`` of a file lists; nothing where it has none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def not_public(tree: ast.AST) -> Iterator[str]:
    """Names imported from other packages that these do not list."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("zoracle."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("zoracle."):
            home = PACKAGE / node.module.split(".")[1]
            if home.name == "experiments":
                continue
            offered = listed(home / "__init__.py" if home.is_dir() else home.with_suffix(".py"))
            whole = node.module.count(".") == 1
            yield from (f"{node.module}.{a.name}" for a in node.names if not whole or a.name not in offered)


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) == "experiments"], ids=lambda path: path.stem)
def test_experiments_stand_on_public_names(path: Path) -> None:
    wrong = sorted(not_public(ast.parse(path.read_text(encoding="utf-8"))))
    assert not wrong, (
        f"{path.name} imports {', '.join(wrong)}; import it from its package (from zoracle.evaluation import RunSpec), "
        "and where it is not in the package's __all__, list it there"
    )


def test_the_law_of_public_names_notices_who_breaks_it() -> None:
    broken = "from zoracle.tasks.base import Task\nfrom zoracle.tasks import _TASKS\nimport zoracle.rollout.loop"
    assert len(list(not_public(ast.parse(broken)))) == 3
    assert not list(not_public(ast.parse("from zoracle import __version__\nfrom zoracle.tasks import Task")))


TESTS = sorted(Path(__file__).parent.rglob("*.py"))
#: What named tuples offer, the hard end of a process, and an attribute of a classifier of another library.
NOT_OURS = {"_fields", "_replace", "_asdict", "_make", "_exit", "_predict_fn"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NOT_OURS


def private_names(tree: ast.AST) -> Iterator[str]:
    """Private names that a test uses of what is not its own: of itself and of its base class it may."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zoracle"):
            yield from (alias.name for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Attribute) and private(node.attr):
            if ast.unparse(node.value) not in ("self", "super()"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "getattr", "delattr")):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            if ast.unparse(node.args[0]) != "self":
                yield from (name for name in names if any(private(part) for part in name.split(".")))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_tests_use_no_private_names(path: Path) -> None:
    found = sorted(set(private_names(ast.parse(path.read_text(encoding="utf-8")))))
    assert not found, f"{path.name} uses {', '.join(found)}"


def test_the_law_of_private_names_notices_who_breaks_it() -> None:
    broken = "from zoracle.keyed import _mix\nkeyed._mix(1)\nf(x)._seen\npatch.setattr('zoracle.cli.main._say', 3)"
    assert len(list(private_names(ast.parse(broken)))) == 4
    kept = "state._replace(x=1)\nsuper()._evaluate(x)\nself._seen = 3\nos._exit(1)\nsetattr(self, '_seen', 1)"
    assert not list(private_names(ast.parse(kept)))
