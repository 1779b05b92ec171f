"""Evaluations shared by processes of torchrun: the files of one process, whatever their number and their luck."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from torchrun import torchrun
from zoracle.cli.main import main as cli
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.pool import perform
from zoracle.evaluation.shards import cell_size, cut
from zoracle.evaluation.spec import RunSpec
from zoracle.optimizers.base import with_directions
from zoracle.optimizers.registry import make
from zoracle.results.result import Result
from zoracle.tasks import task

#: A network whose answers depend on the batch in their last bits; who calls it is noted, and one process may end.
TARGET = """
import os, signal
from pathlib import Path
import torch

HERE = Path(__file__).parent
g = torch.Generator().manual_seed(0)
layers = [torch.randn(shape, generator=g) / 4 for shape in ((48, 96), (96, 33), (33, 3))]

def net(x):
    x = x.flatten(1)
    for weight in layers[:-1]:
        x = (x @ weight).relu()
    return x @ layers[-1]

calls = 0

def model(x):
    global calls
    calls += 1
    with (HERE / "seen").open("a") as file:
        file.write(f"{os.getpid()} {len(x)}\\n")
    trouble = HERE / "trouble"
    if calls == 40 and os.environ.get("RANK") == "1" and trouble.is_file():
        trouble.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return net(torch.as_tensor(x, dtype=torch.float32))
