"""A training over several processes of torch.distributed, started by torchrun on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import finetune_rank
from torchrun import torchrun

SCRIPT = Path(finetune_rank.__file__)
STEPS, PROBES = 8, 6


def trained(folder, ranks, share, *, agents=1, trouble=False):
    """What each process tells at the end, and the losses of each step."""
    folder.mkdir()
    if trouble:
        (folder / "trouble").touch()
    if ranks * agents == 1:
        finetune_rank.main(share, str(folder), str(STEPS))
    else:
        torchrun([str(SCRIPT), share, str(folder), str(STEPS)], ranks, agents=agents, restarts=int(trouble))
        assert not (folder / "trouble").exists()
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks * agents)]
    for one in results[1:]:
        assert torch.equal(one["weight"], results[0]["weight"]), "all processes have the same weights"
    lines = (folder / "run.jsonl").read_text().splitlines()
    losses = torch.tensor([json.loads(line)["losses"] for line in lines[1:]], dtype=torch.float64)
    assert losses.shape == (STEPS, PROBES)
    return results, losses


def test_a_killed_process_costs_one_step_and_the_losses_are_those_of_one_process(tmp_path):
    _, alone = trained(tmp_path / "one", 1, "directions")
    both, shared = trained(tmp_path / "two", 2, "directions", trouble=True)
    assert torch.equal(shared, alone), "each process evaluated other directions of the same batch"
    # Each began anew behind the steps of the ledger, and the step at work was the only one made twice.
    assert [process["resumed"] for process in both] == [STEPS // 2, STEPS // 2]
    for rank in (0, 1):
        calls = (tmp_path / "two" / f"calls-{rank}").read_text().split()
        each = [calls.count(str(step)) for step in range(STEPS)]
        again = each.pop(STEPS // 2)
        assert each == [PROBES // 2] * (STEPS - 1)
        assert PROBES // 2 < again <= PROBES


@pytest.mark.slow
def test_the_example_runs_under_torchrun(tmp_path):
    example = Path(__file__).parents[2] / "examples" / "finetune_under_torchrun.py"
    out = torchrun([str(example)], 2, cwd=tmp_path)
    (line,) = [line for line in out.splitlines() if "validation images" in line]
    assert line.startswith("2 processes: ")
    assert int(line.split("%")[0].split()[-1]) >= 85


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "agents"), [(2, 1), (4, 1), (1, 2)], ids=["2", "4", "two machines"])
@pytest.mark.parametrize("share", ["data", "directions"])
def test_any_number_of_processes_gives_what_one_gives(tmp_path, share, ranks, agents):
    (one,), alone = trained(tmp_path / "one", 1, share)
    all_of_them, shared = trained(tmp_path / "more", ranks, share, agents=agents)
    number = ranks * agents
    assert torch.allclose(alone, shared, rtol=1e-5)
    assert torch.allclose(one["weight"], all_of_them[0]["weight"], atol=1e-5)
    forwards = [process["forwards"] for process in all_of_them]
    rows = [process["rows"] for process in all_of_them]
    if share == "directions":
        assert torch.equal(alone, shared)
        assert forwards == [len(range(rank, PROBES, number)) * STEPS for rank in range(number)]
    else:
        assert forwards == [PROBES * STEPS] * number
    assert sum(rows) == one["rows"], "the work is divided, not done twice"
    # A loss a probe, of 8 bytes, whatever the number of weights.
    assert {process["bytes"] for process in all_of_them} == {8 * PROBES * STEPS}
    assert one["bytes"] == 0
