"""The spectral search: its basis, its patterns, what it believes, and that it finds what it is after."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from problems import Fenced
from zoracle.errors import InputError
from zoracle.metatrain import spectral as training
from zoracle.metatrain.spectral_patterns import chances, families
from zoracle.metatrain.spectral_training import enlarged, parse, train
from zoracle.metatrain.spectral_validation import Ball, table, validate
from zoracle.optimizers.learned.spectral import basis, patterns
from zoracle.optimizers.learned.spectral.arrays import clip, either, overlap, same
from zoracle.optimizers.learned.spectral.belief import Belief
from zoracle.optimizers.learned.spectral.nets import Prior
from zoracle.optimizers.learned.spectral.odds import Odds
from zoracle.optimizers.learned.spectral.search import SpectralSearch
from zoracle.optimizers.learned.spectral.state import PROBE, RUN, WINDOW, Learned
from zoracle.optimizers.search.square import bump_pair
from zoracle.rollout.loop import take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Space

SHAPE = (3, 8, 8)


def space_of(eps: float, problems: int = 1, *, round_: bool = False, shape=SHAPE, image=0.5) -> Space:
    d = math.prod(shape)
    x = torch.full((problems, d), image, dtype=torch.float64)
    reach = math.inf if round_ else eps
    radius = torch.full((problems,), eps if round_ else math.inf, dtype=torch.float64)
    return Space((-x).clamp(min=-reach), (1 - x).clamp(max=reach), radius, torch.tensor([shape]).repeat(problems, 1))


def linear(optimizer: SpectralSearch, slope: torch.Tensor, space: Space, steps: int, level: float = 100.0):
    """The state after so many queries of level + <slope, x>, and all points asked for."""
    state = optimizer.init(torch.zeros_like(space.low), space=space, horizon=steps, seed=3)
    asked = []
    for _ in range(steps):
        queries = optimizer.ask(state)
        asked.append(queries.points[:, 0])
        state = optimizer.tell(state, queries, level + (queries.points * slope).sum(2))
    return state, torch.stack(asked)


@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 5, 5), (2, 4, 4), (1, 1, 13)])
def test_the_basis_is_orthonormal_and_whole(shape) -> None:
    made = basis.Basis(shape)
    rows = np.stack([made.inverse(row) for row in np.eye(made.size, dtype=np.float32)])
    np.testing.assert_allclose(rows @ rows.T, np.eye(math.prod(shape)), atol=1e-5)
    point = np.linspace(-1, 2, math.prod(shape)).astype(np.float32)
    np.testing.assert_allclose(made.inverse(made.forward(point)), point, atol=1e-5)
    assert made.whole
    window = np.zeros(shape, dtype=np.float32)
    window[:, 0:2, 1:4] = 0.5
    window[0, 0, 2] = -1.0
    np.testing.assert_allclose(made.forward(window, window=True), made.forward(window), atol=1e-5)
    np.testing.assert_array_equal(made.forward(0 * window, window=True), 0)


def test_large_images_keep_their_low_frequencies() -> None:
    made = basis.Basis((1, 96, 80))
    assert made.kept == (1, 64, 64)
    assert not made.whole
    first = np.zeros(made.size, dtype=np.float32)
    first[65] = 1.0  # one wave down, one across
    wave = made.inverse(first).reshape(96, 80)
    y, x = (np.cos(np.pi * (np.arange(n) + 0.5) / n) for n in (96, 80))
    np.testing.assert_allclose(wave / wave[0, 0], np.outer(y, x) / (y[0] * x[0]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(made.forward(wave.reshape(-1)), first, atol=1e-4)


def test_patterns_have_their_periods() -> None:
    shape = (3, 16, 16)
    for pattern in patterns.bank(shape):
        signs = patterns.signs(pattern, shape).reshape(shape).astype(int)
        assert set(np.unique(signs)) <= {-1, 1}
        ratio = signs * np.array(patterns.COLOURS[pattern.colour])[:, None, None]
        assert (ratio == ratio[:1]).all()
        if 0 < pattern.period < 16:
            assert (signs[:, :, pattern.period :] == signs[:, :, : -pattern.period]).all()
            assert (signs[:, pattern.period :] == signs[:, : -pattern.period]).all()
    assert len(patterns.features(shape, 0.03)) == len(patterns.bank(shape))
    assert {p.kind for p in patterns.bank((1, 1, 64))} == {0, 6}


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 9, 5), (1, 1, 64), (1, 40, 1)])
def test_no_query_is_spent_on_the_same_pattern_twice(shape) -> None:
    """A diagonal of period 2 is a checkerboard, and the product of both diagonals is constant."""
    laid = [patterns.signs(pattern, shape) for pattern in patterns.bank(shape)]
    assert len({(signs * signs[0]).tobytes() for signs in laid}) == len(laid)
    assert patterns.Pattern(kind=6, period=0, colour=0) in patterns.bank(shape)


def odds_of(mean=(1.0,), lean=(0.0,), noise=(1.0,), tilt=(0.1,), loadings=(0.0,), leanings=(0.0,)) -> Odds:
    """One family, one factor of either kind."""
    plain = [np.array([part], dtype=np.float64) for part in (mean, lean, noise, tilt)]
    return Odds(np.ones(1), *plain, *(np.array([part], dtype=np.float64)[..., None] for part in (loadings, leanings)))


def test_chances_follow_the_answers() -> None:
    """Two patterns that rise and fall together, and one by itself."""
    odds = odds_of((1.0, 1.0, 1.0), (0.0,) * 3, (0.05, 0.05, 1.05), (0.05,) * 3, (1.0, 1.0, 0.0), (0.0,) * 3)
    before = odds.success([], [])
    assert before.shape == (3, 2)
    assert before[0, 1] == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2.2)))
    low, high = odds.success([1], [0.2]), odds.success([1], [5.0])
    assert low[1, 0] > before[1, 0] > high[1, 0]
    assert low[2, 0] == pytest.approx(before[2, 0]) == pytest.approx(high[2, 0])
    doubted = odds.success([1], [5.0], trust=0.1)
    assert high[1, 0] < doubted[1, 0] < before[1, 0]
    np.testing.assert_allclose(odds.success([1], [5.0], trust=1e-9), before, atol=1e-6)


def test_what_fails_makes_its_opposite_likely_where_signs_matter() -> None:
    """Halves of the image and a fine checkerboard: the sign is all of the first and none of the second."""
    odds = odds_of((1.0, 1.0), (0.0, 0.0), (0.01, 1.0), (1.0, 0.01), (0.0, 0.0), (0.0, 0.0))
    before, halves, board = odds.success([], []), odds.success([1], [4.0]), odds.success([2], [4.0])
    assert halves[0, 1] > 2 * before[0, 1]
    assert board[1, 1] < 0.5 * before[1, 1]
    assert odds.success([-1], [4.0])[0, 0] == pytest.approx(halves[0, 1])


def test_answers_tell_the_family() -> None:
    """Of two families each is broken by its own pattern, and the first pattern's failure tells which it is."""
    mean = np.array([[-1.0, 3.0, 3.0], [3.0, 3.0, -0.5]])
    flat = np.zeros((2, 3, 1))
    odds = Odds(np.array([0.6, 0.4]), mean, 0 * mean, 0.2 + 0 * mean, 0.01 + 0 * mean, flat, flat)
    before, after = odds.success([], []), odds.success([1], [math.sinh(3.0)])
    assert before[0, 0] > before[2, 0] > before[1, 0]
    assert after[2, 0] > 0.8 > 0.1 > after[0, 0]


