"""What every black box has to do."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from zoracle.blackboxes.base import BlackBox
from zoracle.testing.require import global_state_left_alone, require


def check_black_box(box: BlackBox, inputs: Tensor, *, rtol: float = 1e-5) -> None:
    """Run the battery that every black box has to pass. It is called with these inputs alone, a few times each.

    Args:
        box: the model.
        inputs: (N, ...) at least two of them, as an attack would give them.
        rtol: by how much, in parts of it, an output may differ alone and in a batch.

    Raises:
        AssertionError: a check failed, in a sentence.
    """
    n = len(inputs)
    with global_state_left_alone(), torch.no_grad():
        box.check(tuple(inputs.shape[1:]))
        given = inputs.clone()
        outputs = box(given)
        require(torch.equal(given, inputs), "a call changed the inputs that it was given")
        require(outputs.ndim == 2 and outputs.shape[0] == n, f"outputs have shape {tuple(outputs.shape)}")
        require(outputs.shape[1] >= 2, f"outputs are of {outputs.shape[1]} class; expected at least 2")
        require(outputs.dtype == inputs.dtype, f"outputs of inputs of {inputs.dtype} are {outputs.dtype}")
        require(not outputs.requires_grad, "outputs keep a graph")
        require(torch.allclose(box(inputs), outputs, rtol=rtol, atol=rtol), "asked twice, it answers differently")
        for row in (0, n - 1):
            alone = box(inputs[row : row + 1])
            same = torch.allclose(alone, outputs[row : row + 1], rtol=rtol, atol=rtol)
            require(same, f"input {row} has other outputs alone than in a batch")
    report = box.report()
    require(json.loads(json.dumps(report)) == report, f"report {report} is not made of JSON values")
