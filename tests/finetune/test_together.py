"""Small tensors moved side by side, and directions summed by tables, give what one by one gives, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoracle.finetune import METHODS, ZerothOrder, engine
from zoracle.finetune.noise import BLOCK, Draw
from zoracle.finetune.pack import SMALL, packs
from zoracle.finetune.signs import Layout, Signs
from zoracle.finetune.sums import Sums
from zoracle.finetune.tensors import Slot

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SHAPES = [(9, 7), (7,), (2, 3, 4), (), (384,), (101,), (33,), (64, 48), (SMALL,), (SMALL + 1,)]
CPU = torch.device("cpu")


def parameters(dtype):
    g = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=g) * scale for shape in SHAPES for scale in (0.1, 3.0)]
    turned = torch.randn(6, 10, generator=g).T  # memory goes along the other dimension
    return [nn.Parameter(x.to(dtype)) for x in (*made, turned)]


def trained(method, dtype, directions, decay=0.0):
    """The weights at each probe and after each step."""
    params, seen = parameters(dtype), []
    settings = {} if method == "hizoo" else {"num_directions": directions}
    groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 2e-3}]
    optimizer = ZerothOrder(groups, method, lr=1e-3, mu=2**-7, seed=3, weight_decay=decay, **settings)

    def closure():
        seen.append(torch.cat([p.detach().reshape(-1) for p in params]))
        return sum((p.double() - 0.3).square().mean() for p in params)

    for _ in range(3):
        optimizer.step(closure)
    return optimizer, torch.stack([*seen, torch.cat([p.detach().reshape(-1) for p in params])])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("directions", "decay"), [(1, 0.0), (3, 0.1), (9, 0.0)])
def test_small_tensors_side_by_side_move_as_they_do_alone(monkeypatch, method, dtype, directions, decay):
    made = []
    monkeypatch.setattr(engine, "packs", lambda *given: made.append(packs(*given)) or made[-1])
    optimizer, together = trained(method, dtype, directions, decay)
    assert bool(made) == optimizer.method.signs
    monkeypatch.setattr(engine, "packs", lambda *_: [])
    assert torch.equal(together, trained(method, dtype, directions, decay)[1])


def test_weights_that_are_replaced_between_steps_are_the_ones_that_move():
    p = nn.Parameter(torch.zeros(40))
    optimizer = ZerothOrder([p], mu=2**-6)
    optimizer.step(lambda: 0.0)
    p.data = torch.ones(40)
    seen = []
    optimizer.step(lambda: float(seen.append(p.detach() - 1) is None))
    assert seen[0].abs().eq(2**-6).all()
    assert torch.equal(seen[1], -seen[0])
    assert torch.equal(p, torch.ones(40))


def test_packs_are_of_bounded_size_and_hold_each_small_tensor_once():
    sizes = [1, 40, 1000, SMALL, SMALL + 1, 5] * 40
    tensors = [Slot(i, nn.Parameter(torch.zeros(n)), {"lr": 1.0}, {}) for i, n in enumerate(sizes)]
    made = packs(tensors, [Layout(n, torch.float32, CPU) for n in sizes])
    assert sorted(slot.index for pack in made for slot in pack.slots) == [i for i, n in enumerate(sizes) if n <= SMALL]
    assert len(made) > 1
    assert all(pack.weights.numel() <= BLOCK // 2 for pack in made)
    assert len({pack.weights.data_ptr() for pack in made}) == 1, "they share their memory"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("size", "row"), [(7, 0), (2 * BLOCK + 77, 0), (30 * 50, 50), (60 * 5000, 5000), (9 * BLOCK, 640)]
)
def test_sums_by_tables_are_those_of_adding(dtype, size, row):
    about, signs = Layout(size, dtype, CPU, row), Signs()
    sums, wide = Sums(signs), torch.promote_types(dtype, torch.float32)
    scales = torch.randn(8, generator=torch.Generator().manual_seed(1)).tolist()
    for q in (1, 5, 8):
        keys = tuple(Draw(0, 0, j).key(0) for j in range(q))
        table = sums.table(scales[:q], wide, CPU)
        for first in range(0, size, BLOCK):
            count = min(BLOCK, size - first)
            expected = torch.zeros(count, dtype=wide)
            for key, scale in zip(keys, scales, strict=False):
                expected.add_(signs.twice(key, first, count, about), alpha=0.5 * scale)
            assert torch.equal(sums.block(keys, table, first, count, about), expected)
