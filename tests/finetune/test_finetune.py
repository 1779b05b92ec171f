"""Forward-only training in place: exact restoration, each method against its equations, logs and replays."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch
from torch import nn

from zoracle.errors import CheckpointError, DamagedWarning, InputError
from zoracle.finetune import METHODS, ZerothOrder, noise, replay
from zoracle.finetune.engine import Engine
from zoracle.finetune.ledger import Entry, Ledger, read
from zoracle.finetune.noise import BLOCK, Draw, counters, normals, scramble, uniforms, words
from zoracle.finetune.signs import Layout, Signs, mirror, partners
from zoracle.finetune.tensors import nearest_power_of_two, power_of_two, slots, snap

HALF = [torch.float16, torch.bfloat16]
TYPES = [torch.float32, *HALF]
INTEGERS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}
RATES = {"mezo-adam": 1e-3, "fzoo": 1e-3, "learned": 1.0}


def parameters(dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter((torch.randn(shape, generator=g) * 0.1).to(dtype)) for shape in ((9, 7), (7,), (2, 3, 4), ())]


def quadratic(params):
    return lambda: sum((p.double() - 0.3).square().sum() for p in params)


def bits(tensor):
    return tensor.detach().reshape(-1).view(INTEGERS[tensor.dtype]).clone()


def made(params, method, **settings):
    return ZerothOrder(params, method, **{"lr": RATES.get(method, 1e-4), "mu": 2**-7, **settings})


# Noise


def test_words_are_balanced_and_uncorrelated_within_and_between_keys():
    n = 1 << 15
    draws = [((0, 0, 0), 0), ((1, 0, 0), 0), ((0, 1, 0), 0), ((0, 0, 1), 0), ((0, 0, 0), 1)]
    keys = [Draw(*draw).key(tensor) for draw, tensor in draws]
    signs = [((words(key, 0, n)[:, None] >> torch.arange(64)) & 1).float() * 2 - 1 for key in keys]
    for one in signs:
        assert one.mean(0).abs().max() < 4.5 / n**0.5
        assert (one.T @ one / n).fill_diagonal_(0).abs().max() < 5 / n**0.5
        assert (one[1:].T @ one[:-1] / n).abs().max() < 5 / n**0.5
    for other in signs[1:]:
        assert (signs[0] * other).mean(0).abs().max() < 4.5 / n**0.5


def signs(source, key, first, count, size, dtype=torch.float32, row=0):
    """Elements of a direction, 1 or -1."""
    return source.twice(key, first, count, Layout(size, dtype, torch.device("cpu"), row)) / 2


def test_blocks_are_the_same_in_any_order():
    size = 2 * BLOCK + 101
    cuts = [(first, min(BLOCK, size - first)) for first in range(0, size, BLOCK)]
    source = Signs()
    forth = {first: signs(source, 5, first, n, size) for first, n in cuts}
    for first, n in reversed(cuts):
        again = signs(Signs(), 5, first, n, size)
        assert torch.equal(again, forth[first])
        assert again.abs().eq(1).all()
    assert not torch.equal(forth[0], forth[BLOCK])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("rows", "n"), [(8, 9), (16, 72), (10, 64), (500, 640), (30, 5000), (1, 2)])
def test_balanced_signs_sum_to_nothing_in_rows_and_are_the_same_in_any_order(rows, n, dtype):
    size = rows * n
    cuts = [(first, min(BLOCK, size - first)) for first in range(0, size, BLOCK)]
    source = Signs()
    blocks = [signs(source, 5, *cut, size, dtype, n) for cut in cuts]
    for (first, count), block in list(zip(cuts, blocks, strict=True))[::-1]:
        assert torch.equal(signs(Signs(), 5, first, count, size, dtype, n), block)
    z = torch.cat(blocks).float().view(rows, n)
    assert z.abs().eq(1).all()
    # Rows that are cut, by an end of a block or because they are long, balance in parts.
    cut = size > BLOCK
    assert z.sum(1).abs().max() <= 2 or cut
    assert z.sum(1).square().mean() < 0.3 * n


def test_balanced_signs_are_uncorrelated_but_for_the_mean_of_a_row():
    n, rows, draws = 12, 4, 4000
    size = rows * n
    z = torch.stack([signs(Signs(), Draw(0, step, 0).key(0), 0, size, size, row=n) for step in range(draws)])
    found, expected = z.T @ z / draws, torch.eye(rows * n)
    for row in range(rows):
        expected[row * n : (row + 1) * n, row * n : (row + 1) * n] -= 1 / n
    expected.fill_diagonal_(1.0)
    assert z.mean(0).abs().max() < 4.5 / draws**0.5
    assert (found - expected).abs().max() < 5.5 / draws**0.5


def test_balanced_signs_of_blocks_of_a_tensor_are_different():
    n, size = 640, 5 * BLOCK
    source = Signs()
    blocks = [signs(source, 5, first, BLOCK, size, row=n) for first in range(0, size, BLOCK)]
    for one, other in pairwise(blocks):
        assert (one @ other / BLOCK).abs() < 5 / BLOCK**0.5
        assert (one[: BLOCK // 2] @ one[BLOCK // 2 :] / BLOCK * 2).abs() < 5 * (2 / BLOCK) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "row"), [(1, 0), (101, 0), (2 * BLOCK + 77, 0), (30 * 50, 50), (400 * 640, 640)])
def test_a_change_of_direction_is_the_difference_of_the_two(dtype, size, row):
    about, source = Layout(size, dtype, torch.device("cpu"), row), Signs()
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        one, other = (signs(source, key, first, count, size, dtype, row) for key in (5, 6))
        for back, side in product((1, -1), repeat=2):
            change = source.change((5, back), (6, side), first, count, about)
            assert torch.equal(change, side * other - back * one)
    assert torch.equal(signs(source, 6, first, count, size, dtype, row), other), "what is cached is the last block"
    if not row:
        columns = -(-count // noise.INTEGERS[dtype].bits)
        mask = words(7, 0, columns).to(noise.INTEGERS[dtype].dtype)
        moved = source.twice(5, first, count, about, mask).abs() / 2
        lines = torch.arange(noise.INTEGERS[dtype].bits, dtype=mask.dtype).unsqueeze(1)
        assert torch.equal(moved, ((mask << lines) < 0).reshape(-1)[:count].to(dtype))
        assert torch.equal(source.twice(5, first, count, about, mask), 2 * one * moved)
        assert torch.equal(source.change((5, 1), (6, -1), first, count, about, mask), -(one + other) * moved)


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_rows_that_are_mirrored_are_opposite_to_their_partners(n):
    for shift in range(2 * n):
        drawn = words(shift, 0, 3 * n).view(3, n)
        source, opposite = partners(n, shift)
        expected = drawn[:, source] ^ -opposite.long()
        mirror(drawn, shift)
        assert torch.equal(drawn, expected)


def test_words_are_the_same_with_signed_and_unsigned_numbers():
    for key in (5, -(2**63), 2**63 - 1):
        assert torch.equal(scramble(counters(1000, "cpu").add(key)), words(key, 0, 1000))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("method", ["mezo", "fzoo", "sparse-mezo", "learned"])
def test_weights_whose_spacing_is_above_the_radius_are_restored(dtype, method):
    weights = torch.linspace(-3, 3, 500) * (2.0**14 if dtype == torch.float32 else 1)
    params = [nn.Parameter(weights.to(dtype))]
    optimizer = ZerothOrder(params, method, num_directions=3)
    tensors = slots(optimizer.param_groups, optimizer.state)
    optimizer.method.begin(tensors)
    engine = Engine(tensors, optimizer.method)
    engine.prepare(0, 1)
    start = params[0].detach().clone()
    for probe in (*optimizer.method.probes, None):
        engine.go(probe, 0, 1)
    assert torch.equal(params[0], start)


def test_only_learned_balances_and_only_in_rows_that_are_contiguous():
    shapes = {(6, 10): 10, (10,): 0, (4, 3, 5, 5): 75, (): 0}
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    turned = nn.Parameter(torch.ones(6, 10).T)  # memory goes along the other dimension
    for method in METHODS:
        optimizer = made([*params, turned], method)
        rows = [optimizer.method.row(slot) for slot in slots(optimizer.param_groups, optimizer.state)]
        assert rows == ([*shapes.values(), 0] if method == "learned" else [0] * 5)


def test_draws_have_their_moments():
    z = torch.cat([normals(3, first, BLOCK, "cpu") for first in (0, BLOCK)]).double()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert (z**power).mean() == pytest.approx(moment, abs=0.06)
    u = uniforms(3, 0, BLOCK, "cpu")
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.005)


# Exactness


@pytest.mark.parametrize("dtype", HALF)
def test_moving_there_and_back_is_exact_for_every_number_of_half_precision(dtype):
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    every = every[every.isfinite() & (every.float().abs() < torch.finfo(dtype).max / 4)]
    for exponent in range(-14, 4):
        reach = 2.0**exponent
        weights = every.clone()
        snap(weights, reach)
        assert ((weights - every).float().abs() <= torch.finfo(dtype).eps * (every.float().abs() + reach)).all()
        again = weights.clone()
        snap(again, reach)
        for p in (reach, -reach):
            moved = weights.clone().add_(p)
            assert torch.equal(bits(moved.sub_(p)), bits(weights)), exponent
        assert torch.equal(bits(again), bits(weights)), exponent


@pytest.mark.parametrize("cycles", [40, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TYPES)
def test_cycles_restore_every_bit(dtype, method, cycles):
    params = parameters(dtype)
    optimizer = made(params, method)
    engine = Engine(slots(optimizer.param_groups, optimizer.state), optimizer.method)
    probes = optimizer.method.probes
    start = [bits(p) for p in params]
    moved = 0
    for step in range(cycles):
        engine.prepare(0, step)
        for probe in probes:
            engine.go(probe, 0, step)
            moved += any(not torch.equal(bits(p), s) for p, s in zip(params, start, strict=True))
        engine.go(None, 0, step)
        assert all(torch.equal(bits(p), s) for p, s in zip(params, start, strict=True)), step
    assert moved == cycles * sum(probe.side != 0 for probe in probes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TYPES)
def test_losses_that_are_not_finite_move_nothing(dtype, method):
    params = parameters(dtype)
    optimizer = made(params, method)
    for _ in range(3):
        optimizer.step(quadratic(params))
    before, state = [bits(p) for p in params], optimizer.state_dict()["state"]
    kept = {(i, name): value.clone() for i, own in state.items() if i != "zoracle" for name, value in own.items()}
    for bad in (math.nan, math.inf):
        assert not math.isfinite(optimizer.step(lambda bad=bad: bad))
    assert all(torch.equal(bits(p), s) for p, s in zip(params, before, strict=True))
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][name], value) for (i, name), value in kept.items() if name != "mask")
    assert optimizer.skipped == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_closure_that_raises_leaves_the_weights(method):
    params = parameters()
    optimizer = made(params, method)
    before, calls = [bits(p) for p in params], iter([1.0, None, None])

    def closure():
        value = next(calls)
        if value is None:
            raise RuntimeError("no loss")
        return value

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(closure)
    assert all(torch.equal(bits(p), s) for p, s in zip(params, before, strict=True))
    assert optimizer.steps == 0


def test_steps_smaller_than_the_spacing_add_up_in_half_precision():
    p = nn.Parameter(torch.full((4096,), 0.3, dtype=torch.bfloat16))
    optimizer = ZerothOrder([p], "mezo", lr=1.0, mu=2**-8)
    (slot,) = slots(optimizer.param_groups, optimizer.state)
    slope, walk = 2e-5, torch.zeros(4096)
    for _ in range(100):  # spacing at .3 is 2e-3; each step is 2e-5 to one side
        seen = []

        def closure(seen=seen):
            seen.append(p.detach().float().clone())
            return slope * optimizer.method.mu(slot) * (1 if len(seen) == 1 else -1)

        optimizer.step(closure)
        walk -= slope * (seen[0] - seen[1]).sign()
    moved = p.detach().float() - 0.30078125
    assert (moved @ walk / (walk @ walk)) == pytest.approx(1.0, abs=0.25)


# Methods against their equations


def told(params, optimizer, closure):
    """One step: the weights at each probe as one vector in float64, the losses, and the weights after it."""

    def vector():
        return torch.cat([p.detach().double().reshape(-1) for p in params])

    seen, losses = [], []

    def watched():
        seen.append(vector())
        losses.append(float(closure()))
        return losses[-1]

    before = vector()
    optimizer.step(watched)
    return before, seen, losses, vector()


@pytest.mark.parametrize("q", [1, 3])
def test_mezo_is_its_equation(q):
    params = parameters()
    optimizer = ZerothOrder(params, "mezo", lr=1e-3, mu=1e-3, num_directions=q, weight_decay=0.1)
    mu = 2.0**-10  # the power of two nearest to 1e-3
    for _ in range(3):
        before, seen, losses, after = told(params, optimizer, quadratic(params))
        step = torch.zeros_like(before)
        for j in range(q):
            z = (seen[2 * j] - before) / mu
            assert z.abs().sub(1).abs().max() < 1e-3
            assert (seen[2 * j + 1] - (before - mu * z)).abs().max() < 1e-8
            step += (losses[2 * j] - losses[2 * j + 1]) / (2 * mu) * z / q
        assert torch.allclose(after, before - 1e-3 * step - 1e-4 * before, atol=2e-7)


def test_momentum_and_adam_are_their_equations():
    for name, lr in (("mezo-momentum", 1e-3), ("mezo-adam", 1e-2)):
        params = parameters()
        optimizer = ZerothOrder(params, name, lr=lr)
        m = v = torch.zeros(sum(p.numel() for p in params), dtype=torch.float64)
        for t in range(1, 5):
            before, seen, losses, after = told(params, optimizer, quadratic(params))
            z = ((seen[0] - before) / 2.0**-10).round()
            g = (losses[0] - losses[1]) / 2.0**-9 * z
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            adam = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            step = m if name == "mezo-momentum" else adam
            assert torch.allclose(after, before - lr * step, atol=1e-6), name


def test_fzoo_is_its_equation():
    params = parameters()
    optimizer = ZerothOrder(params, "fzoo", lr=1e-3, num_directions=5)
    for _ in range(3):
        before, seen, losses, after = told(params, optimizer, quadratic(params))
        assert torch.equal(seen[0], before)
        here, ups = losses[0], torch.tensor(losses[1:], dtype=torch.float64)
        z = torch.stack([((w - before) / 2.0**-10).round() for w in seen[1:]])
        step = ((ups - here)[:, None] * z).mean(0) / ups.std()
        assert torch.allclose(after, before - 1e-3 * step, atol=2e-7)


def test_lozo_is_its_equation_along_directions_of_low_rank_that_share_a_factor():
    params = parameters()
    optimizer = ZerothOrder(params, "lozo", lr=1e-3, rank=2, interval=3)
    spans = []
    for _ in range(4):
        before, seen, losses, after = told(params, optimizer, quadratic(params))
        z = (seen[0] - before) / 2.0**-10
        slope = (losses[0] - losses[1]) / 2.0**-9
        matrix, vector, block, number = z.split([p.numel() for p in params])
        for wide in (matrix.view(9, 7), block.view(2, 12)):
            values = torch.linalg.svdvals(wide)
            assert values[1] > 1e-2
            assert values[2:].sum() < 1e-2
        spans.append(torch.linalg.svd(matrix.view(9, 7)).Vh[:2])
        step = torch.cat((matrix / 2, vector, block / 2, number)) * slope
        assert torch.allclose(after, before - 1e-3 * step, atol=3e-6)
    same = [torch.linalg.svdvals(a @ b.T).min() for a, b in pairwise(spans)]
    assert same[0] > 0.99
    assert same[1] > 0.99
    assert same[2] < 0.9, "V is drawn anew at step 3"


def test_hizoo_is_its_equation():
    params = parameters()
    scales = torch.cat([torch.full((p.numel(),), s) for p, s in zip(params, (1.0, 30.0, 5.0, 1.0), strict=True)])

    def closure():
        return (scales * torch.cat([p.reshape(-1) for p in params]).double().sub(0.2).square()).sum()

    optimizer = ZerothOrder(params, "hizoo", lr=1e-3, smoothing=0.02)
    mu, h = 2.0**-10, torch.ones(scales.numel(), dtype=torch.float64)
    for _ in range(4):
        before, seen, losses, after = told(params, optimizer, closure)
        assert torch.equal(seen[0], before)
        z = (seen[1] - before) / mu * h.sqrt()
        h = 0.98 * h + 0.02 * abs(losses[1] + losses[2] - 2 * losses[0]) / (2 * mu**2) * h * z * z
        step = (losses[1] - losses[2]) / (2 * mu) * z / h.sqrt()
        assert torch.allclose(after, before - 1e-3 * step, atol=2e-5)
    assert h.max() > 1.5


def test_sparse_mezo_is_its_equation():
    params = parameters()
    optimizer = ZerothOrder(params, "sparse-mezo", lr=1e-3, sparsity=0.6)
    limits = [p.detach().abs().reshape(-1).sort().values[max(1, round(0.4 * p.numel())) - 1] for p in params]
    limits = torch.cat([limit.double().expand(p.numel()) for limit, p in zip(limits, params, strict=True)])
    for _ in range(3):
        before, seen, losses, after = told(params, optimizer, quadratic(params))
        z = ((seen[0] - before) / 2.0**-10).round()
        assert torch.equal(z.abs() == 1, before.abs() <= limits)
        step = (losses[0] - losses[1]) / 2.0**-9 * z
        assert torch.allclose(after, before - 1e-3 * step, atol=2e-7)


@pytest.mark.parametrize("method", ["mezo", "lozo", "sparse-mezo"])
def test_the_mean_step_is_the_gradient_and_has_its_size(method):
    settings = {"sparsity": 0.0} if method == "sparse-mezo" else {}
    total, steps = torch.zeros(63), 600
    for step in range(steps):
        p = parameters()[0]
        gradient = 2 * (p.detach() - 0.3).reshape(-1)
        optimizer = ZerothOrder([p], method, lr=1e-3, seed=step, **settings)
        start = p.detach().clone()
        optimizer.step(quadratic([p]))
        total += (start - p.detach()).reshape(-1) / 1e-3 / steps
    assert (total @ gradient) / (gradient @ gradient) == pytest.approx(1.0, abs=0.15)
    assert (total - gradient).norm() / gradient.norm() < 0.45


# What moves


def test_only_what_requires_gradients_moves_and_tied_weights_once():
    frozen, tied = (nn.Linear(6, 6, bias=False, device="meta").to_empty(device="cpu") for _ in range(2))
    frozen.requires_grad_(False)
    for layer, value in ((frozen, 0.5), (tied, 0.25)):
        nn.init.constant_(layer.weight, value)
    quantised = nn.Parameter(torch.zeros(6, dtype=torch.int8), requires_grad=False)
    twin = nn.Parameter(tied.weight.detach())  # another parameter on the same memory
    optimizer = ZerothOrder([*frozen.parameters(), tied.weight, quantised, twin], "mezo", lr=1e-3, mu=2**-4)
    start, seen = tied.weight.detach().clone(), []

    def closure():
        seen.append((tied.weight - start).abs())
        return tied.weight.square().sum()

    before = frozen.weight.clone()
    optimizer.step(closure)
    assert all(torch.allclose(moved, torch.full_like(moved, 2**-4)) for moved in seen), "moved once, not twice"
    assert torch.equal(frozen.weight, before)
    assert tied.weight.grad is None


def test_tensors_of_several_blocks_and_orders_of_memory_move_everywhere():
    conv = nn.Parameter(torch.zeros(4, 3, 5, 5).to(memory_format=torch.channels_last))
    large = nn.Parameter(torch.zeros(2 * BLOCK + 77))
    optimizer = ZerothOrder([conv, large], "mezo", mu=2**-6)
    moved = []
    optimizer.step(lambda: float(moved.append((conv.detach().clone(), large.detach().clone())) is None))
    for one, other in zip(*moved, strict=True):
        assert one.abs().eq(2**-6).all()
        assert torch.equal(one, -other)
        assert one.mean().abs() < 4.5 * 2**-6 / one.numel() ** 0.5


def test_schedulers_and_groups_set_the_step_size():
    one, two = parameters()[:2]
    optimizer = ZerothOrder([{"params": [one]}, {"params": [two], "lr": 0.5}], "mezo", lr=0.25)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for factor in (1.0, 0.5):
        start, seen = [p.detach().clone() for p in (one, two)], []
        optimizer.step(lambda seen=seen: 0.01 if seen.append(0) or len(seen) == 1 else 0.0)
        schedule.step()
        slope = 0.01 / 2**-9
        for p, before, lr in zip((one, two), start, (0.25, 0.5), strict=True):
            assert torch.allclose((p - before).abs(), torch.full_like(p, factor * lr * slope), rtol=1e-4)


# Logs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TYPES)
def test_the_log_alone_gives_the_weights_bit_for_bit(tmp_path, dtype, method):
    log = tmp_path / "run.jsonl"
    params = parameters(dtype)
    optimizer = made(params, method, ledger=log, seed=3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=10)
    loss, step = quadratic(params), iter(range(10**6))
    for _ in range(12):
        optimizer.step(lambda: math.nan if next(step) % 7 == 3 else loss())
        schedule.step()
    again = parameters(dtype)
    rebuilt = replay(log, again)
    assert all(torch.equal(bits(p), bits(r)) for p, r in zip(params, again, strict=True))
    assert rebuilt.steps == 12
    # Both continue alike.
    for one, its in ((optimizer, params), (rebuilt, again)):
        one.param_groups[0]["lr"] = 1e-4
        one.step(quadratic(its))
    assert all(torch.equal(bits(p), bits(r)) for p, r in zip(params, again, strict=True))
    assert log.stat().st_size < 12 * 200 + 700


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path):
    def run(log, steps, params):
        optimizer = made(params, "mezo-adam", ledger=log)
        while optimizer.steps < steps:
            optimizer.step(quadratic(params))
        return optimizer

    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    one, two, three = parameters(), parameters(), parameters()
    run(whole, 9, one)
    run(cut, 5, two)
    with cut.open("a") as file:
        file.write('{"losses":[1.2')  # the process died while it wrote
    with pytest.warns(DamagedWarning, match="the last 14 bytes of .* are part of a step"):
        resumed = run(cut, 9, three)
    assert resumed.forwards == 8
    assert all(torch.equal(p, q) for p, q in zip(one, three, strict=True))
    assert cut.read_text() == whole.read_text()


def test_a_log_of_something_else_is_refused(tmp_path):
    log = tmp_path / "run.jsonl"
    params = parameters()
    made(params, "mezo", ledger=log).step(quadratic(params))
    with pytest.raises(CheckpointError, match="its seed is 0, expected 1"):
        made(parameters(), "mezo", ledger=log, seed=1)
    with pytest.raises(CheckpointError, match="start"):
        replay(log, parameters(seed=5))
    with pytest.raises(CheckpointError, match="not the log of a training"):
        replay(_written(tmp_path / "other.jsonl", "{}\n"), parameters())
    short = Ledger(tmp_path / "short.jsonl", {k: v for k, v in read(log)[0].items() if k not in ("format", "version")})
    short.append(Entry((1.0,), ((1e-3, 0.0),)))
    with pytest.raises(CheckpointError, match="has 1 losses"):
        replay(short.path, parameters())


def test_a_damaged_log_is_never_used(tmp_path):
    log = tmp_path / "run.jsonl"
    params = parameters()
    optimizer = made(params, "mezo", ledger=log)
    for _ in range(3):
        optimizer.step(quadratic(params))
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole) - 1, 7)]
    for content in [*damaged, lines[0] + lines[2], b"".join([*lines, lines[3]]), lines[0] + b"[1]\n"]:
        log.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged|not the log|version"):
            replay(log, parameters())
    log.unlink()
    log.symlink_to(_written(tmp_path / "theirs", "mine"))
    with pytest.raises(InputError):
        optimizer.step(quadratic(params))
    assert (tmp_path / "theirs").read_text() == "mine"


def _written(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dicts_carry_everything(tmp_path, dtype, method):
    params, others = parameters(dtype), parameters(dtype)
    optimizer = made(params, method)
    for _ in range(3):
        optimizer.step(quadratic(params))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    fresh = made(others, method)
    with torch.no_grad():
        for p, q in zip(others, params, strict=True):
            p.copy_(q)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        optimizer.step(quadratic(params))
        fresh.step(quadratic(others))
    assert all(torch.equal(bits(p), bits(q)) for p, q in zip(params, others, strict=True))
    with pytest.raises(CheckpointError, match="expected"):
        made(parameters(dtype), method, seed=1).load_state_dict(optimizer.state_dict())


# Errors


def test_errors_say_what_to_do():
    params = parameters()
    with pytest.raises(InputError, match="did you mean mezo"):
        ZerothOrder(params, "mezzo")
    with pytest.raises(InputError, match="it has lr, mu, num_directions"):
        ZerothOrder(params, "mezo", radius=1)
    with pytest.raises(InputError, match="mu"):
        ZerothOrder(params, "mezo", mu=-1.0)
    with pytest.raises(InputError, match="no parameter requires gradients"):
        ZerothOrder([nn.Parameter(torch.ones(2), requires_grad=False)])
    with pytest.raises(InputError, match="complex64"):
        ZerothOrder([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(InputError, match="gaps or repeats"):
        ZerothOrder([nn.Parameter(torch.ones(4, 4)[:, ::2])])
    optimizer = ZerothOrder(params)
    with pytest.raises(InputError, match="expected one number"):
        optimizer.step(lambda: torch.ones(2))
    with pytest.raises(InputError, match="expected a closure"):
        optimizer.step(None)
    with pytest.raises(InputError, match="create a new one"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def test_powers_of_two():
    assert [power_of_two(x) for x in (0.25, 0.26, 1.0, 3.0)] == [0.25, 0.5, 1.0, 4.0]
    assert [nearest_power_of_two(x) for x in (1e-3, 0.25, 3.0)] == [2.0**-10, 0.25, 4.0]
