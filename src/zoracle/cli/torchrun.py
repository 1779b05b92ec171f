"""The command line under torchrun: one process runs the command and the others share its work, or all run it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from importlib import import_module

import torch
import torch.distributed as dist

from zoracle.evaluation.pool import Pool
from zoracle.evaluation.torchrun import Ranks
from zoracle.group import Group, join


def shared(run: Callable[[Pool], int], module: str | None = None) -> int:
    """Run a command in the first process, with all of them as its pool; the exit code of this one.

    Args:
        run: the command, told the pool.
        module: where the command is; what it imports is loaded before there is work, not after.
    """
    ranks = Ranks()
    if ranks.rank:
        try:
            if module is not None:
                import_module(module)
            return ranks.serve()
        except KeyboardInterrupt:
            return 130
    code = 1
    try:
        code = run(ranks)
    finally:
        ranks.end(code)
    return code


def together(run: Callable[[Group], int]) -> int:
    """Run a command in all processes, of which only the first one says anything; the exit code of this one.

    Args:
        run: the command, told the processes.
    """
    join()  # what is added up is small, and lies on the CPU
    group = Group()
    try:
        with ExitStack() as quiet:
            if not group.leads:
                nowhere = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))  # the stack does
                quiet.enter_context(redirect_stdout(nowhere))
                quiet.enter_context(redirect_stderr(nowhere))
            code = run(group)
            if code == 0:
                group.sum(torch.zeros(1))  # nobody leaves before the files are there
        return code
    finally:
        dist.destroy_process_group()
