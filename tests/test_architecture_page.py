"""docs/architecture.md: its picture and table are those of the imports, and a point takes the way that it describes."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from scripts import architecture
from zoracle.cli.main import main

PAGE = architecture.PAGE.read_text(encoding="utf-8")


def test_picture_and_table_are_up_to_date() -> None:
    graph = architecture.import_graph()
    mend = "run python -m scripts.architecture"
    assert architecture.FIGURE.read_text(encoding="utf-8") == architecture.picture(graph), mend
    assert architecture.filled(PAGE, graph) == PAGE, mend
    assert f"{len(graph)} packages in {len(architecture.floors(graph))} layers" in PAGE


def test_every_package_is_described_in_a_line() -> None:
    graph = architecture.import_graph()
    assert not [room for room in graph if not 10 <= len(architecture.described(room)) <= 120]


def test_layers_and_lines_of_a_small_package(tmp_path: Path) -> None:
    house = tmp_path / "house"
    files = {
        "ground.py": '"""Ground."""\n',
        "wall/__init__.py": '"""Wall."""\nfrom house.ground import brick\n',
        "wall/door.py": "def f():\n    import house.ground\n",
        "roof.py": "import house.wall.door\nfrom house import ground\n",
        "__main__.py": "import house.roof\n",
    }
    for name, text in files.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text)
    graph = architecture.import_graph(house)
    assert graph == {"ground": set(), "wall": {"ground"}, "roof": {"wall", "ground"}}
    assert architecture.floors(graph) == [["ground"], ["wall"], ["roof"]]
    assert architecture.reduced(graph) == {"ground": set(), "wall": {"ground"}, "roof": {"wall"}}
    assert architecture.described("wall", house) == "Wall"
    with pytest.raises(ValueError, match="in a cycle among roof, wall"):
        architecture.floors({**graph, "wall": {"roof"}})


def test_no_box_of_the_picture_hides_another_or_a_line() -> None:
    graph = architecture.import_graph()
    boxes = re.findall(r'<rect x="(\d+)" y="(\d+)" width="96" height="34"', architecture.picture(graph))
    assert len(boxes) == len(graph)
    rows: dict[str, list[int]] = {}
    for x, y in boxes:
        rows.setdefault(y, []).append(int(x))
    for row in rows.values():
        row.sort()
        assert all(right - left >= 96 for left, right in pairwise(row)), row


def public_name(frame: FrameType) -> str | None:
    """The full name of a public function of zoracle that a frame runs; None of any other."""
    module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
    hidden = [part for part in name.split(".") if part.startswith(("_", "<")) and part != "__call__"]
    return None if hidden or not module.startswith("zoracle.") else f"{module}.{name}"


class Tracer:
    """The public calls that the first step's points pass through, on the way to the model and back."""

    def __init__(self) -> None:
        self.asked = ""
        self.told = ""
        self.down: list[str] = []

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "call" or self.told:
            return
        name = public_name(frame) or ""
        if name.endswith(".Optimizer.ask"):
            self.asked = name
        elif name.endswith(".BlackBox.__call__") and self.asked and not self.down:
            at: FrameType | None = frame
            while at is not None:
                self.down += [found for found in [public_name(at)] if found and ".cli.main." not in found]
                at = at.f_back
            self.down.reverse()
        elif name.endswith(".Optimizer.tell") and self.down:
            self.told = name


def test_a_point_takes_the_way_that_the_page_describes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = re.findall(r"^\d+\. `([\w.]+)`", PAGE, re.MULTILINE)
    tracer = Tracer()
    options = ["--task", "digits", "--optimizers", "zo-sgd", "--problems", "2", "--steps", "1"]
    sys.setprofile(tracer)
    try:
        code = main(["attack", *options, "--out", str(tmp_path / "run")])
    finally:
        sys.setprofile(None)
    assert code == 0, capsys.readouterr().err
    step = next(i for i, name in enumerate(tracer.down) if name.endswith(".take_step"))
    taken = [*tracer.down[: step + 1], tracer.asked, *tracer.down[step + 1 :], tracer.told]
    assert taken == told
    assert len(told) < 15
