"""Worker processes: the same numbers as without them, and nothing lost when one of them, or all, are ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch

from valleys import FakeTask
from worker_tasks import ForgetfulTask, MishapTask, wait_for_parts
from zoracle.cli.main import main as cli
from zoracle.comparison.compare import compare
from zoracle.comparison.tune import Axis, tune
from zoracle.errors import BlackBoxError, CheckpointError, InputError, MuTooSmallWarning, WorkerError
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.jobs import Job, check_job, job
from zoracle.evaluation.shards import SHARDS, Shard, shard_size
from zoracle.evaluation.spec import RunSpec
from zoracle.evaluation.workers import Workers, started
from zoracle.optimizers.pretrained import Use, resolve
from zoracle.optimizers.registry import REGISTRY, make
from zoracle.storage.files import read_tensors
from zoracle.storage.fingerprint import optimizer_config
from zoracle.tasks import task

SIX = (0, 1, 2, 3, 4, 5)


def sgd(**settings):
    return make("zo-sgd", **{"num_directions": 4, "lr": 0.1, **settings})


def same(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        if name not in ("seconds", "lost"):
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), name


@pytest.fixture(scope="module")
def pool():
    with Workers(2, threads=2 * torch.get_num_threads()) as workers:
        yield workers


@pytest.mark.parametrize("name", ["zo-adam", "zo-lstm"])
def test_the_same_bits_as_in_one_process(pool, name):
    made = task("digits")
    optimizer = resolve(name, Use("digits"), num_directions=5).optimizer
    told, status = [], []
    settings = {"ids": made.ids("test")[:7], "seeds": (0, 4), "steps": 6, "dtype": "float64", "batch": 3}
    found = evaluate(
        optimizer,
        made,
        RunSpec(**settings),
        workers=pool,
        on_progress=lambda *x: told.append(x),
        on_status=status.append,
    )
    same(found, evaluate(optimizer, made, RunSpec(**settings)))
    assert told[0] == (0, 84)
    assert told[-1] == (84, 84)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(status) == len(told)
    last = status[-1]
    assert last[:2] == (found.ids.numel(), found.ids.numel())
    assert last.queries == int(found.spent.sum())
    assert last.successes == int(found.success_ever.sum())


@pytest.mark.parametrize(
    ("problems", "seeds", "workers", "expected"),
    [
        (100, 1, 1, 100),
        (100, 1, 2, 50),
        (100, 2, 2, 100),
        (100, 3, 2, 50),
        (101, 3, 4, 26),
        (100, 2, 8, 25),
        (3, 1, 8, 1),
    ],
)
def test_every_worker_has_as_much_to_do(problems, seeds, workers, expected):
    assert shard_size(problems, seeds, workers) == expected


def noted(folder: Path) -> int:
    return json.loads((folder / SHARDS).read_text())["problems"]


def test_a_run_goes_on_with_any_number_of_workers(tmp_path, pool):
    whole = evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, seeds=(0, 1, 2), steps=5))
    evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, seeds=(0,), steps=5), resume_dir=tmp_path / "one")
    assert noted(tmp_path / "one") == 6
    same(
        evaluate(
            sgd(), MishapTask(), RunSpec(ids=SIX, seeds=(0, 1, 2), steps=5), resume_dir=tmp_path / "one", workers=pool
        ),
        whole,
    )
    evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, seeds=(0,), steps=5), resume_dir=tmp_path / "two", workers=pool)
    assert noted(tmp_path / "two") == 3
    same(evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, seeds=(0, 1, 2), steps=5), resume_dir=tmp_path / "two"), whole)
    names = {f"seed-{seed}-shard-{j}.safetensors" for seed in (0, 1, 2) for j in (0, 1)}
    assert {path.name for path in (tmp_path / "two").iterdir()} == {*names, SHARDS}


def test_a_folder_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "seed-0-batch-0.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="an earlier version of zoracle; choose another folder"):
        evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, steps=5), resume_dir=tmp_path)
    (tmp_path / SHARDS).write_text('{"format": "zoracle-shards-9"}')
    with pytest.raises(CheckpointError, match="by another version"):
        evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, steps=5), resume_dir=tmp_path)


def test_shards_of_another_run_are_refused_before_a_worker_is_asked(tmp_path, pool):
    evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, steps=5, batch=3), resume_dir=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"another run \(optimizer differ\)"):
        evaluate(sgd(lr=0.2), MishapTask(), RunSpec(ids=SIX, seeds=(0, 1), steps=5), resume_dir=tmp_path, workers=pool)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_compare_and_tune_with_workers(pool):
    fast = [("zo-sgd", sgd())]
    one, two = (compare(MishapTask(), fast, RunSpec(seeds=2), workers=n).results["zo-sgd"] for n in (1, 2))
    same(one, two)
    grid = [Axis("lr", (0.1, 0.2))]
    found = [tune(MishapTask(), "zo-sgd", RunSpec(split="valid", steps=4), grid=grid, workers=w) for w in (None, pool)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("fails", BlackBoxError, "^the model raised ConnectionError: gone$"),
        ("breaks", RuntimeError, "(?s)failed in seed 0, 3 problems from id 3:.*ZeroDivisionError: a bug"),
        (
            "killed",
            WorkerError,
            "^a worker process was killed by SIGKILL in seed 0, 3 problems from id 3; what",
        ),
    ],
)
def test_a_mishap_in_one_worker_is_told_and_what_all_had_done_is_kept(tmp_path, pool, kind, error, message):
    trouble = tmp_path / "trouble"
    trouble.write_text(kind)
    spec, run = RunSpec(ids=SIX, steps=30), tmp_path / "run"
    made = MishapTask(trouble=str(trouble), at=4, pause=0.03)
    with pytest.raises(error, match=message):
        evaluate(sgd(), made, spec, resume_dir=run, workers=pool)
    names = {path.name for path in (tmp_path / "run").iterdir() if path.suffix not in (".seconds", ".calls", ".json")}
    assert names == {"seed-0-shard-0.part", "seed-0-shard-1.part"}
    kept = read_tensors(tmp_path / "run" / "seed-0-shard-0.part")[0]["trajectory.steps"]
    assert (kept > 0).all(), "the worker that was well kept its steps"
    trouble.unlink()
    found = evaluate(sgd(), made, spec, resume_dir=run)
    same(found._replace(queries=found.queries * 0), whole_run(30)._replace(queries=found.queries * 0))
    assert (found.spent[0, :3] == 30 * 5).all()


def whole_run(steps):
    return evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, steps=steps))


def test_warnings_come_through_once(tmp_path, pool):
    (tmp_path / "trouble").write_text("warns")
    made = MishapTask(trouble=str(tmp_path / "trouble"), at=1)
    with pytest.warns(MuTooSmallWarning, match="mu is small") as caught:
        evaluate(sgd(), made, RunSpec(ids=SIX, seeds=(0, 1), steps=5, batch=2), workers=pool)
    assert len(caught) == 1


def test_what_cannot_be_made_again_elsewhere_is_refused_before_a_query(pool):
    with pytest.raises(InputError, match=r"comes out different .* from its settings \(pause\); run it without"):
        evaluate(sgd(), ForgetfulTask(), RunSpec(ids=SIX), workers=pool)

    class Hidden(MishapTask):
        pass

    with pytest.raises(InputError, match=r"Hidden cannot be imported by another process"):
        evaluate(sgd(), Hidden(), RunSpec(ids=SIX), workers=pool)
    optimizer = sgd()
    optimizer.source = lambda key, q, like: torch.ones(like.shape[0], q, like.shape[1])
    with pytest.raises(InputError, match="custom source"):
        evaluate(optimizer, MishapTask(), RunSpec(ids=SIX), workers=pool)
    fake = FakeTask()
    with pytest.raises(InputError, match="no problem 99"):
        evaluate(sgd(), fake, RunSpec(ids=(20, 99)), workers=pool)
    assert fake.seen == 0


@pytest.mark.parametrize("number", [0, -1])
def test_numbers_of_workers(number):
    with pytest.raises(InputError, match=f"workers is {number}"), started(number):
        pass
    with pytest.raises(InputError, match=f"workers is {number}"):
        compare(MishapTask(), [("zo-sgd", sgd())], workers=number)
    with pytest.raises(InputError, match="at least 2"):
        Workers(1)
    with started(1) as none:
        assert none is None


@pytest.mark.parametrize("command", ["compare", "attack", "demo"])
def test_the_option_reaches_the_run(monkeypatch, tmp_path, command):
    class ToldError(Exception):
        pass

    def told(*_, workers, **__):
        raise ToldError(workers)

    monkeypatch.setattr("zoracle.cli.options.compare", told)
    with pytest.raises(ToldError, match=r"^3$"):
        cli([command, "--workers", "3", "--out", str(tmp_path / "run")])


def test_the_command_line_tunes_with_workers(tmp_path):
    for workers in ("1", "2"):
        out = str(tmp_path / f"{workers}.json")
        argv = ["--optimizers", "zo-sgd", "--task", "quadratic", "--problems", "4", "--steps", "3"]
        assert cli(["tune", *argv, "--workers", workers, "--out", out]) == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()


SCRIPT = """
import sys
from pathlib import Path
from worker_tasks import MishapTask
from zoracle.cli import main as command
from zoracle.evaluation.evaluate import RunSpec, evaluate
from zoracle.evaluation.workers import Workers
from zoracle.optimizers.registry import make

