"""One process of a training over several: ``python finetune_rank.py SHARE FOLDER STEPS``, alone or under torchrun.

Rank 1 ends itself in the middle of a step where FOLDER holds a file ``trouble``, once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from zoracle.finetune import Ranks, ZerothOrder, join

ROWS = 24


def main(share: str, folder: str, steps: str) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        join()
    ranks, here = Ranks(share), Path(folder)
    g = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn((6, 4), generator=g))
    inputs, targets = torch.randn((ROWS, 6), generator=g), torch.randn((ROWS, 4), generator=g)
    own = slice(ranks.rank, None, ranks.size) if share == "data" else slice(None)
    optimizer = ZerothOrder([weight], "mezo", lr=1e-2, num_directions=3, ledger=here / "run.jsonl", ranks=ranks)
    begun = ranks.exchanged
    rows = 0

    def loss() -> torch.Tensor:
        nonlocal rows
        with (here / f"calls-{ranks.rank}").open("a") as file:
            file.write(f"{optimizer.steps}\n")
        trouble = here / "trouble"
        if ranks.rank == 1 and optimizer.steps == int(steps) // 2 and trouble.is_file():
            trouble.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        rows += inputs[own].shape[0]
        return (inputs[own] @ weight - targets[own]).square().mean()

    done = optimizer.steps
    while optimizer.steps < int(steps):
        optimizer.step(loss)
    told = {
        "weight": weight.detach(),
        "forwards": optimizer.forwards,
        "rows": rows,
        "resumed": done,
        "bytes": ranks.exchanged - begun,
    }
    torch.save(told, here / f"{ranks.rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
