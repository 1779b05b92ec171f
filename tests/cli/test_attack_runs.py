"""`zoracle attack` as a run: what it stops at, what is counted, who may write into its folder, and going on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from valleys import FakeTask, M, sgd
from zoracle.cli.main import main
from zoracle.comparison.compare import Output, compare
from zoracle.comparison.progress import describe
from zoracle.evaluation.evaluate import Status, evaluate
from zoracle.evaluation.spec import RunSpec
from zoracle.storage.runfolder import locked
from zoracle.tasks.digits import DigitsAttack
from zoracle.types import StopReason


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """No report where none is looked at: drawing takes longer than everything else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)


def run(*argv, code=0):
    assert main([str(part) for part in argv]) == code


def read(name):
    return json.loads(Path(name).read_text())


def arrays(out, label="zo-sgd"):
    with np.load(f"{out}/adversarial-{label}.npz", allow_pickle=False) as found:
        return dict(found)


SMALL = ["--optimizers", "zo-sgd", "--problems", "6"]
BALL = ["--threat", "l2", "--eps", "1", "--budget", "200"]


def test_in_a_ball_an_image_is_left_at_its_first_success(capsys):
    run("attack", *SMALL, *BALL, "--out", "stop")
    run("attack", *SMALL, *BALL, "--no-stop-on-success", "--out", "go")
    stop, go = arrays("stop"), arrays("go")
    won = stop["success"][0]
    assert 0 < won.sum() < 6, "or the test would show nothing"
    assert (stop["queries_to_success"] == go["queries_to_success"]).all()
    spent = stop["queries"][0]
    assert (spent[won] == 1 + -(-(stop["queries_to_success"][0][won] - 1) // 21) * 21).all(), "that step is the last"
    assert (go["queries"] == 1 + 9 * 21).all()
    assert set(stop["reason"][0][won]) == {"success"}
    moved = np.linalg.norm((stop["adversarial"][0] - stop["images"]).reshape(6, -1), axis=1)
    assert np.allclose(stop["l2"][0], moved, atol=1e-5)
    (row,) = read("stop/table.json")
    assert row["l2"] == pytest.approx(moved.mean(), rel=1e-5), "of the successful images, and the best failed ones"
    assert row["success_ever"] == won.mean()
    first = np.where(stop["queries_to_success"] > 0, stop["queries_to_success"], 200)
    assert row["queries_to_success_mean"] == first.mean(), "failures count at the whole budget"
    assert row["queries_per_problem"] == spent.mean()
    assert row["monitor_queries_per_problem"] == 0


class Wrong(DigitsAttack):
    """Digits of which two are labelled wrongly."""

    wrong: frozenset[int] = frozenset()

    def _load(self):
        data = super()._load()
        flip = torch.tensor([i in self.wrong for i in data.ids])
        return data._replace(labels=torch.where(flip, (data.labels + 1) % 10, data.labels))


@pytest.mark.parametrize("stop", [None, False, True])
@pytest.mark.parametrize("difference", ["forward", "central"])
def test_what_is_wrong_already_costs_one_query_and_is_in_no_rate(tmp_path, stop, difference):
    task = Wrong()
    ids = task.ids("test")[:5]
    task.wrong = frozenset({ids[1], ids[3]})
    found = compare(
        task,
        [("a", sgd(difference=difference))],
        RunSpec(ids=ids, seeds=1, steps=3, stop_on_success=stop, check_start=True),
        out=Output(tmp_path / "run", attack=True),
    )
    written = arrays(tmp_path / "run", "a")
    assert written["misclassified"].tolist() == [[False, True, False, True, False]]
    cost = found.results["a"].spent[0].tolist()
    step = M if difference == "forward" else 8
    assert (cost[1], cost[3]) == (1, 1)
    assert all(one == 3 * step + 1 or stop for one in (cost[0], cost[2], cost[4]))
    assert (written["adversarial"][0, 1] == written["images"][1]).all()
    assert (written["l1"][0, 1], written["queries_to_success"][0, 1]) == (0, 1)
    (row,) = found.rows
    assert row.misclassified == 2
    attacked = [0, 2, 4]
    assert row.success_ever == pytest.approx(written["success"][0, attacked].mean())
    assert found.results["a"].queries[0, 1].tolist() == [1] * 4


def test_nobody_looks_in_a_comparison_unless_asked():
    task = FakeTask()
    result = evaluate(sgd(), task, RunSpec(ids=(20, 21), steps=4))
    assert not result.misclassified.any()
    assert (result.spent == 4 * M).all()
    looked = evaluate(sgd(), FakeTask(succeeds={20: 1}), RunSpec(ids=(20, 21), steps=4, check_start=True))
    assert looked.spent.tolist() == [[1, 4 * M + 1]]
    assert looked.reason.tolist() == [[StopReason.SUCCESS, StopReason.STEPS]]
    assert looked.allowance.tolist() == [[4 * M + 1] * 2]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_batch_is_kept_full_and_no_state_waits(batch):
    task = FakeTask(succeeds={20: 2, 21: M + 1, 23: 3 * M, 25: 1})
    begun, sizes = [], []

    class Watched(type(sgd())):
        def _init(self, start):
            begun.extend(start.key.problem.tolist())
            return super()._init(start)

        def _ask(self, state):
            sizes.append(len(state.x))
            return super()._ask(state)

    ids = tuple(range(20, 27))
    found = evaluate(
        Watched(num_directions=4, lr=0.1), task, RunSpec(ids=ids, steps=4, batch=batch, stop_on_success=True)
    )
    again = FakeTask(succeeds=dict(task.succeeds))
    whole = evaluate(sgd(), again, RunSpec(ids=ids, steps=4, stop_on_success=True))
    for name, one, other in zip(found._fields, found, whole, strict=True):
        if name != "seconds":
            assert torch.equal(one.nan_to_num(), other.nan_to_num()), name
    assert max(sizes) == batch
    assert sizes[: sum(sizes) // batch - batch] == [batch] * (sum(sizes) // batch - batch), "full until the last ones"
    assert begun[1:] == list(ids), "each once, in order; the first is tried before anything else"


def test_resume_needs_the_folder_only_and_refuses_other_options(capsys):
    run("attack", *SMALL, *BALL, "--out", "run")
    before = Path("run/table.json").read_bytes()
    capsys.readouterr()
    run("attack", "--resume", "--out", "run")
    run("attack", "--resume", "--out", "run", *SMALL, *BALL)
    assert Path("run/table.json").read_bytes() == before
    capsys.readouterr()
    for argv, message in (
        (["--budget", "300"], "--budget is 300, but 200 in the run in run; leave it out to resume"),
        (["--threat", "linf"], "--threat is linf, but l2 in the run in run"),
    ):
        run("attack", "--resume", "--out", "run", *argv, code=2)
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert message in told
    run("attack", "--resume", "--out", "nowhere", code=2)
    assert "nowhere contains no command.json" in capsys.readouterr().err
    assert not Path("nowhere").exists()
    Path("run/command.json").write_text("[]")
    run("attack", "--resume", "--out", "run", code=2)
    assert "is not from `zoracle attack`" in capsys.readouterr().err


def test_a_folder_is_one_runs_at_a_time(capsys):
    run("attack", *SMALL, *BALL, "--out", "run")
    with locked("run"):
        run("attack", "--resume", "--out", "run", code=2)
        told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "run is in use by another run (process " in told
    run("attack", "--resume", "--out", "run")  # whoever had it is gone, and the file it leaves keeps nobody out
    assert not Path("run/.lock").exists()


def test_progress_in_words():
    status = Status(finished=3, problems=10, successes=4, misclassified=1, queries=1234)
    assert describe(status, 600, 2.0) == "3 of 9 succeeded, 1,234 queries, 300/s"
    assert describe(status, 0, 0.0) == "3 of 9 succeeded, 1,234 queries"
    told = []
    evaluate(sgd(), FakeTask(succeeds={20: 2}), RunSpec(ids=(20, 21), steps=3, check_start=True), on_status=told.append)
    assert told[-1] == Status(finished=2, problems=2, successes=1, misclassified=0, queries=2 * (3 * M + 1))
    assert [one.queries for one in told] == sorted(one.queries for one in told)


def test_a_server_that_fails_and_comes_back(capsys):
    """Answers, failures that are retried, a failure for good, and the run that continues: all of it adds up."""
    pytest.importorskip("httpx")
    pytest.importorskip("tenacity")
    from oip_server import Server

    rng = np.random.default_rng(0)
    weight = rng.normal(size=(16, 3)).astype(np.float32)
    images = rng.uniform(size=(6, 1, 4, 4)).astype(np.float32)
    labels = (images.reshape(6, -1) @ weight).argmax(1)
    labels[4] = (labels[4] + 1) % 3
    np.savez("data.npz", images=images, labels=labels)
    meta = {"inputs": [("x", "FP32", [-1, 1, 4, 4])], "outputs": [("y", "FP32", [-1, 3])]}
    tensor = [{"name": n, "datatype": t, "shape": s} for n, t, s in (meta["inputs"] + meta["outputs"])]
    calls = []

    def model(x):
        calls.append(len(x))
        if len(calls) == 12:
            server.faults = 1.0
        return x.reshape(len(x), -1) @ weight

    with Server(
        model, faults=0.2, kinds=("503", "not-json", "truncated"), seed=3, inputs=tensor[:1], outputs=tensor[1:]
    ) as server:
        argv = [
            "--target", server.url, "--data", "data.npz", "--threat", "linf", "--eps", ".15", "--optimizers", "zo-sgd",
            "--steps", "6", "--batch", "2", "--outputs", "logits", "--attempts", "4", "--out", "run",
        ]  # fmt: skip
        run("attack", *argv, code=2)
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "continue with --resume --out run" in told
        server.faults = 0.2
        run("attack", "--resume", "--out", "run")
    found, queries = arrays("run"), read("run/queries.json")
    assert found["misclassified"].tolist() == [[False] * 4 + [True, False]]
    attempts = queries["target"]["attempts"]
    log = [json.loads(line) for line in Path("run/attempts.jsonl").read_text().splitlines()]
    assert len(log) == attempts["requests_sent"]
    assert sum(one["images"] for one in log) == attempts["images_sent"]
    assert attempts["images_sent"] == attempts["images_answered"] + attempts["images_in_failed_attempts"]
    counted = queries["optimise"]["zo-sgd"] + queries["monitor"]["zo-sgd"] + queries["pictures"]
    counted += queries["verify"]["zo-sgd"]
    assert queries["interrupted"]["zo-sgd"] == 1, "a stored point was requested again"
    counted += 1
    failed = counted - attempts["images_answered"]
    assert failed in (21, 42), "the call that failed for good: a step of one image or of two"


def test_in_a_ball_several_attacks_run_where_none_is_named(capsys):
    run("attack", "--threat", "l2", "--eps", ".8", "--budget", "90", "--problems", "4", "--out", "run")
    told = capsys.readouterr().out
    assert read("run/config.json")["ensemble"] == {"every": False}
    labels = [one["label"] for one in read("run/config.json")["optimizers"]]
    assert labels == ["zo-lstm", "square", "simba"]
    rows = {row["optimizer"]: row for row in read("run/table.json")}
    assert list(rows) == [*labels, "worst case"]
    assert rows["zo-lstm"]["weights"] == "spectral-search", "which weights an alias meant"
    assert "zo-lstm: shipped weights spectral-search" in told
    worst = arrays("run", "worst-case")
    assert (worst["queries"] <= 90).all()
    assert (worst["l2"] <= 0.8 + 1e-5).all()
    broken = int(worst["success"].sum())
    assert rows["worst case"]["robust_accuracy"] == 1 - broken / 4
    assert f"Clean accuracy 100.0%, robust accuracy {1 - broken / 4:.1%} [" in told
    assert read("run/queries.json")["optimise"].keys() == set(labels)
    capsys.readouterr()
    run("attack", "--resume", "--out", "run")
    run("attack", "--resume", "--all", "--out", "run", code=2)
    assert "--all is True, but False in the run in" in capsys.readouterr().err


def test_where_perturbations_are_made_small_one_attack_has_the_whole_budget():
    run("attack", "--budget", "45", "--problems", "2", "--out", "run")
    assert [one["label"] for one in read("run/config.json")["optimizers"]] == ["zo-lstm"]
    assert "ensemble" not in read("run/config.json")
