"""Attacks killed at any moment: the same bytes in the end, no image twice, and no query that is in no count."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from zoracle.cli.main import main
from zoracle.storage.files import read_tensors
from zygote import Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9 and no fork there")

BUDGET = 85  # the look at the start, and four steps of 21
LABELS = ("zo-sgd", "zo-signsgd")
FAR = ["--threat", "l2", "--eps", "1.0", "--budget", str(BUDGET)]  # some succeed, at different times


def argv(out, *threat):
    options = ["--optimizers", ",".join(LABELS), "--problems", "7", "--batch", "3", "--seeds", "2"]
    return ["attack", *options, *threat, "--out", str(out)]


def calls(seen: Path) -> list[list[int]]:
    text = seen.read_text() if seen.exists() else ""
    return [[int(i) for i in line.split()] for line in text.splitlines()]


def read(path):
    return json.loads(path.read_text())


def without(rows, *names):
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def the_same(out: Path, plain: Path) -> None:
    for name in ("curves.npz", "config.json", *(f"adversarial-{label}.npz" for label in LABELS)):
        assert (out / name).read_bytes() == (plain / name).read_bytes(), name
    assert without(read(out / "table.json"), "seconds") == without(read(plain / "table.json"), "seconds")
    counts = {name: part for name, part in read(out / "queries.json").items() if name != "interrupted"}
    assert counts == {name: part for name, part in read(plain / "queries.json").items() if name != "interrupted"}


def pieces(out: Path) -> dict[str, torch.Tensor]:
    """Points of each problem over all optimizers and seeds: counted, and lost."""
    counted = lost = torch.zeros(7, dtype=torch.int64)
    files = sorted(out.glob("pieces/*/*.safetensors"))
    assert len(files) == 4
    for file in files:
        tensors, _ = read_tensors(file)
        counted = counted + tensors["queries"][0, :, -1] + tensors["monitored"][0]
        counted = counted + (tensors["success_ever"] & ~tensors["misclassified"])[0]  # queried once more at the end
        lost = lost + tensors["lost"][0]
    return {"counted": counted, "lost": lost}


def killed_again_and_again(tmp_path: Path, kills: int, threat: list[str], longest: float, pause: float) -> None:
    assert main(argv(tmp_path / "plain", *threat)) == 0
    out, seen = tmp_path / "killed", tmp_path / "seen"
    chance = random.Random(kills)
    zygote = Zygote(seen, pause)
    landed = 0
    try:
        for _ in range(kills):
            before = len(calls(seen))
            resume = (out / "command.json").exists()
            pid = zygote.start(
                *(["attack", "--resume", "--out", str(out), "--batch", "3"] if resume else argv(out, *threat))
            )
            deadline = time.monotonic() + 60
            while len(calls(seen)) == before and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, longest))
            os.kill(pid, signal.SIGKILL)
            landed += zygote.wait() == -signal.SIGKILL
    finally:
        zygote.close()
    assert landed == kills, "the run was over before it was killed; or the test would show less than it says"
    assert not (out / "table.json").exists()
    zygote = Zygote(seen, 0.0)
    try:
        zygote.start("attack", "--resume", "--out", str(out), "--batch", "3")
        assert zygote.wait() == 0
    finally:
        zygote.close()
    the_same(out, tmp_path / "plain")

    found = pieces(out)
    shown = torch.tensor([row for call in calls(seen) for row in call]).bincount(minlength=7)
    assert (found["counted"] <= shown).all(), "nothing is counted that the target has not seen"
    assert (shown <= found["counted"] + found["lost"]).all(), "nothing that the target has seen is uncounted"
    call = max(len(rows) for rows in calls(seen))
    assert int(found["lost"].sum()) <= kills * call, "a kill costs the call in flight at most"
    assert sum(read(out / "queries.json")["interrupted"].values()) == int(found["lost"].sum())


def test_killed_in_a_ball(tmp_path):
    killed_again_and_again(tmp_path, 4, FAR, longest=0.02, pause=0.004)


@pytest.mark.slow
@pytest.mark.parametrize("threat", [["--threat", "l2", "--eps", "1.0", "--budget", "631"], ["--steps", "60"]])
def test_killed_thirty_times(tmp_path, threat):
    killed_again_and_again(tmp_path, 30, threat, longest=0.06, pause=0.004)


class Broken:
    """A target that raises for good at some call."""

    def __init__(self, monkeypatch, at: int):
        from zoracle.errors import BlackBoxError
        from zoracle.objectives.attack import Attack

        inner = Attack.evaluate
        self.calls, self.at, self.points = 0, at, 0

        def evaluate(attack, points, *args, **settings):
            self.calls += 1
            self.points += len(points)
            if self.calls == self.at:
                raise BlackBoxError("the server answered 503 five times")
            return inner(attack, points, *args, **settings)

        monkeypatch.setattr(Attack, "evaluate", evaluate)


def test_a_target_that_fails_for_good_is_one_line_and_what_was_paid_is_kept(tmp_path, monkeypatch, capsys):
    threat = ["--steps", "5"]
    assert main(argv(tmp_path / "plain", *threat)) == 0
    target = Broken(monkeypatch, at=9)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # no report, which asks for predictions as well
    capsys.readouterr()
    out = tmp_path / "run"
    assert main(argv(out, *threat)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("zoracle: error: the server answered 503 five times; all answers are saved: continue with ")
    assert main(["attack", "--resume", "--out", str(out)]) == 0
    for label in LABELS:
        with (
            np.load(out / f"adversarial-{label}.npz") as one,
            np.load(tmp_path / "plain" / f"adversarial-{label}.npz") as other,
        ):
            assert (one["adversarial"] == other["adversarial"]).all()
            failed = int((one["queries"] - other["queries"]).sum())
            assert failed == (3 * 21 if label == LABELS[0] else 0), "the failed call was paid for"
    counts = read(out / "queries.json")
    noted = sum(sum(counts[name].values()) for name in ("optimise", "monitor", "verify"))
    assert noted == target.points
    assert sum(counts["interrupted"].values()) == 0
