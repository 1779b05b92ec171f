"""The networks that the controller is trained on are drawn by number, from generators of their own."""

from __future__ import annotations

import pytest
import torch

from zoracle.finetune.nets import problem


@pytest.mark.parametrize("number", range(4))
def test_networks_are_keyed_and_leave_the_global_generator(number):
    with torch.random.fork_rng(devices=[]):
        made = []
        for state in (1, 2):
            torch.manual_seed(state)
            before = torch.random.get_rng_state()
            made.append(problem("valid", number, 0))
            assert torch.equal(before, torch.random.get_rng_state())
    one, other = made
    assert all(torch.equal(p, q) for p, q in zip(one.module.parameters(), other.module.parameters(), strict=True))
    assert torch.equal(one.inputs, other.inputs)
    assert all(p.isfinite().all() for p in one.module.parameters())
    third = problem("train", number, 0)
    assert not torch.equal(next(one.module.parameters()).flatten()[:8], next(third.module.parameters()).flatten()[:8])
