"""Fine-tune a network by forward passes in several processes, which exchange nothing but losses.

``torchrun --standalone --nproc-per-node 2 --max-restarts 3 finetune_under_torchrun.py``: each process evaluates its own
part of every batch. One that dies is started again together with the others, and they go on from the ledger in the
working directory. Without torchrun the script is a training in one process.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn

from zoracle.finetune import Ranks, ZerothOrder, join
from zoracle.tasks import task

STEPS, BATCH = 300, 256


def main() -> None:
    """Train, and tell how it went."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started this process
        join()
    ranks = Ranks("data")
    digits = task("digits")
    train, valid = (digits.pictures(digits.ids(split)) for split in ("train", "valid"))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # all processes begin with the same weights
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    optimizer = ZerothOrder(model.parameters(), "learned", horizon=STEPS, ledger="ledger.jsonl", ranks=ranks)
    while optimizer.steps < STEPS:
        batch = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(optimizer.steps))[:BATCH]
        own = batch[ranks.rank :: ranks.size]
        optimizer.step(lambda: nn.functional.cross_entropy(model(train.images[own]), train.labels[own]))  # noqa: B023
    if ranks.leads:
        right = (model(valid.images).argmax(1) == valid.labels).float().mean()
        print(f"{ranks.size} processes: {right:.0%} of the validation images are classified correctly")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
