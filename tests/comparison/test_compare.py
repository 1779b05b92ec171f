"""Comparisons: what the folder holds, that nothing is uncounted, and that it resumes."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console

from valleys import FakeTask, M, sgd
from zoracle.comparison import entries as module
from zoracle.comparison.compare import Output, compare
from zoracle.comparison.tune import tune
from zoracle.errors import InputError, NonFiniteWarning
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.registry import make
from zoracle.storage.runfolder import open_run, write_npz

KEYS = [
    *("optimizer", "problems", "seeds", "queries_per_problem", "final_loss", "final_loss_low", "final_loss_high"),
    *("ratio", "ratio_low", "ratio_high", "best_ratio", "success_final", "success_ever"),
    *("queries_to_success_mean", "queries_to_success_median", "l1", "l2", "linf", "seconds"),
]

TWO = (("fast", sgd(lr=0.4)), ("slow", sgd(lr=0.01)))


def read(path):
    return json.loads(path.read_text())


def without_seconds(path):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read(path)]


def test_the_folder(tmp_path):
    task = FakeTask(succeeds={20: 7})
    told = []
    found = compare(task, TWO[::-1], RunSpec(seeds=2), on_progress=lambda *x: told.append(x), out=tmp_path / "run")
    rows = read(found.paths["table"])
    assert [list(row)[: len(KEYS)] for row in rows] == [KEYS, KEYS]
    assert [row["optimizer"] for row in rows] == ["fast", "slow"], "the lowest ratio first, whatever the order given"
    assert rows[0]["ratio"] < rows[1]["ratio"]
    assert rows[0]["versus_first"] is None
    assert rows[1]["versus_first"]["ratio"]["low"] > 0
    assert (rows[0]["problems"], rows[0]["seeds"], rows[0]["steps"]) == (3, 2, 4)
    assert rows[0]["settings"]["lr"] == 0.4
    assert rows[0]["l1"] is None
    with np.load(found.paths["curves"], allow_pickle=False) as curves:
        assert set(curves) == {
            f"{label}.{what}" for label in ("fast", "slow") for what in ("losses", "queries", "best")
        }
        assert curves["fast.losses"].shape == curves["fast.queries"].shape == (2, 3, 5)
        assert curves["fast.queries"][1, 2].tolist() == [0, M, 2 * M, 3 * M, 4 * M]
        ratio = (curves["slow.losses"][..., -1] / curves["slow.losses"][..., 0]).mean()
    assert rows[1]["ratio"] == pytest.approx(ratio)
    config = read(tmp_path / "run" / "config.json")
    assert config["ids"] == [20, 21, 22]
    assert config["seeds"] == [0, 1]
    assert set(read(tmp_path / "run" / "versions.json")) >= {"zoracle", "python", "torch", "numpy", "platform"}
    assert "| fast | **" in found.paths["markdown"].read_text()
    assert told[-1] == ("fast", 24, 24)
    assert str(tmp_path) not in "".join(p.read_text() for p in found.paths.values() if p.suffix != ".npz")


def test_every_point_is_in_the_ledger(tmp_path):
    task = FakeTask(dim=10)
    found = compare(
        task,
        [("plain", make("zo-signsgd", num_directions=4)), ("central", sgd(difference="central")), ("given", sgd())],
        RunSpec(seeds=2, steps=3),
        tuning="fresh",
        out=tmp_path,
    )
    ledger = read(found.paths["queries"])
    assert sum(sum(part.values()) for part in list(ledger.values())[:3]) + ledger["pictures"] == task.seen
    assert ledger["optimise"] == {"plain": 2 * 3 * 3 * 5, "central": 2 * 3 * 3 * 8, "given": 2 * 3 * 3 * 5}
    assert ledger["monitor"] == {"plain": 6, "central": 12, "given": 6}
    assert set(ledger["tuning"]) == {"zo-signsgd"}
    assert read(found.paths["tuned"])["tuned settings"][0]["split"] == "valid"
    source = {row.optimizer: row.settings_from for row in found.rows}
    assert source == {"plain": "tuned in this run", "central": "given", "given": "given"}


def test_an_interrupted_comparison_resumes_and_ends_the_same(tmp_path):
    whole = FakeTask()
    expected = compare(whole, TWO, RunSpec(seeds=2, steps=4), out=tmp_path / "whole")
    task = FakeTask()
    task.raise_at = 18  # five calls per seed: the third step of the second optimizer's second seed
    with pytest.raises(KeyboardInterrupt):
        compare(task, TWO, RunSpec(seeds=2, steps=4), out=tmp_path / "cut")
    assert not (tmp_path / "cut" / "table.json").exists()
    task.raise_at = -1
    before = task.seen
    found = compare(task, TWO, RunSpec(seeds=2, steps=4), out=tmp_path / "cut")
    assert task.seen - before == 3 * (2 * M + 1), "what was answered is not asked again"
    assert without_seconds(found.paths["table"]) == without_seconds(expected.paths["table"])
    assert found.paths["curves"].read_bytes() == expected.paths["curves"].read_bytes()
    before = task.seen
    table = found.paths["table"].read_bytes()
    compare(task, TWO, RunSpec(seeds=2, steps=4), out=tmp_path / "cut")
    assert task.seen == before
    assert found.paths["table"].read_bytes() == table


def test_another_config_is_refused_in_one_line(tmp_path):
    task = FakeTask()
    compare(task, TWO, RunSpec(seeds=1), out=tmp_path)
    before = task.seen
    with pytest.raises(InputError, match=r"another config \(seeds: \[0\] there, \[0, 1\] asked\)") as error:
        compare(task, TWO, RunSpec(seeds=2), out=tmp_path)
    assert "\n" not in str(error.value)
    assert task.seen == before


def test_a_run_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    task = FakeTask()
    compare(task, TWO, RunSpec(seeds=1), out=tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["format"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"another version of zoracle \(format 1; .*; choose") as error:
        compare(task, TWO, RunSpec(seeds=1), out=tmp_path)
    assert "\n" not in str(error.value)


def test_folders_that_cannot_be_used(tmp_path):
    task = FakeTask()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write into"):
        compare(task, TWO, out=tmp_path / "file" / "run")
    with pytest.raises(InputError, match=r"not empty and contains no config.json"):
        compare(task, TWO, out=tmp_path)
    assert task.seen == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ids": (99,)}, "no problem 99"),
        ({"ids": ()}, "ids is empty"),
        ({"seeds": 0}, "seeds is 0"),
        ({"split": "dev"}, "split 'dev'"),
        ({"budget": 3}, "budget is 3"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
)
def test_bad_input_leaves_no_folder(tmp_path, settings, message):
    task = FakeTask()
    with pytest.raises(InputError, match=message):
        compare(task, TWO, RunSpec(**settings), out=tmp_path / "run")
    with pytest.raises(InputError, match="two optimizers have the label 'a'"):
        compare(task, [("a", sgd()), ("a", sgd())], out=tmp_path / "run")
    with pytest.raises(InputError, match="tuning is 'perhaps'"):
        compare(task, TWO, tuning="perhaps", out=tmp_path / "run")
    with pytest.raises(InputError, match="no optimizers"):
        compare(task, [], out=tmp_path / "run")
    assert task.seen == 0
    assert not (tmp_path / "run").exists()


def test_stored_settings_are_used_and_told(monkeypatch):
    task = FakeTask(dim=10)
    record = tune(task, "zo-sgd", RunSpec(split="valid", steps=4, num_directions=4))
    monkeypatch.setattr(module, "tuned", lambda *run: record if run == (record.task_config, "zo-sgd", 4, 4) else None)
    ours = {"plain": make("zo-sgd", num_directions=4), "given": sgd(), "adam": make("zo-adam", num_directions=4)}
    console = Console(file=io.StringIO(), width=200)
    found = compare(task, list(ours.items()), RunSpec(seeds=1), console=console)
    rows = {row.optimizer: row for row in found.rows}
    assert rows["plain"].settings["lr"] == record.chosen["lr"]
    assert rows["plain"].settings_from == "tuned"
    assert rows["given"].settings["lr"] == 0.1
    assert rows["adam"].settings_from == "defaults, none tuned"
    printed = console.file.getvalue()
    assert "tuned on 3 problems of valley's valid split" in printed
    assert "adam ran with default settings: none tuned are stored" in printed
    assert compare(task, list(ours.items()), RunSpec(seeds=1), tuning="never").notes == []
    other = FakeTask(dim=10, curvature=2.0)
    assert {row.settings_from for row in compare(other, list(ours.items()), RunSpec(seeds=1)).rows} == {
        "defaults, none tuned",
        "given",
    }


def test_one_q_for_all_where_it_is_asked_for():
    found = compare(FakeTask(), TWO, RunSpec(seeds=1, num_directions=2))
    assert {row.queries_per_problem for row in found.rows} == {4 * 3}


def test_a_terminal_shows_progress_and_labels_as_they_are():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    compare(
        FakeTask(), [("[red]a[/red]", sgd())], RunSpec(seeds=1), console=console, out=Output(title="[blue]b[/blue]")
    )
    printed = console.file.getvalue()
    assert "[red]a[/red]" in printed
    assert "[blue]b[/blue]" in printed


def test_without_the_extra_everything_else_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    console = Console(file=io.StringIO(), width=300)
    found = compare(FakeTask(), TWO, RunSpec(seeds=1), console=console, out=tmp_path)
    assert set(found.paths) == {"table", "markdown", "curves", "queries"}
    lines = [line for line in console.file.getvalue().splitlines() if "jinja2" in line]
    assert len(lines) == 1
    assert "pip install 'zoracle[report]'" in lines[0]


def test_failures_stay_in_the_table(tmp_path):
    task = FakeTask(nan_after={20: 0})
    with pytest.warns(NonFiniteWarning, match=r"of the values \(\d+\) were NaN or infinite"):
        found = compare(task, TWO, RunSpec(seeds=1), out=tmp_path)
    assert all(row.ratio_undefined == 1 for row in found.rows)
    json.loads(found.paths["table"].read_text(), parse_constant=pytest.fail)


def test_run_folders_note_other_versions_and_refuse_objects(tmp_path, monkeypatch):
    open_run(tmp_path, {"a": 1})
    first = read(tmp_path / "versions.json")
    monkeypatch.setattr("zoracle.storage.runfolder.versions", lambda: {**first, "torch": "99"})
    assert open_run(tmp_path, {"a": 1}).resumed
    assert read(tmp_path / "versions.json") == {**first, "resumed_with": {**first, "torch": "99"}}
    with pytest.raises(InputError, match="holds Python objects"):
        write_npz(tmp_path / "x.npz", {"a": np.array([{}])})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        open_run(tmp_path, {"a": 1})