"""


@pytest.fixture
def attack(tmp_path):
    """A target, images of it, and the options of an attack."""
    (tmp_path / "target.py").write_text(TARGET)
    images = np.random.default_rng(0).uniform(0.3, 0.7, (12, 3, 4, 4)).astype(np.float32)
    namespace = {"__file__": str(tmp_path / "target.py")}
    exec(TARGET, namespace)  # the text above
    labels = namespace["net"](torch.from_numpy(images)).argmax(1).numpy()
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    target, data = f"{tmp_path / 'target.py'}:model", str(tmp_path / "images.npz")
    return ["attack", "--target", target, "--data", data, "--threat", "linf", "--eps", "0.02", "--budget", "90"]


def seen(folder: Path) -> set[str]:
    """Processes that called the target."""
    return {line.split()[0] for line in (folder / "seen").read_text().splitlines()}


def same_files(one: Path, other: Path) -> None:
    """Equal to the byte, but for the seconds that a run took."""
    names = {path.name for path in one.iterdir() if path.is_file()}
    assert names == {path.name for path in other.iterdir() if path.is_file()}
    assert {"queries.json", "curves.npz", "report.html"} <= names
    for name in names - {"table.json", "table.md", "report.html", "versions.json", "command.json"}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert table(one) == table(other)


def table(folder: Path) -> list[dict[str, object]]:
    return [row | {"seconds": 0} for row in json.loads((folder / "table.json").read_text())]


def test_two_processes_leave_the_files_of_one(tmp_path, attack, capsys):
    assert cli([*attack, "--out", str(tmp_path / "one")]) == 0
    told = capsys.readouterr().out
    before = seen(tmp_path)
    out = torchrun(["-m", "zoracle", *attack, "--out", str(tmp_path / "two")], 2)
    same_files(tmp_path / "one", tmp_path / "two")
    assert len(seen(tmp_path) - before) == 2, "both called the target"
    lines = [line for line in told.splitlines() if "images broken" in line]
    assert lines
    assert [line for line in out.splitlines() if "images broken" in line] == lines, "told once, by the first process"


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_run_goes_on(tmp_path, attack):
    assert cli([*attack, "--out", str(tmp_path / "one")]) == 0
    (tmp_path / "trouble").touch()
    torchrun(["-m", "zoracle", *attack, "--out", str(tmp_path / "two")], 2, restarts=1)
    assert not (tmp_path / "trouble").exists(), "it was killed"
    counts = [json.loads((tmp_path / name / "queries.json").read_text()) for name in ("one", "two")]
    lost = [sum(one.pop("interrupted").values()) for one in counts]
    assert counts[0] == counts[1]
    # Of the process that was killed the call in flight, and of the other one at most as much.
    assert lost[0] == 0 < lost[1] <= 2 * 3 * 40
    (tmp_path / "two" / "queries.json").write_bytes((tmp_path / "one" / "queries.json").read_bytes())
    same_files(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_machines_and_a_resumption_by_another_number(tmp_path, attack):
    assert cli([*attack, "--out", str(tmp_path / "one")]) == 0
    whole, part = tmp_path / "two", tmp_path / "three"
    torchrun(["-m", "zoracle", *attack, "--out", str(whole)], 1, agents=2)
    same_files(tmp_path / "one", whole)
    assert cli([*attack, "--out", str(part)]) == 0
    done = sorted((part / "pieces").glob("0[12]*"))
    assert len(done) == 2
    for folder in done:  # as if it had been interrupted after the first attack
        for path in folder.iterdir():
            path.unlink()
    torchrun(["-m", "zoracle", "attack", "--resume", "--out", str(part)], 3)
    same_files(tmp_path / "one", part)


@pytest.mark.slow
def test_an_error_anywhere_is_told_once_and_ends_all(tmp_path, attack):
    text = (tmp_path / "target.py").read_text()
    (tmp_path / "target.py").write_text(text.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise OSError('gone')"))
    (tmp_path / "trouble").touch()
    with pytest.raises(AssertionError) as told:
        torchrun(["-m", "zoracle", *attack, "--out", str(tmp_path / "two")], 2)
    lines = [line for line in str(told.value).splitlines() if "the model raised OSError: gone" in line]
    assert len(lines) == 1
    assert lines[0].startswith("zoracle: error: ")


class InTurn:
    """A pool that makes the jobs one after another in this process."""

    def __init__(self, parts: int, folder: Path):
        self.number, self.parts, self.folder = 1, parts, folder

    def scratch(self) -> Path:
        return self.folder

    def run(self, jobs, on_counts=lambda counts: None):
        for job in reversed(jobs):  # in whatever order
            perform(job, job.make_task(), on_counts)


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("name", ["square", "zo-sgd"])
def test_shards_do_not_change_a_bit(tmp_path, name, batch):
    made = task("digits", norm="linf", eps=0.1)
    spec = RunSpec(problems=24, budget=25, batch=batch, check_start=True)
    optimizer = with_directions(make(name), 4)
    one = evaluate(optimizer, made, spec)
    for parts in (3, 20):
        other = evaluate(optimizer, made, spec, workers=InTurn(parts, tmp_path / f"{parts}"))
        for field, a, b in zip(Result._fields, one, other, strict=True):
            assert field == "seconds" or torch.equal(a.nan_to_num(), b.nan_to_num()), field
    assert len(list((tmp_path / "20").glob("*.safetensors"))) == (8 if batch is None else 3)


@pytest.mark.parametrize(
    ("problems", "batch", "remote", "cell", "sizes"),
    [
        (100, None, False, 13, {1: 100, 2: 52, 8: 13, 64: 13}),
        (1000, None, False, 32, {1: 1000, 8: 128, 64: 32}),
        (2, None, False, 2, {1: 2, 8: 2}),
        (100, 10, False, None, {1: 20, 8: 20, 64: 20}),
        (100, 70, False, None, {1: 70, 8: 70}),
        (20, 3, False, None, {1: 9, 8: 9}),
        (7, 3, False, None, {1: 9, 8: 9}),
        (10_000, 16, False, None, {1: 256, 64: 256}),
        (100, None, True, None, {1: 100}),
    ],
)
def test_shards_are_made_of_whole_cells_or_batches(problems, batch, remote, cell, sizes):
    spec = RunSpec(ids=tuple(range(problems)), steps=1, batch=batch, stop_on_success=False)
    assert cell_size(spec, remote=remote) == cell
    for parts, size in sizes.items():
        (shards,) = cut(spec, None, parts, cell)
        assert [len(shard.ids) for shard in shards][:-1] == [size] * (len(shards) - 1)
        assert sum(len(shard.ids) for shard in shards) == problems
        assert len(shards[0].ids) == min(size, problems)
