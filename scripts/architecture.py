"""The picture and the table of docs/architecture.md, made from the imports in src/zoracle.

    python -m scripts.architecture

writes docs/figures/architecture.svg and the table between the markers of docs/architecture.md. A package here is a
module or package at the first level of zoracle; its layer is one above the highest package that it imports.
"""

from __future__ import annotations

import ast
import re
import sys
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "zoracle"
PAGE = ROOT / "docs" / "architecture.md"
FIGURE = ROOT / "docs" / "figures" / "architecture.svg"

Graph = dict[str, set[str]]

#: The two sides; every other package belongs to both.
PROBLEM_WING = frozenset({"blackboxes", "images", "objectives", "tasks"})
SOLVER_WING = frozenset({"directions", "estimators", "optimizers"})

_TABLE = re.compile(r"(?<=<!-- packages:begin -->\n).*?(?=<!-- packages:end -->)", re.DOTALL)


def import_graph(package: Path = PACKAGE) -> Graph:
    """The first-level packages, and which others each imports, in functions or at the top."""
    graph: Graph = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).with_suffix("").parts[0]
        if room.startswith("__"):
            continue
        found = graph.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {name.split(".")[1] for name in names if name.startswith(f"{package.name}.")}
    return {room: (found & graph.keys()) - {room} for room, found in graph.items()}


def floors(graph: Graph) -> list[list[str]]:
    """The packages by layer, the lowest first.

    Raises:
        ValueError: packages import one another in a cycle.
    """
    found: list[list[str]] = []
    below: set[str] = set()
    while len(below) < len(graph):
        floor = sorted(room for room in graph.keys() - below if graph[room] <= below)
        if not floor:
            raise ValueError(f"imports in a cycle among {', '.join(sorted(graph.keys() - below))}")
        found.append(floor)
        below |= set(floor)
    return found


def reduced(graph: Graph) -> Graph:
    """The graph without the imports that a path over other packages implies (the transitive reduction)."""
    reach: Graph = {}
    for floor in floors(graph):
        for room in floor:
            reach[room] = graph[room].union(*(reach[other] for other in graph[room]))
    return {
        room: {other for other in needs if not any(other in reach[between] for between in needs)}
        for room, needs in graph.items()
    }


def described(room: str, package: Path = PACKAGE) -> str:
    """The first line of a package's docstring, without its full stop."""
    path = package / room / "__init__.py" if (package / room).is_dir() else package / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].replace("``", "`").removesuffix(".")


def table(graph: Graph) -> str:
    """The packages as Markdown, the top layer first."""
    lines = ["| layer | package | contents |", "| ---: | --- | --- |"]
    levels = floors(graph)
    for number in range(len(levels), 0, -1):
        lines += [f"| {number} | `{room}` | {described(room)} |" for room in levels[number - 1]]
    return "\n".join(lines) + "\n"


_WIDTH, _BAND, _BOX, _HEIGHT, _LEFT = 1120, 84, 96, 34, 70
_GAP = 16  # between boxes
_LANE = 14  # kept free for a line that passes a layer
_COLOURS = {"problem": "#dbe9f6", "solver": "#fde8d2", "both": "#f2f2f2"}
_ORDER = ("problem", "both", "solver")  # from left to right


def _wing(room: str) -> str:
    return "problem" if room in PROBLEM_WING else "solver" if room in SOLVER_WING else "both"


def _lines(graph: Graph) -> list[list[str]]:
    """The lines drawn, each the places that it passes: a package, a lane on each layer between, a package.

    The lowest layer is imported everywhere, so lines to it are omitted.
    """
    level = {room: number for number, floor in enumerate(floors(graph)) for room in floor}
    kept = reduced({room: {other for other in needs if level[other]} for room, needs in graph.items()})
    return [
        [room, *(f"{room}>{other}@{number}" for number in range(level[room] - 1, level[other], -1)), other]
        for room in sorted(kept)
        for other in sorted(kept[room])
    ]


