"""The tuner finds what is known to be best, on validation problems only."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from valleys import FakeTask, M
from zoracle import comparison as module
from zoracle.comparison.tune import Axis, tune
from zoracle.errors import InputError
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.registry import make
from zoracle.results.tuned import read_tuned, tuned, write_tuned

IDS = {"ids": (10, 11, 12, 13), "steps": 6}


def test_it_finds_the_best_step_size_of_a_quadratic():
    # E |x - lr g|^2 = (1 - 2 lr + lr^2 (1 + (d + 1) / q)) |x|^2 is least at lr = q / (q + d + 1): 0.645 here,
    # where of the grid k / 10 the values 0.4, 0.8 and 1.6 give 0.448, 0.392 and 1.768.
    task = FakeTask(dim=10)
    found = tune(task, "zo-sgd", RunSpec(split="valid", num_directions=20, seeds=(0, 1), **IDS))
    assert found.chosen == {"lr": 0.8}
    assert found.on_edge == []
    assert (found.split, found.problems, found.steps, found.num_directions) == ("valid", 4, 6, 20)
    assert found.queries == task.seen == sum(score.points for score in found.scores)
    best = min(found.scores, key=lambda score: score.ratio)
    assert best.settings == found.chosen


@pytest.mark.parametrize(("curvature", "lr"), [(1e-3, 819.2), (1e3, 0.78125e-3)])
def test_the_grid_is_extended_while_the_winner_lies_on_its_edge(curvature, lr):
    found = tune(FakeTask(dim=10, curvature=curvature), "zo-sgd", RunSpec(split="valid", num_directions=20, **IDS))
    assert found.chosen["lr"] == pytest.approx(lr)
    assert found.on_edge == []
    assert len(found.grid["lr"]) > 8


def test_adam_is_tuned_in_both_settings():
    found = tune(FakeTask(dim=10), "zo-adam", RunSpec(split="valid", num_directions=20, **IDS))
    assert set(found.chosen) == {"lr", "beta2", "beta1"}
    assert found.chosen["beta2"] in found.grid["beta2"]
    tried = {tuple(score.settings.values()) for score in found.scores}
    assert len(tried) == len(found.scores), "nothing is tried twice"
    assert min(score.ratio for score in found.scores) == next(
        score.ratio for score in found.scores if score.settings == found.chosen
    )


def test_the_table_names_optimizers_and_settings_that_there_are():
    for name, axes in module.GRIDS.items():
        optimizer = make(name)
        assert module.tunable(optimizer) == name
        assert module.untouched(optimizer)
        for axis in axes:
            assert hasattr(optimizer.config, axis.setting)
            assert list(axis.values) == sorted(axis.values)


def test_the_spread_of_snes_is_tuned():
    # From N(0, I), 6 steps with a spread of hundredths get nowhere.
    found = tune(FakeTask(dim=5), "snes", RunSpec(split="valid", num_directions=20, **IDS))
    assert set(found.chosen) == {"sigma"}
    assert found.chosen["sigma"] >= 0.12
    assert found.num_directions == 20


def test_one_without_directions_is_tuned(tmp_path):
    grid = [Axis("online_lr", (0.01, 1.0))]
    task = FakeTask(dim=5)
    found = tune(task, "bandits", RunSpec(split="valid", num_directions=20, **IDS), grid=grid)
    assert found.num_directions is None
    assert found.queries == task.seen
    write_tuned(tmp_path / "tuned.json", [found])
    assert read_tuned(tmp_path / "tuned.json") == [found]


def test_by_queries_to_success():
    task = FakeTask(dim=10, succeeds={10: 30, 11: 30})
    found = tune(task, "zo-signsgd", RunSpec(split="valid", **IDS), criterion="queries", grid=[Axis("lr", (0.1, 0.2))])
    assert found.criterion == "queries"
    with pytest.raises(InputError, match="has no successes"):
        tune(FakeTask(knows=False), "zo-sgd", RunSpec(split="valid", **IDS), criterion="queries")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "never used for tuning"),
        ({"ids": (10, 20)}, "id 20 is not of the valid split"),
        ({"split": "dev"}, "split 'dev' is unknown"),
    ],
)
def test_test_problems_and_nonsense_are_refused(settings, message):
    task = FakeTask()
    with pytest.raises(InputError, match=message):
        tune(task, "zo-sgd", RunSpec(**{"split": "valid", **settings}))
    assert task.seen == 0
    with pytest.raises(InputError, match="criterion is 'luck'"):
        tune(task, "zo-sgd", criterion="luck")
    with pytest.raises(InputError, match="cannot be tuned"):
        tune(task, "zo-lstm")


def test_an_interrupted_tuning_goes_on(tmp_path):
    task = FakeTask(dim=10)
    task.raise_at = 20
    with pytest.raises(KeyboardInterrupt):
        tune(task, "zo-sgd", RunSpec(split="valid", **IDS), resume_dir=tmp_path)
    before = task.seen
    task.raise_at = -1
    found = tune(task, "zo-sgd", RunSpec(split="valid", **IDS), resume_dir=tmp_path)
    plain = tune(FakeTask(dim=10), "zo-sgd", RunSpec(split="valid", **IDS)).scores
    assert [score._replace(lost=0) for score in found.scores] == plain
    assert task.seen - before < found.queries <= task.seen <= found.queries + found.interrupted
    points = 2 * M  # of the call that did not return, with half of the problems: it may have been seen
    assert found.interrupted == sum(score.lost for score in found.scores) == points


def test_stored_settings_are_found_again(tmp_path, monkeypatch):
    record = tune(FakeTask(dim=10), "zo-sgd", RunSpec(split="valid", **IDS))
    other = record._replace(steps=99)
    path = tmp_path / "assets" / "tuned" / "valley.json"
    write_tuned(path, [record])
    write_tuned(path, [other])
    assert read_tuned(path) == [record, other]
    write_tuned(path, [record._replace(chosen={"lr": 1.0})])
    assert [r.chosen for r in read_tuned(path)] == [{"lr": 1.0}, record.chosen]
    monkeypatch.setattr(import_module("zoracle.results.tuned"), "files", lambda package: tmp_path)
    config = record.task_config
    assert tuned({**config, "eps": None, "data_sha256": "1"}, "zo-sgd", 99, record.num_directions) == other
    assert tuned(config, "zo-sgd", 98, record.num_directions) is None
    assert tuned({**config, "name": "hills"}, "zo-sgd", 99, record.num_directions) is None
    assert tuned({**config, "eps": 0.3}, "zo-sgd", 99, record.num_directions) is None
    ball = record._replace(steps=99, task_config={**config, "eps": 0.3}, chosen={"lr": 2.0})
    write_tuned(path, [ball])
    assert tuned({**config, "eps": 0.3}, "zo-sgd", 99, record.num_directions) == ball
    assert tuned(config, "zo-sgd", 99, record.num_directions) == other
    path.write_text(json.dumps({"tuned settings": [{"task": "valley"}]}))
    with pytest.raises(InputError, match="does not hold tuned settings"):
        read_tuned(path)
