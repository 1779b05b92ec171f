"""Chaos of whole runs: `zoracle attack` in processes of its own, ended in every way, then resumed until it is done.

Each case is a run of the command line, by itself, over ``--workers``, or against a server that answers badly. The
target notes what it sees before it answers. What is checked: the images and tables of a run that nothing happened to,
every point that the target saw in exactly one count, errors of one line, no file left behind. Cases are drawn by their
number: ``make chaos`` runs a share of its 2,000 here, ``make test`` a few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from oip_server import Server
from zygote import Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9, no fork and no limit there")

CASES = int(os.environ.get("ZORACLE_CHAOS", "20")) // 10
#: One in so many cases asks a server, one shares the work among processes, and one ends with a report.
SERVERS, WORKERS, REPORTS = 10, 25, 10

TARGET = """
import os, signal, time
import numpy as np

FAULTS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "Ctrl-C": signal.SIGINT}

def classify(images):
    with open("seen", "ab") as file:  # four bytes a call
        file.write(len(images).to_bytes(4, "little"))
        call = file.tell() // 4
    try:
        with open(f"at-{call}") as file:
            how = file.read()
    except FileNotFoundError:
        how = ""
    if how in FAULTS:
        os.kill(os.getpid(), FAULTS[how])
        time.sleep(0.01)
    if how == "raises":
        raise ConnectionError("gone")
    if how == "exits":
        raise SystemExit(0)
    flat = np.asarray(images).reshape(len(images), -1)
    return np.stack([flat[:, ::2].mean(1), flat[:, 1::2].mean(1) + 0.003], 1)
"""

#: Attacks, and whether they take as many steps whatever a failed call cost.
ATTACKS = {
    "steps": (["--steps", "3", "--optimizers", "zo-sgd,zo-adam", "--num-directions", "5"], True),
    "ball": (["--threat", "l2", "--eps", "0.5", "--budget", "30", "--optimizers", "square,zo-sgd"], False),
    "ensemble": (["--threat", "linf", "--eps", "0.1", "--budget", "24", "--bits", "8"], False),
    "labels": (["--threat", "linf", "--eps", "0.1", "--budget", "24", "--labels-only"], False),
}
ENDS = ("kill", "terminate", "Ctrl-C")
FAILS = ("raises", "exits")


class House:
    """A folder with a target, images, and a process that starts runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "target.py").write_text(TARGET)
        images = np.round(np.random.default_rng(3).uniform(0.2, 0.8, (3, 1, 4, 4)) * 255).astype(np.uint8)
        np.savez(folder / "data.npz", images=images, labels=np.array([1, 1, 0]))
        self.zygote = Zygote(Path(os.devnull), 0.0, folder)
        self.survived: Counter[str] = Counter()
        self.usual = self.worst = 0  # bytes that runs took at most to which nothing happened, and all runs

    def run(
        self, *argv: str, size: int | None = None, wait: float | None = None, report: bool = False
    ) -> tuple[int, str]:
        """A command line to its end, or to a signal after a while; how it ended, and what it said of errors."""
        told = self.folder / "told"
        pid = self.zygote.start(*argv, told=told, size=size, report=report)
        if wait is not None:
            time.sleep(wait)
            os.kill(pid, signal.SIGKILL)
        code = self.zygote.wait()
        self.worst = max(self.worst, self.zygote.peak)
        return code, told.read_text()

    def seen(self) -> int:
        file = self.folder / "seen"
        return int(np.frombuffer(file.read_bytes(), "<u4").sum()) if file.exists() else 0

    def calls(self) -> int:
        file = self.folder / "seen"
        return file.stat().st_size // 4 if file.exists() else 0

    def clear(self) -> None:
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        for file in [self.folder / "seen", *self.folder.glob("at-*")]:
            file.unlink(missing_ok=True)

    def argv(self, attack: str, target: str, *more: str) -> list[str]:
        labels = [] if attack == "labels" else ["--outputs", "logits"]
        options = [*ATTACKS[attack][0], *labels, "--target", target, "--data", "data.npz", "--out", "run"]
        return ["attack", *options, *more]

    def reference(self, attack: str, target: str = "target.py:classify") -> Path:
        """The folder of a run that nothing happens to, with the number of its calls of the target."""
        kind = "server" if target.startswith("http") else "own"
        kept = self.folder / f"whole-{kind}-{attack}"
        if not kept.exists():
            self.clear()
            code, told = self.run(*self.argv(attack, target), report=True)
            assert code == 0, told
            self.usual = max(self.usual, self.zygote.peak)
            shutil.move(self.folder / "run", kept)
            (kept / "calls").write_text(str(self.calls()))
        self.clear()
        return kept


def one_line(code: int, told: str, how: str) -> None:
    assert code in (0, 2, 130, -signal.SIGKILL, -signal.SIGTERM), f"{how}: {code}: {told}"
    lines = [line for line in told.splitlines() if line]  # behind ^C there is an empty one
    assert all(line.startswith("zoracle: ") for line in lines), f"{how}: {told}"
    assert (told.count("zoracle: error: ") == 1) == (code == 2), f"{how}: {told}"


def total(counts: dict) -> int:
    return sum(sum(part.values()) if isinstance(part, dict) else part for part in counts.values())


def images(file: Path) -> np.ndarray:
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["adversarial"]


