"""The networks that the controller is trained on are drawn by number, from generators of their own."""

from __future__ import annotations

import pytest
import torch

from zoracle.finetune.controller import SIZE
from zoracle.finetune.languages import Adapted
from zoracle.finetune.meta import runs
from zoracle.finetune.nets import KINDS, problem


@pytest.mark.parametrize("number", range(KINDS))
def test_networks_are_keyed_and_leave_the_global_generator(number):
    with torch.random.fork_rng(devices=[]):
        made = []
        for state in (1, 2):
            torch.manual_seed(state)
            before = torch.random.get_rng_state()
            made.append(problem("valid", number, 0, number))
            assert torch.equal(before, torch.random.get_rng_state())
    one, other = made
    assert all(torch.equal(p, q) for p, q in zip(one.module.parameters(), other.module.parameters(), strict=True))
    assert torch.equal(one.inputs, other.inputs)
    assert all(p.isfinite().all() for p in one.module.parameters())
    assert all(p.requires_grad for p in one.module.parameters()) == (number != 5)
    third = problem("train", number, 0, number)
    assert not torch.equal(next(one.module.parameters()).flatten()[:8], next(third.module.parameters()).flatten()[:8])


def test_of_an_adapted_language_model_only_adapters_and_a_head_move():
    adapted = problem("train", 5, 0)
    moving = {name for name, p in adapted.module.named_parameters() if p.requires_grad}
    assert moving
    assert all(name.endswith(("qkv.down", "qkv.up")) or name.startswith("head") for name in moving)
    layers = [layer for layer in adapted.module.modules() if isinstance(layer, Adapted)]
    assert layers
    for layer in layers:
        x = torch.randn((3, layer.whole.in_features), generator=torch.Generator().manual_seed(0))
        assert torch.equal(layer(x), layer.whole(x))  # an adapter begins at zero
        assert layer.down.abs().min() > 0


def test_only_what_requires_gradients_moves_in_a_run():
    net = problem("valid", 5, 0)
    before = [p.clone() for p in net.module.parameters()]
    score = runs(torch.zeros((2, SIZE), dtype=torch.float64), net, 3, 4, 0)
    assert score.shape == (2,)
    assert score.abs().max() < 0.5
    assert all(torch.equal(p, q) for p, q in zip(before, net.module.parameters(), strict=True))
