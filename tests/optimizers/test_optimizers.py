"""The battery that every registered optimizer goes through; a new one joins by its registry line."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch

from problems import Bowls
from variants import VARIANTS, begin, build, fenced, has
from zoracle.errors import InputError, MuTooSmallWarning
from zoracle.optimizers.base import SamplingConfig, with_settings
from zoracle.optimizers.registry import REGISTRY, make
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.testing import optimizers as battery

#: What a hand-designed optimizer needs to reach half the loss, where its step is not called lr.
STEP_SIZES = {"snes": {"sigma": 0.1}}
# Those that ask for no point outside the space they are told.
STAY_INSIDE = [
    name
    for name in VARIANTS
    if name.split(" ")[0] in ("square", "sign-hunter", "simba", "simba-dct", "spectral-search", "square-controllers")
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", battery.DIMENSIONS)
@pytest.mark.parametrize("name", VARIANTS)
def test_one_problem_alone_is_the_same_problem_in_a_batch(name: str, dim: int, dtype: torch.dtype) -> None:
    battery.alone_as_in_a_batch(lambda: build(name), ball=name.endswith(" ball"), dim=dim, dtype=dtype)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("check", battery.CHECKS[1:], ids=lambda check: check.__name__)
def test_every_optimizer_passes_the_battery(check: Callable[..., None], name: str) -> None:
    check(lambda: build(name), ball=name.endswith(" ball"))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_costs_q_and_one_or_two_q(name: str) -> None:
    optimizer = build(name)
    if isinstance(optimizer.config, SamplingConfig) and not optimizer.order:
        expected = 12 if optimizer.config.difference == "central" else 7
        assert optimizer.queries_per_step == expected


@pytest.mark.parametrize("name", STAY_INSIDE)
@pytest.mark.parametrize("dim", battery.DIMENSIONS)
def test_points_asked_for_are_feasible(name: str, dim: int) -> None:
    battery.stays_inside(lambda: build(name), ball=name.endswith(" ball"), dim=dim)


# Cells of 2 by 2 pixels are the whole of the images there: two numbers do not reach half the loss. RayS reads one bit
# of a value, on which side of a boundary it is, and here is none.
HAND_DESIGNED = [n for n in VARIANTS if not REGISTRY[n.split(" ")[0]].learned and n not in ("bandits tile", "rays")]


@pytest.mark.parametrize("name", HAND_DESIGNED)
def test_hand_designed_optimizers_descend(name: str) -> None:
    plain = name.split(" ")[0]
    size = STEP_SIZES.get(plain, {"lr": 0.05} if has(plain, "lr") else {})
    optimizer, objective = make(plain, **size, **VARIANTS[name]), fenced(name, 3, 8)
    x0 = torch.zeros(3, 8, dtype=torch.float64)
    initial = fenced(name, 3, 8).evaluate(x0, torch.arange(3)).loss
    steps = max(100, 200 // optimizer.queries_per_step)
    _, trajectory = rollout(optimizer, Oracle(objective), begin(optimizer, objective, x0, horizon=steps), steps)
    assert (trajectory.final_loss < 0.5 * initial).all()
    assert objective.points_seen().tolist() == [steps * optimizer.queries_per_step + 1] * 3


def test_zo_sgd_is_sgd_on_the_mean() -> None:
    # With orthogonal directions that span the space the estimate is the gradient up to the curvature's mu term.
    optimizer = make("zo-sgd", num_directions=8, directions="orthogonal", lr=0.1, mu=1e-6)
    objective = Bowls(1, 8)
    x0 = torch.linspace(-1, 1, 8, dtype=torch.float64).unsqueeze(0)
    state, _ = rollout(optimizer, Oracle(objective), optimizer.init(x0), 1)
    expected = x0 - 0.1 * objective.gradient(x0, torch.zeros(1, dtype=torch.int64))[1]
    torch.testing.assert_close(state.x, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", REGISTRY)
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(InputError, match="momentun"):
        make(name, momentun=1)
    if has(name, "num_directions"):
        with pytest.raises(InputError, match="num_directions is 0"):
            make(name, num_directions=0)
    if has(name, "mu"):
        with pytest.raises(InputError, match="mu is -1"):
            make(name, mu=-1.0)


def test_unknown_names_and_shapes_are_told_in_one_line() -> None:
    with pytest.raises(InputError, match="did you mean zo-adam") as error:
        make("zo-adm")
    assert "\n" not in str(error.value)
    optimizer = make("zo-sgd")
    with pytest.raises(InputError, match=r"expected floating-point numbers \(B, d\)"):
        optimizer.init(torch.zeros(3))
    with pytest.raises(InputError, match="NaN or infinite"):
        optimizer.init(torch.full((1, 3), math.nan))
    with pytest.raises(InputError, match="one id per row"):
        optimizer.init(torch.zeros(2, 3), problem=torch.tensor([1]))
    state = optimizer.init(torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"expected \(2, 21\)"):
        optimizer.tell(state, optimizer.ask(state), torch.zeros(2, 20))
    first_order = make("l2l")
    state = first_order.init(torch.zeros(2, 3))
    with pytest.raises(InputError, match="needs gradients"):
        first_order.tell(state, first_order.ask(state), torch.zeros(2, 1))


def test_a_mu_below_rounding_is_warned_about() -> None:
    with pytest.warns(MuTooSmallWarning, match="too small for torch.float32"):
        make("zo-sgd", mu=1e-6).init(torch.zeros(1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("zo-sgd", mu=1e-6).init(torch.zeros(1, 3, dtype=torch.float64))
        make("zo-sgd").init(torch.zeros(1, 3))


def test_with_settings_shares_weights_and_leaves_the_original() -> None:
    optimizer = build("zo-lstm-paper")
    changed = with_settings(optimizer, sampling_probability=1.0)
    assert optimizer.config.sampling_probability != 1.0
    assert changed.config.sampling_probability == 1.0
    assert next(changed.parameters()) is next(optimizer.parameters())


def test_the_coin_follows_the_sampling_probability() -> None:
    steps = 400
    for probability in (0.0, 0.3, 1.0):
        optimizer = make("zo-lstm-paper", sampling_probability=probability, num_directions=1)
        optimizer.query_rnn.head.data += 1.0
        learned = 0
        state = optimizer.init(torch.zeros(1, 6, dtype=torch.float64))
        state = state._replace(gradient=torch.linspace(-1, 1, 6, dtype=torch.float64).unsqueeze(0))
        for step in range(steps):
            asked = state._replace(key=state.key._replace(step=torch.tensor([step])))
            u = optimizer.ask(asked).directions
            learned += not torch.equal(u, optimizer.draw(asked.key, state.x))
        assert abs(learned / steps - probability) < 4 * math.sqrt(0.25 / steps) * (0 < probability < 1) + 1e-9


def test_sigma_keeps_the_norm_of_the_standard_gaussian() -> None:
    optimizer = build("zo-lstm-paper")
    state = optimizer.init(torch.ones(2, 9, dtype=torch.float64))
    state = state._replace(gradient=torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).double())
    std = optimizer.ask(state).aux.std
    torch.testing.assert_close(std.norm(dim=1), torch.full((2,), 3.0, dtype=torch.float64))
    assert float(std.std()) > 0.005
