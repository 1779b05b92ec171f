"""Starts torchrun from tests, on loopback, with one agent or several that stand for machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def torchrun(command: Sequence[str], ranks: int, *, agents: int = 1, restarts: int = 0, cwd: Path | None = None) -> str:
    """Run a command line (``-m module ...`` or ``script.py ...``) in so many processes; what the first agent printed.

    Args:
        command: after torchrun's own options.
        ranks: processes of each agent.
        agents: how many; several meet at a port of loopback.
        restarts: how often torchrun starts all of them anew after one has died.
        cwd: working directory.
    """
    options = [f"--nproc-per-node={ranks}", f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    if agents == 1:
        options.append("--standalone")
    else:
        options += [f"--nnodes={agents}", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}"]
        options += ["--rdzv-id=test", "--local-addr=localhost"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    argv = [sys.executable, "-m", "torch.distributed.run", *options, *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen(argv, env=environment, cwd=cwd, **pipes) for _ in range(agents)]
    try:
        told = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, told, strict=True):
        assert process.returncode == 0, text[-4000:]
    return "".join(told)


def free_port() -> int:
    """A port that nobody listened to a moment ago."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])
