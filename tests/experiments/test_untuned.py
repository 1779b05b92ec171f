"""Methods that run untuned: stopped at the budget, counted, kept run by run; and COCO's suites."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from importlib.util import find_spec

import msgspec
import numpy as np
import pytest
import torch

from zoracle.cli.main import main
from zoracle.errors import CheckpointError, InputError
from zoracle.experiments import registry
from zoracle.experiments.black_boxes import PROBLEMS, final_values
from zoracle.experiments.reproduce import reproduce
from zoracle.experiments.untuned import METHODS, available, known
from zoracle.experiments.untuned.asking import Answer, Question, foreign, restarted
from zoracle.experiments.untuned.coco import TARGETS, area, reached
from zoracle.experiments.untuned.ranking import mean_ranks, places
from zoracle.experiments.untuned.shards import Ran
from zoracle.objectives import CallableObjective

coco = pytest.mark.skipif(find_spec("cocoex") is None, reason="the extra coco has the suites")
INSTALLED = [name for name, method in METHODS.items() if not method.module or find_spec(method.module) is not None]


class Counted:
    """A quadratic whose curvatures differ by ten, and every point that it was asked."""

    def __init__(self, d: int = 8, broken_after: float = math.inf) -> None:
        self.points: list[np.ndarray] = []
        self.curvatures = np.linspace(1, 10, d)
        self.broken_after = broken_after

    def __call__(self, x: np.ndarray) -> float:
        self.points.append(x.copy())
        if len(self.points) > self.broken_after:
            raise ZeroDivisionError("broken")
        return float((self.curvatures * x**2).sum())


def question(f, budget=300, bounds=None, d=8, seed=3):
    def again(restart: int) -> np.ndarray:
        return np.random.default_rng(restart).uniform(-1, 1, d)

    objective = CallableObjective(f, d, vectorized=False, framework="numpy")
    return Question(objective, np.full(d, 0.8), budget, seed, 0.4, bounds, again)


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_a_method_stops_at_its_budget_and_reports_its_lowest_value(name, bounds):
    d = 40 if name == "ngopt" else 8  # in few dimensions nevergrad 1.0 fits a model, which NumPy 2.4 breaks
    f = Counted(d)
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    answer = METHODS[name].answer(question(f, bounds=bounds, d=d))
    assert answer.failure == ""
    assert answer.queries == len(f.points) <= 300
    assert answer.queries > 250, "the budget is there to be used"
    values = [float((f.curvatures * x**2).sum()) for x in f.points]
    assert answer.value == pytest.approx(min(values), rel=1e-12)
    assert answer.value < 0.9 * values[0] if name == "ars" else answer.value < 0.5 * values[0]
    assert answer.curve[-1][1] == pytest.approx(answer.value)
    falls = [value for _, value in answer.curve]
    assert falls == sorted(falls, reverse=True)
    if bounds is not None:
        assert max(np.abs(x).max() for x in f.points) <= 1 + 1e-9
    assert (np.random.get_state()[1] == numpy_before).all(), "it is put back"  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)
    again = METHODS[name].answer(question(Counted(d), bounds=bounds, d=d))
    assert again == answer, "keyed by the seed"


@pytest.mark.parametrize("name", INSTALLED)
def test_an_exception_is_a_failure_with_its_reason(name):
    answer = METHODS[name].answer(question(Counted(broken_after=60)))
    assert "broken" in answer.failure
    assert 20 < answer.queries <= 61


@pytest.mark.skipif("ngopt" not in INSTALLED, reason="the extra nevergrad has the optimizer")
def test_a_method_of_nevergrad_that_runs_in_a_thread_ends_with_the_budget(monkeypatch):
    import nevergrad

    monkeypatch.setattr(nevergrad.optimizers, "NGOpt", nevergrad.optimizers.Powell)  # what it chooses in some runs
    threads = set(threading.enumerate())
    answer = METHODS["ngopt"].answer(question(Counted(), budget=100))
    assert (answer.failure, answer.queries) == ("", 100)
    assert set(threading.enumerate()) <= threads, "the process could not end"


def test_a_method_that_never_asks_fails_instead_of_going_on_for_ever():
    answer = foreign(lambda q, asked: restarted(q, asked, lambda start: None))(question(Counted()))
    assert (answer.queries, answer.value) == (0, math.inf)
    assert "no point" in answer.failure


def test_a_value_that_is_none_is_no_lowest_value():
    def f(x):
        return math.nan if x[0] > 0 else float((x**2).sum())

    for name in ("pycma", "scipy-powell", "ars"):
        if name in INSTALLED:
            answer = METHODS[name].answer(question(f))
            assert math.isfinite(answer.value) or answer.value == math.inf
            assert answer.queries > 0


def test_ranks_are_shared_where_methods_are_level():
    ranks = mean_ranks({"a": [1.0, 5.0, math.inf], "b": [1.0, 4.0, math.inf], "c": [3.0, 9.0, 0.5]})
    assert ranks == {"a": pytest.approx((1.5 + 2 + 2.5) / 3), "b": pytest.approx(5 / 3), "c": pytest.approx(7 / 3)}
    assert places([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0, "c": 2.0}]) == {"a": [1, 3], "b": [2, 1], "c": [1]}


def test_targets_and_the_area_under_their_share():
    assert (len(TARGETS), TARGETS[0], TARGETS[-1]) == (51, 100, pytest.approx(1e-8))
    spent = reached([(1, 500.0), (10, 100.0), (100, 0.5)])
    assert spent[0] == 10
    assert (spent[(TARGETS >= 0.5) & (TARGETS < 100)] == 100).all()
    assert np.isinf(spent[TARGETS < 0.5]).all()
    got = area(np.array([1.0, 10.0, 100.0, 1000.0, np.inf]), 100)
    np.testing.assert_allclose(got, [1, 0.5, 0, 0, 0])
    assert np.isinf(reached([])).all()


def test_unknown_methods_and_functions_are_one_line():
    with pytest.raises(InputError, match=r"method 'pycmaa' is unknown; did you mean pycma\?"):
        known(("pycmaa",))
    with pytest.raises(InputError, match="methods is empty"):
        known(())


def test_a_method_whose_package_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("zoracle.experiments.untuned.find_spec", lambda module: None)
    there, missing = available(("minimize", "pycma"))
    assert list(there) == ["minimize"]
    assert missing == ["pycma was left out: cma is not installed; install it with: pip install 'zoracle[baselines]'"]


def test_without_the_extra_one_line_and_all_go_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cocoex", None)
    assert main(["reproduce", "bbob", "--quick", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "pip install 'zoracle[coco]'" in told
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(registry, "names", lambda: ("bbob",))
    assert main(["reproduce", "all", "--quick", "--out", str(tmp_path)]) == 0
    assert "skipped: cocoex is required but not installed" in capsys.readouterr().out
    assert main(["reproduce", "all", "--out", str(tmp_path)]) == 2


BBOB = {
    "dimensions": (20,), "budgets": (3,), "noisy_dimensions": (2,), "noisy_budgets": (30,), "instances": (1, 2),
    "functions": (1, 5), "methods": ("minimize", "scipy-powell", "snes"),
}  # fmt: skip


def bbob(out, **settings):
    experiment = registry.experiment("bbob")
    return reproduce(experiment, out, quick=True, settings=msgspec.structs.replace(experiment.quick, **BBOB | settings))


@coco
def test_coco_writes_what_the_table_says(tmp_path):
    done = bbob(tmp_path / "out")
    tables = {table.name: table.records for table in done.outcome.tables}
    assert set(tables) == {"summary", "bbob-largescale-d20-3d", "bbob-noisy-d2-30d"}
    assert done.queries["optimise"] <= 3 * 2 * 2 * (60 + 60)
    for name in ("bbob-largescale-d20-3d", "bbob-noisy-d2-30d"):
        assert sum(record["rank"] for record in tables[name]) == pytest.approx(6)
        assert all(record["queries"] <= 4 * 60 for record in tables[name])
    for record in tables["bbob-largescale-d20-3d"]:  # functions 1 and 5 are of one group
        assert record["rank, separable"] == pytest.approx(record["rank"])
        assert "rank, multimodal" not in record
    infos = sorted((tmp_path / "out" / "coco").rglob("*.info"))
    assert len(infos) == 2 * 3 * 4
    assert all("algId = '" in path.read_text() for path in infos)
    gaps = done.outcome.curves["bbob-largescale-d20-3d/scipy-powell.gap"]
    lines = [
        path.read_text().splitlines()[-1].split()
        for path in sorted((tmp_path / "out/coco/bbob-largescale/scipy-powell-3d").rglob("*.dat"))
    ]
    np.testing.assert_allclose(gaps, [max(float(line[2]), 1e-8) for line in lines], rtol=1e-12)
    assert [int(line[0]) for line in lines] == [60] * 4, "the logger counted the whole budget, and no more"


@coco
def test_runs_go_on_and_are_the_same_with_workers(tmp_path):
    whole = bbob(tmp_path / "out", methods=("scipy-powell", "snes"))
    pieces = sorted((tmp_path / "out" / "pieces").rglob("*.safetensors"))
    for path in pieces[::3]:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in pieces if path.exists()}
    again = bbob(tmp_path / "out", methods=("scipy-powell", "snes"))
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    for key, curve in whole.outcome.curves.items():
        np.testing.assert_array_equal(again.outcome.curves[key], curve)
    pieces[0].write_bytes(pieces[1].read_bytes())
    with pytest.raises(CheckpointError, match="belongs to another run"):
        bbob(tmp_path / "out", methods=("scipy-powell", "snes"))


@coco
@pytest.mark.slow
def test_workers_find_the_same(tmp_path):
    whole = bbob(tmp_path / "one", methods=("scipy-powell",))
    experiment = registry.experiment("bbob")
    settings = msgspec.structs.replace(experiment.quick, **BBOB | {"methods": ("scipy-powell",)})
    shared = reproduce(experiment, tmp_path / "two", quick=True, settings=settings, workers=2)
    for key, curve in whole.outcome.curves.items():
        np.testing.assert_array_equal(shared.outcome.curves[key], curve)


@coco
def test_starts_are_alike_for_all_methods_and_budgets(tmp_path):
    bbob(tmp_path / "out", budgets=(3, 4), functions=(1,), noisy_dimensions=(), methods=("scipy-powell", "py-bobyqa"))
    first = {
        path.read_text().splitlines()[1].split()[2]
        for path in (tmp_path / "out/coco/bbob-largescale").rglob("f001-i01-d0020/data_f1/*.dat")
    }
    assert len(first) == 1
    with pytest.raises(InputError, match="function 31 is unknown"):
        bbob(tmp_path / "wrong", functions=(31,))


def test_a_failed_run_counts_with_the_highest_value_that_another_ended_at():
    def one(value: float, failure: str = "") -> Ran:
        return Ran(Answer(value, 1, [], failure), 0.0)

    values = final_values(
        {"a": [one(1.0), one(math.inf)], "b": [one(0.1, "raised"), one(2.0)], "c": [one(5.0), one(3.0)]}
    )
    assert {name: got.tolist() for name, got in values.items()} == {"a": [1, 3], "b": [5, 2], "c": [5, 3]}


def black_boxes(out, **settings):
    experiment = registry.experiment("black-boxes")
    settings = {"budget": 40, "problems": 3, "methods": ("minimize", "scipy-powell"), **settings}
    return reproduce(experiment, out, quick=True, settings=msgspec.structs.replace(experiment.quick, **settings))


def test_black_boxes_compare_with_the_default_in_pairs(tmp_path):
    done = black_boxes(tmp_path / "out", kinds=("rover",))
    (table,) = [table for table in done.outcome.tables if table.name == "rover"]
    records = {record["method"]: record for record in table.records}
    default, other = (done.outcome.curves[f"rover/{name}.value"] for name in ("minimize", "scipy-powell"))
    assert records["scipy-powell"]["difference"] == pytest.approx(float((other - default).mean()))
    assert records["minimize"]["value"] == pytest.approx(float(default.mean()))
    assert all(record["queries"] <= 40 for record in table.records)
    assert len(set(default.tolist())) == 3, "each repeat is a problem of its own"
    pieces = sorted((tmp_path / "out" / "pieces").rglob("*.safetensors"))
    kept = {path: path.stat().st_mtime_ns for path in pieces[1:]}
    pieces[0].unlink()
    again = black_boxes(tmp_path / "out", kinds=("rover",))
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    for key, curve in done.outcome.curves.items():
        np.testing.assert_array_equal(again.outcome.curves[key], curve)


def test_augmented_random_search_is_for_policies():
    assert [name for name, problem in PROBLEMS.items() if problem.policy] == ["pendulum", "swimmer", "half-cheetah"]


def test_a_kind_that_cannot_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    done = black_boxes(tmp_path / "out", kinds=("pendulum", "rover"), problems=2)
    assert any(note.startswith("pendulum was skipped: gymnasium is required") for note in done.notes)
    with pytest.raises(InputError, match="none of pendulum can run"):
        black_boxes(tmp_path / "none", kinds=("pendulum",))
    with pytest.raises(InputError, match="problem 'rovr' is unknown"):
        black_boxes(tmp_path / "wrong", kinds=("rovr",))
    assert not (tmp_path / "wrong").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("cocopp") is None, reason="the extra coco has cocopp")
def test_cocopp_draws_its_pages(tmp_path):
    bbob(tmp_path / "out", noisy_dimensions=(), methods=("scipy-powell", "snes"))
    folders = sorted((tmp_path / "out" / "coco" / "bbob-largescale").iterdir())
    command = [sys.executable, "-W", "ignore", "-m", "cocopp", "-o", tmp_path / "pages", *folders]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert "Using 2 data sets" in told
    assert "ALL done" in told
    pages = "".join(path.read_text() for path in (tmp_path / "pages").rglob("*.html"))
    assert "snes-3d" in pages
    assert "scipy-powell-3d" in pages
