"""Files and functions are short; what is longer is named here, with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "zoracle"
FILES = sorted(PACKAGE.rglob("*.py"))

#: A guide: lines of a file, and of a function without its docstring.
FILE, FUNCTION = 350, 70
#: What is longer, and why that is better than in pieces.
LONGER = {
    "api/minimizing.py:minimize": "its arguments take a third of it",
    "api/attacking.py:attack": "its arguments take a third of it",
    "optimizers/descent/zo_lbfgs.py:_set_out": "one sweep, set out in one place",
    "cli/options.py:run_options": "one decorator an option",
    "blackboxes/open_inference.py:__init__": "thirty settings, kept and checked",
}


def lengths(path: Path) -> Iterator[tuple[str, int, int]]:
    """A file and its functions, how long they are, and how long they should be at most."""
    text, name = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
    yield name, text.count("\n"), FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            described = (ast.get_docstring(node, clean=False) or "").count("\n") + 1
            lines = (node.end_lineno or 0) - node.lineno + 1 - (described if ast.get_docstring(node) else 0)
            yield f"{name}:{node.name}", lines, FUNCTION


def test_files_and_functions_are_short() -> None:
    long = {name: lines for path in FILES for name, lines, most in lengths(path) if lines > most}
    assert long.keys() <= LONGER.keys(), (
        f"longer than the guide: { ({n: long[n] for n in long.keys() - LONGER.keys()}) }"
    )
    assert long.keys() == LONGER.keys(), f"no longer long, and to be taken off the list: {LONGER.keys() - long.keys()}"
