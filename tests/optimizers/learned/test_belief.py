"""The belief of the gradient, against what is known of it."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Bowls
from zoracle.directions import gaussian, orthogonal_to, orthonormalise
from zoracle.errors import InputError
from zoracle.keyed import normal
from zoracle.optimizers.learned import belief
from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.types import Key, Purpose

D, Q, G = 60, 12, 3
ROWS = torch.arange(2)
YES = torch.tensor([True, True])


def asked(key: Key, x: torch.Tensor) -> torch.Tensor:
    """G orthogonal directions, and others orthogonal to them, of length sqrt(d)."""
    guesses = orthonormalise(normal(key, (G, D), 7, x.dtype), lambda: normal(key, (G, D), 8, x.dtype))
    others = orthogonal_to(guesses, gaussian(key, Q - G, x), torch.ones_like(x))
    return torch.cat((guesses * math.sqrt(D), others), dim=1)


class Told(torch.nn.Module):
    """Gates that say what they are told."""

    def __init__(self, forgotten: float, gain: float) -> None:
        super().__init__()
        self.said = torch.tensor([[forgotten, gain]] * 2, dtype=torch.float64)

    def forward(self, scalars: torch.Tensor) -> torch.Tensor:
        return self.said


def one(state, gradient, key, net, known=None, started=YES):
    x = torch.zeros_like(gradient)
    u = asked(key, x)
    along = torch.bmm(u, gradient.unsqueeze(2)).squeeze(2) / math.sqrt(D)
    known = torch.ones_like(along, dtype=torch.bool) if known is None else known
    along = torch.where(known, along, 0.0)
    against, memories = x.new_zeros((2, 4)), x.new_zeros((2, 3, D))
    seen = belief.measured(along, known, u, state, G, against, memories, started)
    return seen, belief.corrected(net, seen.scalars, seen, along, u, state, G)


def gradients() -> torch.Tensor:
    return normal(Key.start(5, ROWS), (D,), 1, torch.float64) * torch.tensor([[1.0], [1e-6]], dtype=torch.float64)


def test_of_a_gradient_that_does_not_change_it_becomes_exact_and_a_mean_of_estimates_does_not() -> None:
    gradient, key = gradients(), Key.start(0, ROWS)
    state, mean = belief.start(gradient), torch.zeros_like(gradient)
    for _ in range(200):
        u = asked(key, gradient)
        mean += 0.05 * (torch.bmm(torch.bmm(u, gradient.unsqueeze(2)).mT, u).squeeze(1) / D - mean)
        _, state = one(state, gradient, key, Told(0.0, 1.0))
        key = key.next()
    assert bool(((state.mean - gradient).norm(dim=1) < 1e-4 * gradient.norm(dim=1)).all())
    assert bool(((mean - gradient).norm(dim=1) > 0.1 * gradient.norm(dim=1)).all())


def test_nothing_is_lost_where_it_did_not_ask_but_what_is_forgotten() -> None:
    gradient, key = gradients(), Key.start(1, ROWS)
    before = belief.start(gradient)._replace(mean=normal(key, (D,), 2, torch.float64))
    u = asked(key, gradient)
    basis = torch.linalg.qr(u.mT).Q
    _, after = one(before, gradient, key, Told(0.2, 1.0))

    def outside(v: torch.Tensor) -> torch.Tensor:
        return v - (basis @ (basis.mT @ v.unsqueeze(2))).squeeze(2)

    torch.testing.assert_close(outside(after.mean), 0.8 * outside(before.mean))
    # Exact along the guesses, which are orthonormal.
    guesses = u[:, :G] / math.sqrt(D)
    torch.testing.assert_close(guesses @ after.mean.unsqueeze(2), guesses @ gradient.unsqueeze(2))


def test_the_energy_is_the_squared_norm_in_the_mean_over_draws() -> None:
    gradient, found = gradients(), []
    for seed in range(600):
        seen, _ = one(belief.start(gradient), gradient, Key.start(seed, ROWS), Told(0.0, 1.0), started=~YES)
        found.append(seen.energy)
    energies = torch.stack(found) / gradient.square().sum(1)
    error = energies.std(0) / math.sqrt(len(found))
    assert bool(((energies.mean(0) - 1).abs() < 4 * error).all())
    assert bool((error < 0.03).all())


def test_it_is_told_how_well_it_foresaw_the_slopes() -> None:
    gradient, key = gradients(), Key.start(3, ROWS)
    for mean, agreed in ((gradient, 1.0), (-3 * gradient, -1.0), (torch.zeros_like(gradient), 0.0)):
        seen, _ = one(belief.start(gradient)._replace(mean=mean), gradient, key, Told(0.0, 1.0))
        torch.testing.assert_close(seen.scalars[:, 1], torch.full((2,), agreed, dtype=torch.float64))
    first, _ = one(belief.start(gradient), gradient, key, Told(0.0, 1.0), started=~YES)
    assert not first.scalars[:, :-1].any()
    assert first.scalars[0, -1] == pytest.approx(0.3 * math.log(Q / D))


def test_slopes_that_are_not_known_leave_it_as_it_was() -> None:
    gradient, key = gradients(), Key.start(4, ROWS)
    before = belief.start(gradient)._replace(mean=normal(key, (D,), 2, torch.float64))
    nothing = torch.zeros((2, Q), dtype=torch.bool)
    _, after = one(before, gradient, key, Told(0.1, 1.0), known=nothing)
    torch.testing.assert_close(after.mean, 0.9 * before.mean)
    some = nothing.clone()
    some[:, G:] = True
    _, after = one(before, gradient, key, Told(0.0, 1.0), known=some)
    guesses = asked(key, gradient)[:, :G]
    torch.testing.assert_close(guesses @ after.mean.unsqueeze(2), guesses @ before.mean.unsqueeze(2))


def test_features_are_small_where_estimates_disagree() -> None:
    draws = normal(Key.start(0, torch.arange(400)), (D,), 3, torch.float64).unsqueeze(1)
    agreeing = torch.arange(D) < D // 2
    estimates = torch.where(agreeing, 1 + 0.1 * draws, draws)
    memories, square = torch.zeros((1, 2, D), dtype=torch.float64), torch.zeros((1, D), dtype=torch.float64)
    rates = torch.tensor([0.12, 0.03], dtype=torch.float64)[None, :, None]
    for estimate in estimates:
        memories = torch.lerp(memories, estimate.unsqueeze(1), rates)
        square = torch.lerp(square, estimate.square(), 0.05)
    steps = torch.tensor([len(estimates)])
    found = belief.features(square, memories, square, steps, 0.05)[:, 1:]
    assert bool(((found[0, :, agreeing] - 1).abs() < 0.1).all())
    size = found[0, :, ~agreeing].square().mean(1).sqrt() * torch.tensor(belief.SIZES)
    assert bool(((size > 0.3) & (size < 1)).all())
    # A mean of squares that has seen one step only is as good as that step.
    first = belief.features(square, estimates[:1].expand(1, 2, D), 0.05 * estimates[0].square(), steps * 0 + 1, 0.05)
    assert float((first[:, 1:].abs() - 1).abs().median()) < 0.01


def test_it_is_a_setting_of_the_optimizer_and_costs_no_query() -> None:
    assert not any(name.startswith("trust") for name in GuidedLSTM(adaptive=True).state_dict())
    with pytest.raises(InputError, match="believing is true and adaptive is false; expected both, or believing = fal"):
        GuidedLSTM(believing=True)
    for d in (1, 2, 3, 40):
        optimizer, counted = GuidedLSTM(num_directions=6, adaptive=True, believing=True, mu=1e-5), Oracle(Bowls(2, d))
        state, trajectory = rollout(optimizer, counted, optimizer.init(torch.ones(2, d, dtype=torch.float64)), 12)
        assert counted.counts[Purpose.OPTIMISE].tolist() == [12 * 7] * 2
        assert bool((trajectory.final_loss < trajectory.loss[0]).all())
        assert bool(state.belief[0].mean.isfinite().all())
