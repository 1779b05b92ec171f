"""An attack under torchrun with one process and with two, on a target that takes its time: is work shared in full?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Options
from benchmarks.report import Figure, Report, figure, ratio

ABOUT = "an attack on a target that takes 10 ms an image, by one process of torchrun and by two with one thread each"

#: It waits instead of computing, so that other work on the machine changes little; each call is noted.
TARGET = """
import os, time
from pathlib import Path
import torch
from zoracle.tasks import task

digits = task("digits")
train = digits.pictures(digits.ids("train"))
centres = torch.stack([train.images[train.labels == label].flatten(1).mean(0) for label in range(10)])

def model(x):
    begun = time.time()
    time.sleep(0.01 * len(x))
    with (Path(__file__).parent / f"calls-{os.getpid()}").open("a") as file:
        file.write(f"{begun} {time.time()} {len(x)}\\n")
    return -torch.cdist(torch.as_tensor(x, dtype=torch.float32).flatten(1), centres)
"""


class Run(NamedTuple):
    """One attack."""

    attacking: float
    """Seconds from the first call of the target to the end of the last."""
    points: int
    """That the target was asked for."""


def attack(processes: int, images: int, threat: list[str]) -> Run:
    """Run an attack on the digits in so many processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "target.py").write_text(TARGET)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", "zoracle", "attack", "--target", f"{folder / 'target.py'}:model", "--data", "digits"]
        command += ["--problems", str(images), *threat, "--no-verify", "--out", str(folder / "run")]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
        lines = [line.split() for path in folder.glob("calls-*") for line in path.read_text().splitlines()]
    begun, ended = min(float(line[0]) for line in lines), max(float(line[1]) for line in lines)
    return Run(ended - begun, sum(int(line[2]) for line in lines))


def run(options: Options) -> Report:
    """Attacks with a fixed number of queries, and attacks that end at a success."""
    images, budget = (4, 10) if options.quick else (96, 5 * options.steps)
    kinds = {
        "zo-sgd, all of the budget": ["--optimizers", "zo-sgd", "--budget", str(budget), "--num-directions", "4"],
        "the ensemble, until a success": ["--threat", "linf", "--eps", "0.12", "--budget", str(budget)],
    }
    figures: list[Figure] = []
    for label, threat in kinds.items():
        runs: dict[int, list[Run]] = {1: [], 2: []}
        for _ in range(options.repeats):
            for processes, found in runs.items():
                found.append(attack(processes, images, threat))
        if len({one.points for found in runs.values() for one in found}) != 1:
            raise RuntimeError("one process and two asked for different numbers of points")
        one, two = ([each.attacking for each in found] for found in runs.values())
        for processes, found in runs.items():
            rate = [each.points / each.attacking for each in found]
            figures.append(figure(f"{label}, {processes} process{'es' * (processes > 1)}", "points per second", rate))
        figures.append(ratio(f"{label}: 2 processes over 1", one, two, at_least=1.9))
    settings = {"images": images, "budget": budget, "repeats": options.repeats}
    return Report("ranks", ABOUT, figures, settings, ["from the first call of the target to the last"])