def go(**_):
    with Workers(2, threads=2) as pool:
        optimizer = make("zo-sgd", num_directions=4, lr=0.1)
        spec = RunSpec(ids=range(6), seeds=(0, 1, 2), steps=40)
        evaluate(optimizer, MishapTask(pause=0.02), spec, resume_dir=Path(sys.argv[1]), workers=pool)

if __name__ == "__main__":
    command.cli.main = go  # the command line's own way with Ctrl-C, around a slow run
    sys.exit(command.main([]))
"""


def begun(folder: Path) -> subprocess.Popen[str]:
    """A run of two workers in a process group of its own, each some steps into its first shard."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "run")],
        env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for_parts(folder / "run", 2)
    time.sleep(0.3)
    return process


def group_is_gone(process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "whole_group",
    [pytest.param(True, id="terminal"), pytest.param(False, id="parent only", marks=pytest.mark.slow)],
)
def test_ctrl_c_ends_all_workers_and_keeps_their_steps(tmp_path, whole_group):
    process = begun(tmp_path)
    send = os.killpg if whole_group else os.kill
    send(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == [
        "zoracle: interrupted: finished work is saved in --out; run the same command to continue"
    ], err
    assert group_is_gone(process)
    parts = sorted((tmp_path / "run").glob("*.part"))
    assert len(parts) == 2
    steps = [int(read_tensors(part)[0]["trajectory.steps"].min()) for part in parts]
    assert all(1 <= done < 40 for done in steps), steps
    settings = {"seeds": (0, 1, 2), "steps": 40}
    found = evaluate(sgd(), MishapTask(pause=0.02), RunSpec(ids=SIX, **settings), resume_dir=tmp_path / "run")
    same(found, evaluate(sgd(), MishapTask(), RunSpec(ids=SIX, **settings)))


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
    process = begun(tmp_path)
    process.kill()
    process.communicate()
    assert group_is_gone(process)
    assert len(list((tmp_path / "run").glob("*.part"))) == 2


def sent(optimizer, made):
    spec = RunSpec(ids=(0,), seeds=(0,), steps=1, stop_on_success=False)
    return job(optimizer, made, Shard(spec=spec, stem="nowhere"))


@pytest.mark.parametrize("name", REGISTRY)
def test_every_registered_optimizer_can_be_made_again(name):
    optimizer = make(name)
    message = sent(optimizer, MishapTask())
    check_job(message, optimizer, MishapTask())
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Job)
    assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(message), "plain data"
    assert optimizer_config(again.make_optimizer()) == optimizer_config(optimizer)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("digits", {}),
        ("digits", {"norm": "linf", "eps": 0.1}),
        ("digits", {"c": 0.5, "confidence": 0.1, "start_std": 0.0}),
        ("quadratic", {"dim": 7, "rotated": True}),
        ("binary-classification", {"batch_size": None, "seed": 3}),
        ("functions", {"function": "levy", "dim": 5, "shift": 0.5, "start_range": 0.1}),
        ("network", {"hidden": 3, "samples": 20, "batch_size": None, "seed": 3}),
    ],
)
def test_every_task_can_be_made_again(name, settings):
    made = task(name, **settings)
    check_job(sent(sgd(), made), sgd(), made)