def test_training_and_search_predict_the_same() -> None:
    nets = SpectralSearch(hidden=8, families=3, factors=2).nets
    given = torch.from_numpy(patterns.features(SHAPE, 0.03))
    warped = torch.randn((4, len(given), 2), generator=torch.Generator().manual_seed(0)).abs()
    asked = torch.tensor([[3, 8, 9]]).repeat(4, 1)  # the opposite of the second, and the fifth both ways
    trained = chances(families(nets.patterns(given), 3), warped, asked)
    losses = warped[0].flatten()[asked[0]].sinh().tolist()
    searched = nets.odds(SHAPE, 0.03).success([-2, 5, -5], losses)
    np.testing.assert_allclose(trained[0].numpy(), searched, atol=0.01)  # a logistic for the normal distribution's


def test_a_correction_is_the_posterior_of_a_linear_model() -> None:
    optimizer = SpectralSearch(noise=0.0, forget=0.0, traits=2)
    made = basis.basis_of(SHAPE)
    prior = Prior(np.linspace(-2, 2, made.size).astype(np.float32), np.zeros((made.size, 2), np.float32))
    space = space_of(0.1)
    state = optimizer.init(torch.zeros_like(space.low), space=space)
    belief = Belief(optimizer.config, made, prior, Learned.of(state)[0])
    variance = prior.spectrum(np.zeros(2, np.float32))
    move = np.random.default_rng(0).normal(size=made.size).astype(np.float32)
    along = made.forward(move)
    belief.correct(move, 3.0)
    exact = variance * along * 3.0 / (variance * along * along).sum()
    np.testing.assert_allclose(belief.coefficients, exact, rtol=1e-3, atol=1e-6)
    assert float(belief.coefficients @ along) == pytest.approx(3.0, rel=1e-4)  # the answer is explained in full
    left = 1 - variance * along**2 / (variance * along**2).sum()
    np.testing.assert_allclose(belief.open, np.clip(left, 1e-4, 1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("round_", [False, True])
def test_it_finds_most_of_what_a_linear_loss_has_to_give(round_: bool) -> None:
    """A smooth gradient of 192 numbers, at a third as many queries as it has coordinates."""
    made = basis.basis_of(SHAPE)
    i, j = np.indices(made.kept)[1:]
    rough = np.random.default_rng(1).normal(size=made.kept) * np.exp(-0.6 * (i + j))
    slope = torch.from_numpy(made.inverse(rough.reshape(-1).astype(np.float32))).double()
    space = space_of(0.1, round_=round_)
    least = -0.1 * (slope.norm() if round_ else slope.abs().sum())
    optimizer = SpectralSearch(patterns=1)
    with torch.no_grad():  # an untrained spectrum that falls with the frequency, as images' do
        for part in optimizer.nets.parameters():
            part.zero_()
        optimizer.nets.spectrum[0].weight[0, 0] = 1.0
        optimizer.nets.spectrum[2].weight[0, 0] = -4.0
    state, _ = linear(optimizer, slope, space, 64, level=float(-2 * least))
    assert float((state.x * slope).sum()) < 0.75 * float(least)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fewer_passes_give_the_same_bits(dtype) -> None:
    rng = np.random.default_rng(0)
    high = rng.random(20_000).astype(dtype) * (rng.random(20_000) > 0.2)
    v, low = rng.normal(size=high.size).astype(dtype) * (rng.random(20_000) > 0.1), -high
    assert either(v < 0, high, low).tobytes() == np.where(v < 0, high, low).tobytes()
    assert clip(v.copy(), low, high).tobytes() == np.clip(v, low, high).tobytes()
    other = v.copy()
    assert same(v, other)
    other[-1] += 1
    assert not same(v, other)


def test_windows_share_what_lies_in_both() -> None:
    one, two, three = ((slice(None), slice(a, a + 3), slice(b, b + 3)) for a, b in ((0, 0), (1, 2), (3, 0)))
    assert overlap(one, two) == (slice(None), slice(1, 3), slice(2, 3))
    assert overlap(one, three) == ()


@pytest.mark.parametrize("round_", [False, True])
def test_iterates_of_a_box_need_no_projection(round_: bool) -> None:
    space, optimizer = space_of(0.1, 2, round_=round_, image=0.03), SpectralSearch(patterns=1)
    slope = torch.linspace(-1, 1, space.low.shape[1], dtype=torch.float64)
    state, _ = linear(optimizer, slope, space, 30)
    assert optimizer.keeps_inside(state) is not round_
    if not round_:
        assert torch.equal(state.x, torch.clamp(state.x, space.low, space.high))


def test_patterns_come_first_and_end_where_none_has_a_chance() -> None:
    optimizer = SpectralSearch(patterns=5, chance=0.0)
    _, asked = linear(optimizer, torch.zeros(192, dtype=torch.float64), space_of(0.1), 7)
    assert (asked[:5].abs() == 0.1).all()
    assert len({tuple(point.flatten().abs().tolist()) + tuple(point.flatten().tolist()) for point in asked[:5]}) == 5
    assert (asked[5] == 0).all()  # then the middle, from which all of them are read again
    _, asked = linear(SpectralSearch(patterns=5, chance=1.0), torch.zeros(192).double(), space_of(0.1), 3)
    assert (asked[1] == 0).all()


@pytest.mark.parametrize("round_", [False, True])
def test_points_stay_in_the_ball_and_the_box(round_: bool) -> None:
    space = space_of(0.3, 2, round_=round_, image=0.04)
    slope = torch.linspace(-1, 1, 192, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        cast = Space(*(t.to(dtype) if t.is_floating_point() else t for t in space))
        _, asked = linear(SpectralSearch(), slope.to(dtype), cast, 40)
        assert (asked >= cast.low).all()
        assert (asked <= cast.high).all()
        if round_:
            assert (asked.norm(dim=2) <= 0.3 * (1 + 2 * torch.finfo(dtype).eps)).all()


def test_an_answer_that_is_nan_is_never_taken() -> None:
    objective = Fenced(1, 50, torch.float64, ball=False, shape=(2, 5, 5))
    optimizer = SpectralSearch(patterns=2)
    x0 = torch.zeros(1, 50, dtype=torch.float64)
    state = optimizer.init(x0, space=objective.space(torch.arange(1), x0), horizon=20)
    for step in range(12):
        if step % 3 == 0:
            queries = optimizer.ask(state)
            after = optimizer.tell(state, queries, torch.full((1, 1), math.nan, dtype=torch.float64))
            assert torch.equal(after.x, state.x)
            assert torch.equal(after.best, state.best)
            assert torch.equal(after.coefficients, state.coefficients)
            state = after
        else:
            _, _, state = take_step(optimizer, Oracle(objective), state, torch.arange(1))
    assert state.best.isfinite().all()
    assert state.level.isfinite().all()


def test_the_search_drifts_where_the_loss_is_equal() -> None:
    optimizer = SpectralSearch(patterns=1)
    state = optimizer.init(torch.zeros(3, 48), space=space_of(0.1, problems=3, round_=True, shape=(3, 4, 4)))
    for value in (1.0, 1.0, 1.0):
        queries = optimizer.ask(state)
        before, state = state, optimizer.tell(state, queries, torch.full((3, 1), value))
        assert torch.equal(state.x, queries.points[:, 0])
    worse = optimizer.tell(state, optimizer.ask(state), torch.full((3, 1), 1.5))
    assert torch.equal(worse.x, state.x)
    assert not torch.equal(before.x, state.x)


def test_an_unbounded_problem_is_told_in_one_line() -> None:
    with pytest.raises(InputError, match="spectral-search searches a ball or a box"):
        SpectralSearch().init(torch.zeros(1, 4))


def observed(*reaches: float, slopes: int | None = None, tried: int | None = None) -> training.Example:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn((4, 192), generator=g)
    weight[:, ::2] *= 0.1
    images = torch.rand((12, *SHAPE), generator=g)
    model = lambda x: x.flatten(1) @ weight.T  # noqa: E731
    return training.observe("linear", model, images, model(images).argmax(1), reaches, slopes=slopes, tried=tried)


def test_what_is_observed_of_a_white_box() -> None:
    example = observed(0.05, 0.2)
    assert example.energies.shape == (12, 192)
    assert example.margins.shape == (2, 12, len(patterns.bank(SHAPE)), 2)
    assert (example.margins[0] > -1e-6).float().mean() > (example.margins[1] > -1e-6).float().mean()


def test_gradients_and_patterns_of_different_numbers_of_images() -> None:
    whole, part = observed(0.2), observed(0.2, slopes=5, tried=3)
    assert torch.equal(part.energies, whole.energies[:5])
    assert torch.equal(part.margins, whole.margins[:, :3])
    patterns_only, gradients_only = observed(0.2, slopes=0), observed(0.2, tried=0)
    assert patterns_only.energies.shape == (0, 192)
    assert torch.equal(patterns_only.margins, whole.margins)
    # What has no patterns has no say in their fit, and each network's steps are counted by themselves.
    fits = []
    for examples, steps in (([whole, gradients_only], 20), ([whole], 20)):
        optimizer = SpectralSearch(hidden=8, traits=2)
        training.fit(optimizer, examples, steps=steps, spectrum_steps=10)
        fits.append([p.clone() for p in optimizer.nets.patterns.parameters()])
    for one, other in zip(*fits, strict=True):
        assert torch.equal(one, other)


def test_training_raises_the_likelihood_and_repeats_itself() -> None:
    example = observed(0.2)
    first, again = SpectralSearch(hidden=8, traits=2), SpectralSearch(hidden=8, traits=2)
    short = training.fit(first, [example], steps=30)
    long = training.fit(first, [example], steps=200)
    assert long[0] < short[0]
    assert long[1] < short[1]
    training.fit(again, [example], steps=30)
    training.fit(again, [example], steps=200)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


def test_a_recipe_is_checked() -> None:
    with pytest.raises(InputError, match="no networks"):
        parse('optimizer = "spectral-search"\nnetworks = []')
    with pytest.raises(InputError, match="kindd"):
        parse('optimizer = "spectral-search"\n[[networks]]\nname="a"\ntask="digits"\nside=8\nkindd="conv"')
    with pytest.raises(InputError, match="gradients_only names other"):
        parse(
            'optimizer = "spectral-search"\ngradients_only = ["other"]\n'
            '[[networks]]\nname="a"\ntask="digits"\nside=8\nkind="conv"'
        )


def test_stripes_are_the_start_that_square_has() -> None:
    space, slope = space_of(0.1, 4), torch.zeros(192, dtype=torch.float64)
    _, asked = linear(SpectralSearch(start="stripes"), slope, space, 3)
    assert (asked[0] == 0).all(), "the image as it is"
    stripes = asked[1].view(4, *SHAPE)
    assert (stripes.abs() == 0.1).all()
    assert (stripes == stripes[:, :, :1]).all()
    assert len(torch.unique(stripes[:, :, 0].flatten(1), dim=0)) == 4, "each problem draws its own"


def test_rejected_moves_teach_unless_they_are_not_to() -> None:
    """Everything is worse than the middle: what was learned was learned of moves that were not kept."""
    space = space_of(0.1)
    for rejected in (True, False):
        optimizer = SpectralSearch(rejected=rejected, start="stripes")
        state = optimizer.init(torch.zeros_like(space.low), space=space, horizon=9, seed=3)
        for step in range(9):
            queries = optimizer.ask(state)
            state = optimizer.tell(state, queries, queries.points.new_full((1, 1), 5.0 + step))
        assert bool(state.coefficients.any()) is rejected


def test_a_flat_spectrum_has_no_favourites() -> None:
    """Of a learned one, the least known coefficient comes first; of a flat one, whichever is the first of all."""
    space, slope = space_of(0.1), torch.zeros(192, dtype=torch.float64)
    made = basis.basis_of(SHAPE)
    first = {}
    for spectrum in ("learned", "flat"):
        optimizer = SpectralSearch(spectrum=spectrum, patterns=0, windows=0)
        with torch.no_grad():
            optimizer.nets.spectrum[2].weight[0] *= 100
        _, asked = linear(optimizer, slope, space, 2)
        first[spectrum] = np.abs(made.forward(asked[1, 0].float().numpy())).argmax()
    assert first["flat"] == 0
    assert first["learned"] != 0


def test_weights_and_missing_gradients_of_what_is_observed() -> None:
    one, other = observed(0.2), observed(0.05)

    def patterns_of(*examples: training.Example) -> torch.Tensor:
        optimizer = SpectralSearch(hidden=8, traits=2)
        training.fit(optimizer, examples, steps=20)
        return torch.cat([p.flatten() for p in optimizer.nets.patterns.parameters()])

    assert not torch.equal(patterns_of(one, other), patterns_of(one, other._replace(weight=5)))
    first, second = SpectralSearch(hidden=8, traits=2), SpectralSearch(hidden=8, traits=2)
    training.fit(first, [one, other._replace(energies=other.energies[:0])], steps=20)
    training.fit(second, [one, other._replace(energies=other.energies[:0], margins=-other.margins)], steps=20)
    for a, b in zip(first.nets.spectrum.parameters(), second.nets.spectrum.parameters(), strict=True):
        assert torch.equal(a, b)


def test_mosaics_are_continuous_and_pool_back() -> None:
    image = torch.rand((1, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    made = enlarged(image, 2, 3)
    assert made.shape == (1, 2, 18, 18)
    small = torch.nn.functional.avg_pool2d(made, 2)
    torch.testing.assert_close(small[..., :3, :3], image)
    torch.testing.assert_close(small[..., :3, 3:6], image.flip(3))
    torch.testing.assert_close(small[..., 6:, 6:], image)


def test_training_goes_on_where_networks_were_looked_at(tmp_path) -> None:
    recipe = parse(
        'optimizer = "spectral-search"\nimages = 4\nsteps = 3\nsettings = { hidden = 4, traits = 2 }\n'
        '[[validation]]\ntask = "digits"\nimages = 3\nbudget = 4\nsettings = { norm = "linf", eps = 0.3 }\n'
        '[[networks]]\nname = "a"\ntask = "digits"\nside = 8\nkind = "mlp"\nepochs = 1\n'
    )
    lines: list[str] = []
    first = train(recipe, tmp_path, lines.append)
    seen = (tmp_path / "observed" / "a.safetensors").stat().st_mtime_ns
    again = train(recipe, tmp_path, lines.append)
    assert (tmp_path / "observed" / "a.safetensors").stat().st_mtime_ns == seen
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "| digits: linf 0.3 | 3 | 4 |" in (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    train(parse('optimizer = "spectral-search"\nimages = 5\nsteps = 3\nsettings = { hidden = 4, traits = 2 }\n'
                '[[networks]]\nname = "a"\ntask = "digits"\nside = 8\nkind = "mlp"\nepochs = 1\n'),
          tmp_path, lines.append)  # fmt: skip
    assert (tmp_path / "observed" / "a.safetensors").stat().st_mtime_ns != seen


def test_a_ball_whose_data_are_missing_is_left_out(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("ZORACLE_DATA", str(tmp_path))
    monkeypatch.setenv("ZORACLE_CACHE", str(tmp_path))
    lines: list[str] = []
    balls = [Ball(task="imagenet", settings={"norm": "linf", "eps": 0.05}), Ball(task="quadratic", images=2)]
    assert validate(SpectralSearch(hidden=4, traits=2), balls, 0, lines.append) == []
    assert lines[0].startswith("no validation on imagenet: ")
    assert "is no attack" in lines[1]
    assert len(table([]).splitlines()) == 2


@pytest.mark.parametrize("textures", [True, False])
def test_windows_take_the_texture_of_good_patterns(textures: bool) -> None:
    optimizer = SpectralSearch(patterns=2, chance=0.0, windows=1, textures=textures, runs=False)
    space = space_of(0.1, problems=8, shape=(1, 8, 8))
    state = optimizer.init(torch.zeros_like(space.low), space=space, horizon=10_000, seed=3)
    asked, windows = [], []
    for step in range(60):
        queries = optimizer.ask(state)
        asked.append(queries.points[:, 0].sign().view(-1, 8, 8))
        windows.append(queries.aux.kind == WINDOW)
        # All moves are worse than the first pattern, so that all windows are cut into that one.
        state = optimizer.tell(state, queries, torch.full((8, 1), 1.0 + (step > 0), dtype=torch.float64))
    flat, textured = 0, 0
    for planes, is_window in zip(asked, windows, strict=True):
        for plane, first, second in zip(planes[is_window], asked[0][is_window], asked[1][is_window], strict=True):
            rows, columns = (plane != first).nonzero().unbind(1)
            if len(rows):
                box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
                if len(plane[box].unique()) == 1 or torch.equal(plane[box], -first[box]):
                    flat += 1
                else:
                    textured += 1
                    assert torch.equal(plane[box], second[box]) or torch.equal(plane[box], -second[box])
    assert flat > 3
    assert textured > 3 if textures else textured == 0


def test_runs_cover_the_image_before_they_are_halved() -> None:
    """Eighths of 75 numbers, then sixteenths: each is asked once, whatever comes in between."""
    optimizer, shape = SpectralSearch(patterns=1), (3, 5, 5)
    space = space_of(0.1, shape=shape)
    state = optimizer.init(torch.zeros_like(space.low), space=space, horizon=10_000, seed=3)
    touched = []
    for _ in range(400):
        queries = optimizer.ask(state)
        if queries.aux.kind == RUN:
            rows = (queries.points[0, 0] != state.x[0]).nonzero()[:, 0].tolist()
            assert rows == list(range(rows[0], rows[-1] + 1))
            touched.append(rows)
        state = optimizer.tell(state, queries, torch.ones((1, 1), dtype=torch.float64))
    assert int(state.runs) == len(touched)
    for start, parts in ((0, 8), (8, 16)):
        pieces = touched[start : start + parts]
        assert [i for piece in pieces for i in piece] == list(range(75))
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_moves_that_win_are_asked_more_often() -> None:
    optimizer = SpectralSearch(patterns=1)
    space = space_of(0.1, problems=300)
    state = optimizer.init(torch.zeros_like(space.low), space=space, horizon=100, seed=3)
    for value in (1.0, 2.0):  # the pattern and the middle
        queries = optimizer.ask(state)
        state = optimizer.tell(state, queries, torch.full((300, 1), value, dtype=torch.float64))
    for winner in (PROBE, WINDOW, RUN):
        gains = torch.full((300, 3), 0.001, dtype=torch.float64)
        gains[:, winner - PROBE] = 0.004
        kinds = optimizer.ask(state._replace(gains=gains)).aux.kind
        assert 0.8 < float((kinds == winner).float().mean()) < 0.95
        assert set(kinds.tolist()) == {PROBE, WINDOW, RUN}
    without = SpectralSearch(patterns=1, runs=False)
    assert set(without.ask(state._replace(gains=gains)).aux.kind.tolist()) == {PROBE, WINDOW}


def test_windows_of_an_l2_ball_move_the_norm_of_another_window() -> None:
    optimizer = SpectralSearch(patterns=2, chance=0.0, windows=1)
    space = space_of(0.5, problems=8, round_=True, shape=(1, 16, 16))
    state = optimizer.init(torch.zeros_like(space.low), space=space, horizon=1000, seed=3)
    seen, emptied, changed = 0, 0, []
    for step in range(60):
        queries = optimizer.ask(state)
        points, is_window = queries.points[:, 0], queries.aux.kind == WINDOW
        for point, best in zip(points[is_window], state.x[is_window], strict=True):
            seen += 1
            torch.testing.assert_close(float(point.norm()), 0.5, rtol=1e-5, atol=0)
            changed.append(int(((point - best).abs() > 1e-6).sum()))
            emptied += bool((point == 0).any())  # a second window within the first leaves nothing empty
        # Nothing is better than the first pattern, so that all windows are cut into that one.
        state = optimizer.tell(state, queries, torch.full((8, 1), 1.0 + step, dtype=torch.float64))
    assert seen > 10
    assert emptied > seen / 2
    assert min(changed) < 64, "the rest of the image stays"


def test_windows_of_an_l2_ball_add_a_hill_beside_a_hollow() -> None:
    """From the middle, where nothing is to be added to: the window is the bump, of the ball's norm."""
    optimizer = SpectralSearch(patterns=1, windows=1, textures=False)
    space = space_of(0.2, problems=40, round_=True, shape=(1, 16, 16))
    state = optimizer.init(torch.zeros_like(space.low), space=space, seed=3)
    gains = torch.tensor([[0.0, 1.0, 0.0]]).double().repeat(40, 1)
    state = state._replace(level=torch.ones(40).double(), best=torch.ones(40).double(), gains=gains)
    queries = optimizer.ask(state)
    points = queries.points[:, 0][queries.aux.kind == WINDOW].view(-1, 16, 16)
    found = 0
    for point in points[points.flatten(1).any(1)]:
        rows, columns = (point.abs().sum(axis).nonzero()[:, 0] for axis in (1, 0))
        window = point[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        pair = 0.2 * bump_pair(*window.shape)
        assert any(torch.allclose(window, sign * bump, atol=1e-6) for sign in (-1, 1) for bump in pair)
        found += 1
    assert found > 5


@pytest.mark.parametrize("round_", [False, True])
def test_windows_grow_while_they_win_and_shrink_while_they_do_not(round_: bool) -> None:
    optimizer = SpectralSearch(patterns=1, windows=1)
    space = space_of(0.1, problems=4, round_=round_, shape=(1, 16, 16))
    state = optimizer.init(torch.zeros_like(space.low), space=space, seed=3)
    sides = {}
    for wins, steps in ((True, 60), (False, 400)):
        for _ in range(steps):
            queries, before = optimizer.ask(state), state
            value = before.best - 0.5 if wins else before.best + 1
            value = torch.where(value.isfinite(), value, 1000.0)
            state = optimizer.tell(before, queries, value.unsqueeze(1))
            ratio, window = state.side / before.side, queries.aux.kind == WINDOW
            assert (ratio[~window] == 1).all()
            assert ((ratio[window] > 1) if wins else (ratio[window] < 1))[
                (state.side[window] < 0.5) & (state.side[window] > 2 / 16)
            ].all()
        sides[wins] = state.side
    assert (sides[True] > 0.4).all()
    assert (sides[False] == 2 / 16).all()
