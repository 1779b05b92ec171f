"""Tables on terminals of any width: whole numbers, and the best marked only where better means something."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from valleys import FakeTask, sgd
from zoracle.comparison.compare import compare
from zoracle.evaluation.spec import RunSpec
from zoracle.reporting.rows import Row
from zoracle.reporting.tables import COLUMNS, WORST_CASE, cells
from zoracle.reporting.terminal import rich_table

NUMBERS = {"queries_to_success_mean": 14203.7, "queries_to_success_median": 13999.5, "queries_per_problem": 104203.0}


@pytest.fixture(scope="module")
def row() -> Row:
    return compare(FakeTask(), [("a", sgd())], RunSpec(seeds=1)).rows[0]


def attack(row, label, **more):
    known = {"attacked": 20, "broken": 7, "left_out": 0, "clean_accuracy": 1.0, "robust_accuracy": 0.65}
    known |= {
        "robust_accuracy_low": 0.43,
        "robust_accuracy_high": 0.82,
        "stop_on_success": True,
        "success_ever": 0.35,
        "success_final": 0.35,
    }
    known |= {"l1": 3.0, "l2": 12.125, "linf": 0.031, "seconds": 12345.6, **NUMBERS}
    return row._replace(optimizer=label, **{**known, **more})


def printed(rows, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(rich_table(rows, "Attack on something with quite a long name", width))
    return console.file.getvalue()


LONG = "a-folder-with-a-name-that-is-rather-long:directions=orthogonal"


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("stopping", [True, False])
def test_no_number_is_cut_at_any_width(row, width, stopping):
    rows = [attack(row, label, stop_on_success=stopping) for label in ("zo-lstm", LONG)]
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    whole = {cell.text for line in cells(rows) for cell in line} | {f"{row.ratio_high - row.ratio:.4f}"}
    plain = re.sub(r"95\s+%", "", text)  # in a heading
    assert set(re.findall(r"(?<![\w.:=])[\d,]*\d[\d,]*(?:\.\d+)?%?(?!\w)", plain)) <= whole
    assert "65.0%" in text, "what matters most stays"
    left_out = "in table.md" in " ".join(text.split())
    assert left_out == (width < 100) or not stopping
    labels = "".join(line[: line.find("  ", 2)] for line in text.splitlines()).replace(" ", "")
    assert labels.count("zo-lstm") == 1


def test_a_wide_terminal_shows_every_column(row):
    text = printed([attack(row, "zo-lstm")], 200)
    for number in ("14203.7", "13999.5", "104,203", "12345.6", "20", "7"):
        assert number in text


def test_the_attack_that_moves_least_is_not_the_best_where_it_breaks_least(row):
    strong, weak = (
        attack(row, "strong"),
        attack(row, "weak", success_ever=0.1, success_final=0.1, broken=2, l2=0.5, robust_accuracy=0.9),
    )

    def marked(rows):
        return [[COLUMNS[j][1] for j, cell in enumerate(line) if cell.best] for line in cells(rows)]

    assert "l2" not in marked([strong, weak])[1], "within a ball a smaller distance is worth nothing"
    assert "robust_accuracy" in marked([strong, weak])[0]
    open_ = [one._replace(stop_on_success=False) for one in (strong, weak)]
    assert "l2" not in marked(open_)[1], "it moved less because it failed"
    nearer = open_[0]._replace(optimizer="nearer", l2=11.0)
    assert "l2" in marked([*open_, nearer])[2], "of those that succeed as often, the nearest"


def test_attacks_on_what_others_left_are_not_compared(row):
    rows = [attack(row, "one"), attack(row, "two", left_out=7, attacked=13, broken=1, queries_to_success_mean=9.0)]
    assert not any(cell.best for line in cells(rows) for cell in line)
    whole = [attack(row, "one"), attack(row, "two", broken=9, robust_accuracy=0.55)]
    whole.append(attack(row, "worst case", robust_accuracy=0.1, settings_from=WORST_CASE))
    assert not any(cell.best for cell in cells(whole)[2])
    assert any(cell.best for cell in cells(whole)[1])
