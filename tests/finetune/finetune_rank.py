"""One process of a training over several: ``python finetune_rank.py SHARE FOLDER STEPS``, under torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from zoracle.finetune import Ranks, ZerothOrder


def main(share: str, folder: str, steps: str) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    g = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn((6, 4), generator=g))
    inputs, targets = torch.randn((24, 6), generator=g), torch.randn((24, 4), generator=g)
    own = slice(rank, None, size) if share == "data" else slice(None)
    log = Path(folder) / "run.jsonl"
    optimizer = ZerothOrder([weight], "mezo", lr=1e-2, num_directions=3, ledger=log, ranks=Ranks(share))
    while optimizer.steps < int(steps):
        optimizer.step(lambda: (inputs[own] @ weight - targets[own]).square().mean())
    torch.save({"weight": weight.detach(), "forwards": optimizer.forwards}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
