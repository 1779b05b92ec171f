"""A process that has everything imported and runs a command line in a fork of its own for each line it reads.

Tests start it as a script and kill the forks: a fork begins in milliseconds, where a new process would import torch
first. What the target sees is appended to a file before it answers, one line of problems per call.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path


class Zygote:
    """Starts forks from a test."""

    def __init__(self, seen: Path, pause: float, folder: Path | None = None):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(seen), str(pause)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=folder,
        )  # fmt: skip

    def start(self, *argv: str, told: Path | None = None, size: int | None = None, report: bool = True) -> int:
        """Begin a command line; its process id.

        Args:
            argv: what is given to zoracle.
            told: a file for what it says of errors.
            size: bytes that a file may have at most, as on a full disk.
            report: whether there may be one; figures take longer than everything else.
        """
        asked = {"argv": argv, "told": told and str(told), "size": size, "report": report}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """How it ended: an exit code, or minus a signal; what memory it took at most is in ``peak``, bytes."""
        code, self.peak = map(int, self.process.stdout.readline().split())
        return code

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


def serve(seen: str, pause: float) -> None:
    from zoracle.cli.main import main
    from zoracle.objectives.attack import Attack

    inner = Attack.evaluate

    def evaluate(self, points, problem, *args, **settings):
        with open(seen, "ab", buffering=0) as file:
            file.write((" ".join(map(str, problem.tolist())) + "\n").encode())
        time.sleep(pause)
        return inner(self, points, problem, *args, **settings)

    Attack.evaluate = evaluate
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            asked = json.loads(line)
            out = os.open(os.devnull, os.O_WRONLY)
            os.dup2(out, 1)
            if asked["told"]:
                os.dup2(os.open(asked["told"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            if not asked["report"]:
                sys.modules["jinja2"] = None
            if asked["size"] is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (asked["size"], resource.RLIM_INFINITY))
            code = 1
            try:
                code = main(asked["argv"])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)
        _, status, used = os.wait4(pid, 0)
        print(os.waitstatus_to_exitcode(status), used.ru_maxrss * (1024 if sys.platform != "darwin" else 1), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]))