def as_if_nothing_had_been(house: House, whole: Path, same: str) -> dict:
    """Checks the images, and the table where "all" is the same; the counts are returned."""
    run = house.folder / "run"
    if same:
        for file in sorted(whole.glob("adversarial-*.npz")):
            assert (images(run / file.name) == images(file)).all(), file.name
    if same == "all":
        for file in sorted(whole.glob("adversarial-*.npz")):
            assert (run / file.name).read_bytes() == file.read_bytes(), file.name
        tables = [json.loads((folder / "table.json").read_text()) for folder in (run, whole)]
        for table in tables:
            for row in table:
                row.pop("seconds")
        assert tables[0] == tables[1]
    left = [file.name for file in run.rglob("*") if file.name.startswith(".") or file.suffix in (".tmp", ".calls")]
    assert not left, f"files are left behind: {left}"
    counts = json.loads((run / "queries.json").read_text())
    counts.pop("target", None)
    return counts


def by_itself(house: House, chance: random.Random, workers: int) -> None:
    """A run of the command line, through failures of the target, signals and a full disk."""
    attack = chance.choice(["steps", "ball"] if workers > 1 else sorted(ATTACKS))
    same_steps = ATTACKS[attack][1]
    whole = house.reference(attack)
    calls = int((whole / "calls").read_text())
    target = [*house.argv(attack, "target.py:classify", "--workers", str(workers))]
    exact, same = True, "all"
    for _ in range(chance.randint(1, 3)):
        how = chance.choice([*ENDS, *FAILS, "full disk"])
        if how == "full disk":
            size = chance.randint(0, 40_000)
        else:
            size = None
            (house.folder / f"at-{house.calls() + chance.randint(1, calls)}").write_text(how)
        resumes = (house.folder / "run" / "command.json").exists() and chance.random() < 0.7
        resumed = ["attack", "--resume", "--out", "run", "--batch", str(chance.randint(1, 3))]
        code, told = house.run(*(resumed if resumes else target), size=size)
        one_line(code, told, how)
        house.survived[f"command line, {how}"] += 1
        exact = exact and how in FAILS  # otherwise a call may have been noted and not made, or made in part
        if how in FAILS:  # what failed was paid for
            same = "images" if same and same_steps else ""
    for file in house.folder.glob("at-*"):
        file.unlink()
    code, told = house.run(*target, report=chance.random() < 1 / REPORTS)
    one_line(code, told, "the end")
    assert code == 0, told
    counts = as_if_nothing_had_been(house, whole, same)
    interrupted = total(counts.pop("interrupted"))
    counted, seen = total(counts), house.seen()
    assert counted <= seen <= counted + interrupted, (attack, counts, interrupted, seen)
    if exact:
        assert seen == counted + interrupted
    if workers > 1:
        house.survived["--workers"] += 1


def asking_a_server(house: House, chance: random.Random) -> None:
    """A run against a server over HTTP whose answers are late, broken, wrong or missing."""

    def model(array):
        flat = array.reshape(len(array), -1)
        return np.stack([flat[:, ::2].mean(1), flat[:, 1::2].mean(1) + 0.003], 1)

    faults = ("500", "503", "429", "reset", "truncated", "not-json", "shape", "empty", "short-tensor")
    told = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 1, 4, 4]}]}
    with Server(
        model, faults=0.2, kinds=faults, seed=chance.randint(0, 9999), binary=chance.random() < 0.5, **told
    ) as at:
        options = ["--timeout", "20", "--request-images", str(chance.choice([3, 64])), "--num-classes", "2"]
        at.faults, share = 0.0, at.faults
        whole = house.reference("steps", at.url)
        at.faults = share
        at.received.clear()
        argv = house.argv("steps", at.url, *options, "--attempts", str(chance.choice([2, 6])), "--concurrency", "2")
        kills = chance.randint(0, 1)
        for _ in range(kills):
            code, said = house.run(*argv, wait=chance.uniform(0, 0.4))
            one_line(code, said, "killed while a server is asked")
        for _ in range(60):
            code, said = house.run(*argv)
            one_line(code, said, "a server")
            house.survived["command line, a server with faults"] += 1
            if code == 0:
                break
        received, injected = sum(at.received), sum(at.injected.values())
    assert code == 0, said
    report = json.loads((house.folder / "run" / "queries.json").read_text())["target"]["attempts"]
    counts = as_if_nothing_had_been(house, whole, "images")
    interrupted = total(counts.pop("interrupted"))
    assert report["images_sent"] == report["images_answered"] + report["images_in_failed_attempts"]
    # Of a killed process the attempts in flight are in no count of the network; the run has them under interrupted.
    assert 0 <= received - report["images_sent"] <= kills * 2 * 64
    counted = total(counts)
    assert report["images_answered"] <= counted + interrupted <= received + kills * 64
    house.survived["faults of servers"] += injected


def test_chaos_of_runs(tmp_path, capsys, monkeypatch):
    pytest.importorskip("httpx", reason="httpx is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    house = House(tmp_path)
    began = time.perf_counter()
    try:
        for case in range(CASES):
            chance = random.Random(f"chaos {case}")
            try:
                if case % SERVERS == 1:
                    asking_a_server(house, chance)
                else:
                    by_itself(house, chance, workers=2 if case % WORKERS == WORKERS - 1 else 1)
            except AssertionError as error:
                error.add_note(f"in case {case}")
                raise
    finally:
        house.zygote.close()
    grown = (house.worst - house.usual) / 2**20
    assert grown < 300
    if "ZORACLE_CHAOS" in os.environ:
        with capsys.disabled():
            print(f"\n{CASES:,} runs of the command line in {time.perf_counter() - began:.0f} s,", end=" ")
            print(f"peak memory {max(0, grown):.0f} MB above that of runs to which nothing happens")
            for what, times in sorted(house.survived.items()):
                print(f"  {what}: {times:,}")