def _places(graph: Graph, lines: list[list[str]]) -> dict[str, tuple[float, float]]:
    """The middle of each box and lane: the problem side to the left, the solver side to the right."""
    levels = [list(floor) for floor in floors(graph)]
    for line in lines:
        for place in line[1:-1]:
            levels[int(place.rpartition("@")[2])].append(place)
    beside: dict[str, list[str]] = {place: [] for floor in levels for place in floor}
    for line in lines:
        for upper, lower in pairwise(line):
            beside[upper].append(lower)
            beside[lower].append(upper)
    x = {place: 0.0 for floor in levels for place in floor}
    for floor in levels:
        _spread(sorted(floor, key=lambda place: (_ORDER.index(_wing(place)), place)), x)
    for sweep in range(24):  # each layer in the order of its neighbours, up and down in turn
        for floor in levels if sweep % 2 else reversed(levels):
            pull = {
                place: sum(x[other] for other in beside[place]) / len(beside[place]) if beside[place] else x[place]
                for place in floor
            }
            _spread(sorted(floor, key=lambda place: (_side(place), pull[place], place)), x)
    y = [24 + _BAND * (len(levels) - 1 - number) + _HEIGHT / 2 for number in range(len(levels))]
    return {place: (x[place], y[number]) for number, floor in enumerate(levels) for place in floor}


def _side(place: str) -> int:
    """Where a package must stand in its layer; a lane stands anywhere."""
    return {"problem": -1, "solver": 1}.get(_wing(place), 0)


def _spread(floor: list[str], x: dict[str, float]) -> None:
    """Put the places of a layer in this order, evenly spaced."""
    widths = [_LANE if ">" in place else _BOX + _GAP for place in floor]
    free = (_WIDTH - _LEFT - sum(widths)) / len(floor)
    left = float(_LEFT)
    for place, width in zip(floor, widths, strict=True):
        x[place] = left + (free + width) / 2
        left += free + width


def _path(line: list[str], places: dict[str, tuple[float, float]]) -> str:
    """A line as an SVG path: straight past the floors between, bent in the gaps."""
    x, y = places[line[0]]
    path = f"M{x:.0f} {y + _HEIGHT / 2:.0f}"
    for place in line[1:]:
        to_x, to_y = places[place]
        top, bottom = y + _HEIGHT / 2, to_y - _HEIGHT / 2
        path += f"C{x:.0f} {top + 28:.0f} {to_x:.0f} {bottom - 28:.0f} {to_x:.0f} {bottom:.0f}"
        path += "" if place == line[-1] else f"V{to_y + _HEIGHT / 2:.0f}"
        x, y = to_x, to_y
    return path


def picture(graph: Graph) -> str:
    """The figure as SVG: a box for each package, a line for each import that no other path implies."""
    levels, lines = floors(graph), _lines(graph)
    places = _places(graph, lines)
    height = 24 + _BAND * len(levels) + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="14">',
        f"<title>The {len(graph)} packages of zoracle in {len(levels)} layers; imports point down</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number in range(len(levels)):
        y = 24 + _BAND * (len(levels) - 1 - number) + _HEIGHT / 2
        out.append(f'<text x="12" y="{y + 5:g}" fill="#767676">layer {number + 1}</text>')
    out += [f'<path d="{_path(line, places)}" fill="none" stroke="#9a9a9a"/>' for line in lines]
    for room in sorted(graph):
        x, y = places[room]
        imports = ", ".join(sorted(graph[room])) or "nothing"
        out += [
            f"<g><title>{room}: {escape(described(room))}. It imports {imports}.</title>",
            f'<rect x="{x - _BOX / 2:.0f}" y="{y - _HEIGHT / 2:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="5" '
            f'fill="{_COLOURS[_wing(room)]}" stroke="#555555"/>',
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="#1a1a1a">{room}</text></g>',
        ]
    legend = (("problem", "problem side"), ("solver", "solver side"), ("both", "both"))
    for i, (wing, name) in enumerate(legend):
        x, y = _LEFT + 10 + 150 * i, height - 26
        out.append(f'<rect x="{x}" y="{y}" width="16" height="16" fill="{_COLOURS[wing]}" stroke="#555555"/>')
        out.append(f'<text x="{x + 24}" y="{y + 13}" fill="#1a1a1a">{name}</text>')
    x = _LEFT + 10 + 150 * len(legend)
    out.append(f'<text x="{x}" y="{height - 13}" fill="#767676">Lines to layer 1 are omitted.</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def filled(page: str, graph: Graph) -> str:
    """The page with its table, and the numbers of packages and layers, updated from the imports."""
    page = re.sub(r"\d+ packages in \d+ layers", f"{len(graph)} packages in {len(floors(graph))} layers", page)
    return _TABLE.sub(lambda _: table(graph), page)


def main() -> int:
    """Write the picture and the page."""
    graph = import_graph()
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_text(picture(graph), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), graph), encoding="utf-8")
    print(f"{len(graph)} packages in {len(floors(graph))} layers: {FIGURE.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
