"""The spectrum of query directions: an orthonormal transform, at any size, and a covariance as it says."""

from __future__ import annotations

import math

import pytest
import torch

from zoracle.errors import InputError
from zoracle.objectives.attack import ImageAttack
from zoracle.optimizers.base import with_settings
from zoracle.optimizers.learned import spectrum
from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.tasks import task

SHAPES = [(1, 8, 8), (3, 6, 10), (1, 28, 28)]


def network() -> spectrum.Spectrum:
    return spectrum.Spectrum(3).requires_grad_(False)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transform_is_orthonormal_and_undone_by_its_inverse(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, 5, math.prod(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = spectrum.transform(x, shape)
    torch.testing.assert_close(y @ y.transpose(1, 2), x @ x.transpose(1, 2))
    torch.testing.assert_close(spectrum.transform(y, shape, inverse=True), x)


def test_the_transform_of_a_wave_is_one_frequency() -> None:
    column = torch.cos(math.pi * (torch.arange(10, dtype=torch.float64) + 0.5) * 4 / 10)
    x = column.expand(3, 6, 10).reshape(1, 1, -1)  # grey, constant from row to row, four half periods across
    y = spectrum.transform(x, (3, 6, 10)).view(3, 6, 10)
    assert y.abs().flatten().topk(2).values[1] < 1e-12
    assert abs(float(y[0, 0, 4])) == pytest.approx(float(x.norm()))


@pytest.mark.parametrize("shape", SHAPES)
def test_standard_deviations_fall_with_the_frequency_before_training(shape: tuple[int, int, int]) -> None:
    d = math.prod(shape)
    std = network()(torch.zeros(2, 2, d), torch.tensor([0.0, 0.7]), shape)
    torch.testing.assert_close(std.square().mean(1), torch.ones(2))
    image = std.view(2, *shape)
    assert (image[:, 0, 0, 0] > 3 * image[:, 0, -1, -1]).all()


def test_estimates_of_a_run_move_it() -> None:
    wave = torch.zeros(1, 1, 64)
    wave[0, 0, 36] = 1.0  # an energy in the middle of the spectrum
    memory = spectrum.transform(wave, (1, 8, 8), inverse=True).expand(1, 2, 64)
    net = network()
    net.straight[spectrum.PLACE] = 1.0
    told = net(memory, torch.zeros(1), (1, 8, 8)) / net(torch.zeros(1, 2, 64), torch.zeros(1), (1, 8, 8))
    assert int(told.argmax()) in (27, 28, 29, 35, 36, 37, 43, 44, 45)


def test_directions_are_orthonormal_smooth_and_alike_alone_and_in_a_batch() -> None:
    digits = task("digits")
    ids = digits.ids("train")[:3]
    objective = digits.objective(ids, dtype=torch.float64)
    assert isinstance(objective, ImageAttack)
    optimizer = GuidedLSTM(num_directions=10, spectral=True)
    rows = torch.arange(3)
    x0 = torch.zeros(3, 64, dtype=torch.float64)
    start = optimizer.init(x0, problem=rows, space=objective.space(rows, x0))
    u = optimizer.ask(start).directions / 8
    torch.testing.assert_close(u @ u.transpose(1, 2), torch.eye(10).double().expand(3, 10, 10), atol=1e-4, rtol=0)
    waves = spectrum.transform(u[:, 4:], (1, 8, 8)).square().mean(1).view(3, 8, 8)
    assert (waves[:, :4, :4].sum((1, 2)) > waves[:, 4:, 4:].sum((1, 2))).all()
    alone = optimizer.init(x0[:1], problem=rows[1:2], space=objective.space(rows[1:2], x0[:1]))
    assert torch.equal(optimizer.ask(alone).points[0], optimizer.ask(start).points[1])


def test_points_that_are_no_images_have_none() -> None:
    plain, spectral = GuidedLSTM(num_directions=6), GuidedLSTM(num_directions=6, spectral=True)
    spectral.load_state_dict(plain.state_dict(), strict=False)
    x0 = torch.ones(2, 40)
    assert torch.equal(plain.ask(plain.init(x0)).points, spectral.ask(spectral.init(x0)).points)


def test_gradients_of_the_meta_loss_reach_it() -> None:
    optimizer = GuidedLSTM(num_directions=10, spectral=True).requires_grad_(True)
    digits = task("digits")
    rows = torch.arange(2)
    objective = digits.objective(digits.ids("train")[:2], dtype=torch.float64)
    x0 = torch.zeros(2, 64, dtype=torch.float64)
    queries = optimizer.ask(optimizer.init(x0, space=objective.space(rows, x0)))
    smooth = torch.ones(2, 64, dtype=torch.float64)
    loss = optimizer.auxiliary(queries, smooth)
    assert loss is not None
    loss.sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in (optimizer.spectrum.straight, optimizer.spectrum.outer))


def along_a_run(optimizer: GuidedLSTM, steps: int = 3):
    """The state after some steps on two digits."""
    digits = task("digits")
    rows = torch.arange(2)
    objective = digits.objective(digits.ids("train")[:2])
    x0 = digits.start(digits.ids("train")[:2], seed=0)
    state = optimizer.init(x0, problem=rows, space=objective.space(rows, x0), horizon=20)
    for _ in range(steps):
        queries = optimizer.ask(state)
        flat = queries.points.flatten(0, 1)
        loss = objective.evaluate(flat, rows.repeat_interleave(queries.points.shape[1])).loss
        state = optimizer.tell(state, queries, loss.view(2, -1))
    return state


def test_each_covariance_leaves_out_what_its_name_says() -> None:
    optimizer = GuidedLSTM(num_directions=10, spectral=True)
    plain = GuidedLSTM(num_directions=10)
    plain.load_state_dict({k: v for k, v in optimizer.state_dict().items() if not k.startswith("spectrum")})
    state = along_a_run(optimizer)
    assert not torch.equal(state.std, torch.ones_like(state.std))
    drawn = {name: with_settings(optimizer, covariance=name).ask(state).directions for name in spectrum.COVARIANCES}
    assert torch.equal(drawn["learned"], optimizer.ask(state).directions)
    assert torch.equal(drawn["pixel"], plain.ask(state).directions)
    level = state._replace(std=torch.ones_like(state.std))
    assert torch.equal(drawn["isotropic"], plain.ask(level).directions)
    assert torch.equal(drawn["spectrum"], optimizer.ask(level).directions)
    # The prior is the spectrum before the first estimate, and a run does not move it.
    unmeasured = level._replace(
        memories=torch.zeros_like(state.memories), key=state.key._replace(step=torch.zeros_like(state.key.step))
    )
    begun, prior = optimizer.waves(unmeasured), with_settings(optimizer, covariance="prior").waves(state)
    assert begun is not None
    assert prior is not None
    assert torch.equal(prior.std, begun.std)
    assert len({float(u.sum()) for u in drawn.values()}) == len(spectrum.COVARIANCES)


def test_a_fixed_spectrum_falls_as_one_over_the_frequency() -> None:
    std = spectrum.fixed(torch.zeros(2, 1, 64), (1, 8, 8)).view(2, 8, 8)
    torch.testing.assert_close(std.square().mean((1, 2)), torch.ones(2))
    torch.testing.assert_close(std[:, 0, 0] / std[:, 0, 6], torch.full((2,), 4.0))  # three cycles per image
    # Weights without a learned spectrum may have it as well.
    optimizer = GuidedLSTM(num_directions=10, covariance="fixed")
    waves = optimizer.waves(along_a_run(optimizer))
    assert waves is not None
    torch.testing.assert_close(waves.std, std.flatten(1))


@pytest.mark.parametrize("covariance", spectrum.LEARNED)
def test_weights_without_a_spectrum_refuse_a_learned_one(covariance: str) -> None:
    with pytest.raises(InputError, match="no spectrum"):
        GuidedLSTM(covariance=covariance)
