"""Functions, models and settings of one's own on the command line: compared, tuned, and read again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from zoracle.cli.main import main

MODULE = """
import numpy as np

COUNT = []


def bowl(x):
    COUNT.append(1)
    return float((np.arange(1, len(x) + 1) * (x - 0.3) ** 2).sum())


def bowls(x):
    COUNT.append(len(x))
    return (np.arange(1, x.shape[1] + 1) * (x - 0.3) ** 2).sum(1)


def nervous(x):  # every third answer is NaN
    found = classify(x)
    found[[i for i in range(len(found)) if (len(COUNT) + i) % 3 == 2]] = np.nan
    return found


def classify(x):
    COUNT.append(len(x))
    weights = np.random.default_rng(1).standard_normal((16, 3)).astype("float32")
    return np.asarray(x).reshape(len(x), -1) @ weights
"""


@pytest.fixture(autouse=True)
def own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "jinja2", None)  # no report: drawing takes longer than everything else
    Path("mine.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    images = np.random.default_rng(0).random((6, 1, 4, 4), dtype=np.float32)
    labels = mine.classify(images).argmax(1)
    np.savez("own.npz", images=images, labels=labels)
    mine.COUNT.clear()
    yield mine
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def run(*argv, code=0):
    assert main([str(part) for part in argv]) == code


def read(name):
    return json.loads(Path(name).read_text())


FUNCTION = ["--objective", "mine:bowl", "--dim", "4"]


def test_a_function_of_ones_own_is_compared_with_other_libraries_at_equal_counted_queries(own, capsys):
    pytest.importorskip("scipy")
    pytest.importorskip("nevergrad")
    named = ["--optimizers", "portfolio,zo-adam:lr=.1"]
    argv = ["compare", *FUNCTION, *named, "--budget", "150", "--seeds", "2", "--out", "run"]
    run(*argv)
    rows = {row["optimizer"]: row for row in read("run/table.json")}
    assert set(rows) >= {"portfolio", "zo-adam:lr=.1", "scipy-powell", "scipy-l-bfgs-b", "nevergrad-de"}
    assert rows["scipy-l-bfgs-b"]["final_loss"] < 1e-6
    assert rows["nevergrad-de"]["final_loss"] < 0.9
    assert all(row["queries_per_problem"] <= 150 for row in rows.values())
    queries = read("run/queries.json")
    assert sum(own.COUNT) == sum(queries["optimise"].values()) + sum(queries["monitor"].values())
    with np.load("run/curves.npz") as curves:
        assert curves["scipy-powell.best"].shape == (2, 1, 151)
        assert (np.diff(curves["scipy-powell.best"]) <= 0).all()
        assert curves["scipy-powell.queries"].max() == rows["scipy-powell"]["queries_per_problem"]
    before = sum(own.COUNT)
    run(*argv)
    assert sum(own.COUNT) == before, "what was answered is kept"
    again = {row["optimizer"]: row["final_loss"] for row in read("run/table.json")}
    assert again == {label: row["final_loss"] for label, row in rows.items()}


def test_a_batch_and_bounds(own):
    argv = ["compare", "--objective", "mine:bowls", "--vectorized", "--dim", "4", "--low", "-1", "--high", "0"]
    run(*argv, "--no-rivals", "--optimizers", "portfolio", "--budget", "150", "--seeds", "1", "--out", "run")
    (row,) = read("run/table.json")
    assert row["final_loss"] == pytest.approx(10 * 0.09, rel=0.02), "on the bounds"


def test_settings_tuned_on_ones_own_function_are_read_by_compare(own, capsys):
    run("tune", *FUNCTION, "--optimizers", "zo-sgd", "--problems", "1", "--steps", "8", "--out", "tuned.json")
    assert "use them with --settings tuned.json" in capsys.readouterr().out
    (record,) = read("tuned.json")["tuned settings"]
    assert record["task"] == "bowl"
    argv = ["compare", *FUNCTION, "--no-rivals", "--optimizers", "zo-sgd", "--steps", "8", "--seeds", "1"]
    run(*argv, "--settings", "tuned.json", "--out", "run")
    (row,) = read("run/table.json")
    assert row["settings"]["lr"] == record["chosen"]["lr"]
    assert row["settings_from"] == "tuned"
    assert "tuned on 1 problems of bowl" in " ".join(capsys.readouterr().out.split())
    run(*argv, "--out", "default")
    assert read("default/table.json")[0]["settings"]["lr"] != record["chosen"]["lr"]


def test_settings_tuned_on_ones_own_target_are_read_by_attack(own, capsys):
    both = ["--target", "mine:classify", "--data", "own.npz"]
    run("attack", *both, "--optimizers", "zo-sgd", "--steps", "4", "--out", "first")
    told = " ".join(capsys.readouterr().out.split())
    assert "tune them on other images with `zoracle tune`, and pass its file with --settings" in told, "no dead end"
    run("attack", *both, "--optimizers", "zo-sgd", "--steps", "4", "--tune", "--out", "none", code=2)
    assert "then pass --settings tuned.json" in capsys.readouterr().err
    run("tune", *both, "--optimizers", "zo-sgd", "--num-directions", "4", "--steps", "4", "--out", "tuned.json")
    (record,) = read("tuned.json")["tuned settings"]
    assert record["problems"] == 6
    run("attack", *both, "--optimizers", "zo-sgd", "--steps", "4", "--settings", "tuned.json", "--out", "run")
    assert read("run/table.json")[0]["settings"]["lr"] == record["chosen"]["lr"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compare", "--objective", "mine:bowl"], "--objective was given without --dim"),
        (["compare", "--dim", "3"], "--dim was given without --objective"),
        (["compare", *FUNCTION, "--low", "1"], "outside the bounds"),
        (["compare", *FUNCTION, "--optimizers", "snes", "--scale", "0"], "--scale is 0.0; expected a positive number"),
        (["compare", *FUNCTION, "--steps", "3"], "compared at equal queries; pass a budget"),
        (["compare", "--objective", "mine:nothing", "--dim", "3"], "mine has no nothing"),
        (["tune", "--target", "mine:classify", "--out", "t.json"], "--target was given without --data"),
        (["compare", *FUNCTION, "--settings", "none.json"], "none.json"),
    ],
)
def test_what_cannot_work_is_one_line_before_the_first_query(own, capsys, argv, message):
    run(*argv, code=2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert message in err
    assert not own.COUNT


@pytest.mark.filterwarnings("always::zoracle.errors.NonFiniteWarning")
def test_answers_that_are_nan_are_said_and_end_no_attack(capsys):
    words = ("--data", "own.npz", "--threat", "linf", "--eps", 0.2, "--no-check-start", "--budget", 120, "--no-verify")
    run("attack", "--target", "mine.py:classify", *words, "--out", "sound")
    capsys.readouterr()
    run("attack", "--target", "mine.py:nervous", *words, "--out", "nervous")
    told = capsys.readouterr().err
    assert "% of the values (" in told
    assert "were NaN or infinite" in told
    sound, nervous = (read(f"{name}/table.json") for name in ("sound", "nervous"))
    assert sound[-1]["broken"] >= 3
    # A step of one point that has no value is one point lost, and not the end of an image's attack.
    assert nervous[-1]["broken"] >= sound[-1]["broken"] - 1
    for row in nervous:
        if row["attacked"] > row["broken"]:
            assert row["non_finite_values"] > 0
    assert all(row["queries_per_problem"] > 3 for row in nervous[:1])


@pytest.mark.filterwarnings("always::zoracle.errors.NonFiniteWarning")
def test_a_target_that_has_stopped_answering_ends_the_attack_before_the_budget(capsys):
    Path("dead.py").write_text(
        "import numpy as np\nCALLS = []\n\n\ndef classify(x):\n    CALLS.append(1)\n"
        "    return np.full((len(x), 3), np.nan) if len(CALLS) > 1 else np.eye(3)[[0] * len(x)]\n"
    )
    np.savez("one.npz", images=np.full((2, 1, 4, 4), 0.5, dtype="float32"), labels=np.array([0, 0]))
    words = ("--threat", "linf", "--eps", 0.2, "--optimizers", "square", "--budget", 500, "--no-verify")
    run("attack", "--target", "dead.py:classify", "--data", "one.npz", *words, "--out", "dead")
    (row,) = read("dead/table.json")
    assert (row["non_finite_values"], row["queries_per_problem"]) == (2 * 20, 21)
    assert "95.2% of the values (40) were NaN or infinite" in capsys.readouterr().err
