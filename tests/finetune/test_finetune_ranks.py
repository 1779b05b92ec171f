"""A training over several processes of torch.distributed, started by torchrun on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("finetune_rank.py")
STEPS = 8


def trained(folder, ranks, share):
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [str(SCRIPT), share, str(folder), str(STEPS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
    for one in results[1:]:
        assert torch.equal(one["weight"], results[0]["weight"]), "all processes have the same weights"
    lines = (folder / "run.jsonl").read_text().splitlines()
    losses = torch.tensor([json.loads(line)["losses"] for line in lines[1:]], dtype=torch.float64)
    return results, losses


@pytest.mark.slow
@pytest.mark.parametrize("share", ["data", "directions"])
def test_two_processes_give_what_one_gives(tmp_path, share):
    (one,), alone = trained(tmp_path / "one", 1, share)
    both, shared = trained(tmp_path / "two", 2, share)
    assert alone.shape == shared.shape == (STEPS, 6)
    assert torch.allclose(alone, shared, rtol=1e-5)
    assert torch.allclose(one["weight"], both[0]["weight"], atol=1e-5)
    if share == "directions":
        assert torch.equal(alone, shared)
        assert [process["forwards"] for process in both] == [3 * STEPS, 3 * STEPS]
