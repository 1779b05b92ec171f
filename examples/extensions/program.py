"""A kind of target of one's own in one file: a program that reads images and writes scores, as lines of JSON.

``zoracle attack --target examples/extensions/program.py:Program --data digits --out runs/program``
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from torch import Tensor

from zoracle.blackboxes import BlackBox
from zoracle.errors import BlackBoxError

#: The program: it scores ten classes by how bright ten stripes of the pixels are. Yours is any other.
PROGRAM = (
    sys.executable,
    "-c",
    "import json, sys\n"
    "for line in sys.stdin:\n"
    "    images = json.loads(line)\n"
    "    print(json.dumps([[sum(p[k::10]) for k in range(10)] for p in images]), flush=True)",
)


class Program(BlackBox):
    """A program that stays running: a line of JSON in, images of N rows of pixels; a line out, N rows of logits."""

    outputs = "logits"

    def __init__(self) -> None:
        self._process = subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _call(self, inputs: Tensor) -> Tensor:
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answered is not None
        try:
            asked.write(json.dumps(inputs.flatten(1).tolist()) + "\n")
            asked.flush()
            return torch.tensor(json.loads(answered.readline())).to(inputs)
        except (OSError, ValueError) as error:
            raise BlackBoxError(f"the program answered nothing that can be read: {error}") from error

    def close(self) -> None:
        """End the program."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
