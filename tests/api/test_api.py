"""One call each: what is found, what it cost to the point, what cannot be used, and that it resumes."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from torch import nn

import zoracle
from problems import Bowls
from zoracle import api
from zoracle.api import minimizing
from zoracle.api.loading import chosen_optimizer
from zoracle.errors import BlackBoxError, BudgetError, CheckpointError, InputError, NonFiniteWarning
from zoracle.objectives.base import Bounds
from zoracle.optimizers.pretrained import Use, save_optimizer
from zoracle.optimizers.registry import make
from zoracle.rollout import rollout
from zoracle.rollout.oracle import Oracle
from zoracle.tasks import task
from zoracle.types import StopReason

Q, D = 4, 6
M = Q + 1
NAMES = ["zo-sgd", "zo-signsgd", "zo-adam", "zo-lstm", "central"]


class Counted:
    """|x - 0.3|^2, and what it was called with."""

    def __init__(self, fails=0, nan=()):
        self.points, self.calls, self.fails, self.nan = [], 0, fails, set(nan)

    @property
    def seen(self):
        return sum(len(points) for points in self.points)

    def __call__(self, x):
        self.calls += 1
        self.points.append(x)
        if self.calls == self.fails:
            raise ConnectionError("gone\nfor good")
        values = ((x - 0.3) ** 2).sum(1)
        if self.calls in self.nan:
            values[:] = np.nan
        return values


@pytest.fixture
def optimizer(request, tmp_path):
    name = getattr(request, "param", "zo-sgd")
    if name == "zo-lstm":
        return str(save_optimizer(tmp_path / "lstm", name, make(name, num_directions=Q), {}).parent)
    return make("zo-sgd", difference="central", num_directions=Q) if name == "central" else make(name, num_directions=Q)


every_optimizer = pytest.mark.parametrize("optimizer", NAMES, indirect=True)


@every_optimizer
@pytest.mark.parametrize("budget", [8, 9, 11, 53])
def test_not_one_point_more_than_the_budget_and_not_one_uncounted(optimizer, budget):
    f = Counted()
    found = zoracle.minimize(f, np.ones((3, D)), budget=budget, optimizer=optimizer)
    assert max(found.queries) <= budget
    assert found.queries.sum() == f.seen
    step = chosen_optimizer(optimizer, {}, Use()).queries_per_step
    assert found.queries.tolist() == [budget // step * step + (budget % step > 0)] * 3
    assert found.reason == [StopReason.BUDGET] * 3
    assert found.value.tolist() == f(found.x).tolist(), "the value is that of the point"
    every = np.concatenate([f(points) for points in f.points[:-1]])
    assert found.value.min() == every.min(), "the best of all that were evaluated"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_and_torch_one_and_many(dtype):
    start = torch.ones(2, D, dtype=dtype)
    settings = {"budget": 40, "optimizer": "zo-sgd", "num_directions": Q, "lr": 0.1}
    many = zoracle.minimize(Counted(), start, **settings)
    assert isinstance(many.x, torch.Tensor)
    assert many.x.dtype is many.value.dtype is many.last.dtype is dtype
    f = Counted()
    arrays = zoracle.minimize(f, start.numpy(), **settings)
    assert all(isinstance(points, np.ndarray) and points.dtype == start.numpy().dtype for points in f.points)
    assert isinstance(arrays.x, np.ndarray)
    # Not to the bit: NumPy sums in another order, and a difference quotient shows it.
    assert np.allclose(arrays.x, many.x.numpy(), atol=1e-2)
    one = zoracle.minimize(Counted(), start[0], **settings)
    assert one.x.shape == one.last.shape == (D,)
    assert isinstance(one.value, float)
    assert isinstance(one.queries, int)
    assert isinstance(one.reason, StopReason)
    assert one.x.tolist() == many.x[0].tolist()
    other = zoracle.minimize(Counted(), start[1], ids=[1], **settings)
    assert other.x.tolist() == many.x[1].tolist(), "alone as among others"
    assert other.x.tolist() != one.x.tolist()


def test_the_framework_can_be_chosen_and_whole_numbers_are_taken():
    f = Counted()
    found = zoracle.minimize(f, [1, 2, 3], budget=30, optimizer="zo-sgd", framework="torch")
    assert all(isinstance(points, torch.Tensor) for points in f.points)
    assert found.x.dtype == np.float64


def test_seeds_key_everything_and_the_given_start_is_left():
    start = np.ones(D)
    runs = [zoracle.minimize(Counted(), start, budget=60, optimizer="zo-adam", seed=s).x.tolist() for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert start.tolist() == [1.0] * D


@every_optimizer
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_nothing_outside_the_bounds_is_asked_and_the_corner_holds_nobody(optimizer, scale):
    f = Counted()
    found = zoracle.minimize(f, np.full(D, 1.0), budget=300, optimizer=optimizer, bounds=(0.0, 1.0), scale=scale)
    every = np.concatenate(f.points)
    assert every.min() >= 0
    assert every.max() <= 1
    assert 0 <= found.last.min() <= found.last.max() <= 1


def test_an_iterate_thrown_out_of_the_bounds_comes_back():
    # Its first steps overshoot; clipped only, it saw no slope out there and stayed at 2.94 for ever.
    found = zoracle.minimize(Counted(), np.ones(20), budget=2100, optimizer="zo-sgd", bounds=(0, 1))
    assert found.value < 0.05


def test_scale_is_the_unit_of_a_step():
    small = zoracle.minimize(Counted(), np.full(D, 0.4), budget=100, optimizer="zo-signsgd", lr=0.01)
    large = zoracle.minimize(
        lambda x: Counted()(x / 1000), np.full(D, 400.0), budget=100, optimizer="zo-signsgd", lr=0.01, scale=1000.0
    )
    assert large.value == pytest.approx(small.value, rel=1e-4)


def test_a_target_stops_and_pays_for_nothing_more():
    f = Counted()
    found = zoracle.minimize(f, np.ones(D), budget=4000, optimizer="zo-sgd", num_directions=Q, lr=0.1, target=0.01)
    assert found.reason is StopReason.TARGET
    assert found.value <= 0.01
    assert found.queries == f.seen < 4000
    assert f.seen % M == 0


def test_an_objective_is_taken_as_it_is_and_by_hand_it_is_the_same():
    bowls = Bowls(2, D)
    found = zoracle.minimize(
        bowls, torch.zeros(2, D, dtype=torch.float64), budget=8 * M, optimizer=make("zo-sgd", num_directions=Q, lr=0.02)
    )
    assert bowls.points_seen().tolist() == found.queries.tolist() == [8 * M] * 2
    optimizer, oracle = make("zo-sgd", num_directions=Q, lr=0.02), Oracle(Bowls(2, D), budget=8 * M)
    state = optimizer.init(torch.zeros(2, D, dtype=torch.float64), horizon=8)
    for _ in range(8):
        queries = optimizer.ask(state)
        state = optimizer.tell(state, queries, oracle.evaluate(queries.points, torch.arange(2)).loss)
    assert torch.equal(state.x, found.last)
    start = optimizer.init(torch.zeros(2, D, dtype=torch.float64), horizon=8)
    assert torch.equal(rollout(optimizer, Oracle(Bowls(2, D)), start, 8)[0].x, found.last)


def bad(message, error=InputError, **given):
    f = given.pop("f", Counted())
    settings = {"x0": np.ones(D), "budget": 100, "optimizer": "zo-sgd", **given}
    with pytest.raises(error, match=message) as told:
        zoracle.minimize(f, settings.pop("x0"), **settings)
    assert "\n" not in str(told.value)
    assert getattr(f, "calls", 0) == 0, "nothing is asked where it could be known before"


@pytest.mark.parametrize(
    ("message", "given"),
    [
        (
            r"x0 has shape \(2, 3\); give shape=\(2, 3\) if that is one point",
            {"x0": np.ones((2, 3)), "vectorized": False},
        ),
        (r"shape \(0,\)", {"x0": np.ones(0)}),
        ("NaN or infinite", {"x0": np.array([1.0, np.nan])}),
        ("torch.float16; expected float32 or float64", {"x0": torch.ones(2, dtype=torch.float16)}),
        ("torch.complex128; expected", {"x0": np.ones(2, dtype=complex)}),
        ("cannot be read as numbers", {"x0": ["a", "b"]}),
        ("optimizer 'zo-sdg' is unknown", {"optimizer": "zo-sdg"}),
        ("optimizer is a NoneType", {"optimizer": None}),
        ("optimizer ZOSGD has no setting 'step'; it has num_directions", {"step": 3}),
        ("minimize has no argument 'budgets'; did you mean budget", {"budgets": 3}),
        ("minimize has no argument 'sigma0'; did you mean scale", {"sigma0": 0.5}),
        ("were given with an optimizer object", {"optimizer": make("zo-sgd"), "lr": 1.0}),
        ("num_directions is 0", {"num_directions": 0}),
        ("budget is '9'; expected an integer", {"budget": "9"}),
        (r"bounds are \(1, 0\); expected", {"bounds": (1, 0)}),
        ("bounds are 3; expected", {"bounds": 3}),
        ("outside the bounds", {"bounds": (0, 0.5)}),
        ("scale is 0", {"scale": 0}),
        ("scale is nan", {"scale": float("nan")}),
        ("scale is '1'; expected a number", {"scale": "1"}),
        ("scale is None; expected a number", {"scale": None}),
        ("target is nan; expected a number", {"target": float("nan")}),
        ("target is 'low'; expected a number", {"target": "low"}),
        ("seed is None; expected an integer", {"seed": None}),
        ("seed is 0.5; expected an integer", {"seed": 0.5}),
        ("seed takes 65 bits; expected an integer of 64 bits", {"seed": 2**63}),
        (r"ids are torch.int64 of shape \(2,\); expected 1", {"ids": [1, 2]}),
        ("framework is 'jax'", {"framework": "jax"}),
        ("a int was given; expected a function", {"f": 3}),
        (r"expected \(3, 6\), one row per problem", {"f": Bowls(3, D)}),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(message, given):
    bad(message, **given)


def test_a_budget_smaller_than_a_step_says_what_a_step_costs():
    bad("one step of this optimizer costs 21; give at least 21", BudgetError, budget=20)


def test_a_function_that_fails_is_told_in_one_line():
    with pytest.raises(BlackBoxError, match="the function raised ConnectionError: gone when given") as told:
        zoracle.minimize(Counted(fails=2), np.ones(D), budget=100, optimizer="zo-sgd")
    assert "\n" not in str(told.value)
    with pytest.raises(BlackBoxError, match=r"returned shape \(\) .*if f takes one point, give vectorized=False"):
        zoracle.minimize(lambda x: x.sum(), np.ones(D), budget=100, optimizer="zo-sgd")
    with pytest.raises(BlackBoxError, match=r"raised ValueError.*if f takes one point, give vectorized=False"):
        zoracle.minimize(lambda x: 0.0 if x[0] > 1 else 1.0, np.ones(D), budget=100, optimizer="zo-sgd")


def test_numbers_of_numpy_are_numbers(tmp_path):
    given = {"budget": np.int64(100), "seed": np.int32(3), "scale": np.float32(1), "target": np.array(-1.0)}
    path = tmp_path / "run.safetensors"
    found = zoracle.minimize(Counted(), np.ones(D), optimizer="zo-sgd", checkpoint=path, **given)
    plain = {"budget": 100, "seed": 3, "scale": 1.0, "target": -1.0}
    assert found.value == zoracle.minimize(Counted(), np.ones(D), optimizer="zo-sgd", checkpoint=path, **plain).value


def test_nan_from_the_start_is_an_error_and_later_it_is_counted():
    with pytest.raises(BlackBoxError, match="all 5 values of the first step are NaN") as told:
        zoracle.minimize(Counted(nan={1}), np.ones(D), budget=100, optimizer="zo-sgd", num_directions=Q)
    assert "\n" not in str(told.value)
    f = Counted()
    sometimes = lambda x: np.where(np.arange(len(x)) == 2, np.nan, f(x))  # noqa: E731
    with pytest.warns(NonFiniteWarning, match="20% of the values"):
        found = zoracle.minimize(sometimes, np.ones(D), budget=6 * M, optimizer="zo-sgd", num_directions=Q)
    assert found.trajectory.non_finite.tolist() == [6]
    assert np.isfinite(found.x).all()
    assert found.value < 0.49 * D
    with pytest.warns(NonFiniteWarning, match="33%"):
        stopped = zoracle.minimize(Counted(nan={3}), np.ones(D), budget=6 * M, optimizer="zo-sgd", num_directions=Q)
    assert stopped.reason is StopReason.NON_FINITE
    assert stopped.queries == 3 * M


@every_optimizer
def test_minimize_goes_on_where_it_failed_and_counts_the_failed_call(optimizer, tmp_path):
    step = chosen_optimizer(optimizer, {}, Use()).queries_per_step
    settings = {"budget": 10 * step, "optimizer": optimizer, "seed": 5}
    whole = zoracle.minimize(Counted(), np.ones((2, D)), **settings)
    f = Counted(fails=4)
    for _ in range(2):
        try:
            found = zoracle.minimize(f, np.ones((2, D)), checkpoint=tmp_path / "run", **settings)
        except BlackBoxError:
            continue
    assert found.queries.tolist() == [10 * step] * 2
    assert f.seen == 2 * 10 * step + int(found.interrupted.sum()), "the failed call took a step's worth of the budget"
    assert int(found.interrupted.sum()) == 1, "and one point was requested again, to see whether f is the same"
    assert torch.equal(found.trajectory.best[:9], whole.trajectory.best[:9])
    again = zoracle.minimize(f, np.ones((2, D)), checkpoint=str(tmp_path / "run"), **settings)
    assert f.seen == 2 * 10 * step + 1, "a finished run asks nothing"
    assert again.x.tolist() == found.x.tolist()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 2}),
        ("budget", {"budget": 61}),
        ("scale", {"scale": 2.0}),
        ("target", {"target": 0.5}),
        ("bounds", {"bounds": (-1, 2)}),
        ("optimizer.settings.lr", {"lr": 0.2}),
        ("optimizer.class", {"optimizer": "zo-signsgd"}),
        ("x0_sha256", {"x0": np.full(D, 0.9)}),
        ("dtype", {"x0": np.ones(D, dtype=np.float32)}),
        ("ids", {"ids": [4]}),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path, name, change):
    settings = {"x0": np.ones(D), "budget": 60, "optimizer": "zo-sgd", "lr": 0.1, "checkpoint": tmp_path / "run"}
    start = settings.pop("x0")
    zoracle.minimize(Counted(), start, **settings)
    f = Counted()
    with pytest.raises(CheckpointError, match=rf"belongs to another run \(.*{name}: ") as told:
        zoracle.minimize(f, change.pop("x0", start), **{**settings, **change})
    assert "\n" not in str(told.value)
    assert f.calls == 0


# --- attack -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    made = task("digits")
    ids = made.ids("test")[:6]
    pictures = made.pictures(ids)
    return made.objective(ids).black_box.module, pictures.images, pictures.labels


class Net(nn.Module):
    """A linear classifier of 8 pixels that counts its inputs, fails at a call, or returns NaN."""

    def __init__(self, fails=0, nan=()):
        super().__init__()
        self.weight = nn.Parameter(3 * torch.randn(3, 8, generator=torch.Generator().manual_seed(1)))
        self.seen, self.calls, self.fails, self.nan = 0, 0, fails, set(nan)

    def forward(self, x):
        self.calls += 1
        self.seen += len(x)
        if self.calls == self.fails:
            raise RuntimeError("out of memory\nreally")
        return (x.flatten(1).unsqueeze(1) * self.weight).sum(2) * (torch.nan if self.calls in self.nan else 1.0)


IMAGES = torch.linspace(0.1, 0.9, 40).view(5, 1, 2, 4)


def labels_of(images):
    return Net()(images).argmax(1)


def attack(net=None, **given):
    net = Net() if net is None else net
    settings = {"images": IMAGES, "labels": labels_of(IMAGES), "optimizer": "zo-sgd", "num_directions": Q, "steps": 6}
    settings = {**settings, **given}
    return api.attack(net, settings.pop("images"), settings.pop("labels"), **settings)


def test_a_module_and_a_function_give_the_same_adversarials(digits):
    module, images, labels = digits
    settings = {"steps": 30, "optimizer": "zo-sgd"}
    found = zoracle.attack(module, images, labels, **settings)

    def classify(x):
        assert isinstance(x, np.ndarray)
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    arrays = zoracle.attack(classify, images.numpy(), labels.numpy(), **settings)
    assert torch.equal(found.adversarial, arrays.adversarial)
    assert torch.equal(found.queries_to_success, arrays.queries_to_success)
    assert found.success.all()
    with torch.no_grad():
        wrong = module(found.adversarial).argmax(1) != labels
    assert torch.equal(wrong, found.success), "verified by calling the model again"
    assert found.adversarial.shape == images.shape
    assert ((found.adversarial >= 0) & (found.adversarial <= 1)).all()
    l1 = (found.adversarial - images).flatten(1).abs().sum(1)
    assert torch.allclose(found.distances["l1"], l1)
    assert found.queries.tolist() == [30 * 21 + 1] * 6
    assert found.reason == [StopReason.STEPS] * 6


@every_optimizer
def test_an_attack_counts_what_the_model_saw(optimizer):
    net = Net()
    found = api.attack(net, IMAGES, labels_of(IMAGES), optimizer=optimizer, budget=33)
    assert net.seen == int(found.queries.sum())
    assert int(found.queries.max()) <= 33
    assert found.reason == [StopReason.BUDGET] * 5


def test_stopping_at_the_first_success_pays_for_that_step_only():
    net = Net()
    labels = (labels_of(IMAGES) + torch.tensor([0, 1, 0, 0, 0])) % 3
    found = attack(net, labels=labels, steps=40, lr=0.5, stop_on_success=True)
    assert found.misclassified.tolist() == [False, True, False, False, False]
    assert found.queries_to_success[1] == 1
    assert found.success.any()
    assert found.reason == [StopReason.SUCCESS if won else StopReason.STEPS for won in found.success.tolist()]
    won = found.success & ~found.misclassified
    assert torch.equal(found.queries[won], 1 + (found.queries_to_success[won] - 1 + M - 1) // M * M)
    assert found.queries[1] == 1, "there was nothing to attack"
    assert torch.equal(found.adversarial[1], IMAGES[1].to(found.adversarial))
    assert net.seen == int(found.queries.sum())


@pytest.mark.parametrize("batch", [1, 2, 4, None])
def test_images_take_turns_and_nothing_else_changes(batch):
    settings = {"budget": 61, "lr": 0.5, "num_directions": M - 1, "optimizer": "zo-sgd", "norm": "linf", "eps": 0.2}
    whole = api.attack(Net(), IMAGES, labels_of(IMAGES), **settings)
    net = Net()
    found = api.attack(net, IMAGES, labels_of(IMAGES), batch=batch, **settings)
    assert int(whole.success.sum()) > 0, "or the test would show nothing"
    assert torch.equal(found.queries, whole.queries)
    assert torch.equal(found.success, whole.success)
    assert net.seen == int(found.queries.sum())
    assert int(found.queries.max()) <= 61
    torch.testing.assert_close(found.adversarial, whole.adversarial)


@pytest.mark.parametrize(
    ("settings", "extra"),
    [({}, 0), ({"stop_on_success": True}, 1), ({"norm": "linf", "eps": 0.01}, 1), ({"check_start": True}, 1)],
)
def test_the_look_at_the_start_costs_one_query_and_is_in_the_budget(settings, extra):
    net = Net()
    found = api.attack(net, IMAGES, labels_of(IMAGES), optimizer="zo-sgd", num_directions=M - 1, budget=21, **settings)
    steps = (21 - extra) // M
    assert net.seen == int(found.queries.sum())
    assert found.trajectory.checked.tolist() == [bool(extra)] * 5
    running = ~found.success if settings else torch.ones(5, dtype=torch.bool)
    assert found.trajectory.steps[running].tolist() == [steps] * int(running.sum())
    with pytest.raises(BudgetError, match="give at least 6"):
        api.attack(net, IMAGES, labels_of(IMAGES), optimizer="zo-sgd", num_directions=4, budget=5, check_start=True)


def test_a_targeted_attack_reaches_the_target():
    targets = Net()(IMAGES).topk(2).indices[:, 1]
    found = attack(targets=targets, steps=100, c=0.01)
    assert found.success.any()
    assert torch.equal(Net()(found.adversarial).argmax(1)[found.success], targets[found.success])


def test_an_image_alone_and_among_others():
    together = attack()
    alone = attack(images=IMAGES[3:4], labels=labels_of(IMAGES)[3:4], ids=[3])
    assert torch.equal(alone.adversarial[0], together.adversarial[3])
    assert attack(seed=1).adversarial.tolist() != together.adversarial.tolist()
    assert attack(chunk=3).adversarial.tolist() == together.adversarial.tolist()


def bad_attack(message, error=InputError, net=None, calls=0, **given):
    net = Net() if net is None else net
    with pytest.raises(error, match=message) as told:
        attack(net, **given)
    assert "\n" not in str(told.value)
    assert getattr(net, "calls", 0) == calls, "nothing is asked where it could be known before"


@pytest.mark.parametrize(
    ("message", "given"),
    [
        ("attack has no argument 'threat'; did you mean norm", {"threat": "linf", "eps": 0.1}),
        ("attack has no argument 'epsilon'; did you mean eps", {"epsilon": 0.1}),
        (r"labels have shape \(4,\); expected \(5,\)", {"labels": torch.zeros(4, dtype=torch.int64)}),
        ("label -1 of image 0 is out of range", {"labels": torch.full((5,), -1)}),
        ("labels are torch.float32; expected integers", {"labels": torch.zeros(5)}),
        ("image 2 holds NaN", {"images": IMAGES.index_fill(0, torch.tensor([2]), torch.nan)}),
        (r"pixels range over \[0.1, 1.9\]", {"images": IMAGES + (IMAGES == 0.9)}),
        ("images are torch.uint8; expected floating", {"images": torch.zeros(5, 1, 2, 4, dtype=torch.uint8)}),
        ("images are torch.float16; expected float32", {"images": IMAGES.half()}),
        (r"images have shape \(5,\)", {"images": torch.zeros(5)}),
        ("cannot be read as numbers", {"images": [["a"]]}),
        (r"targets have shape", {"targets": torch.zeros(2, dtype=torch.int64)}),
        ("is its label; expected another class", {"targets": labels_of(IMAGES)}),
        ("both or neither of budget and steps", {"budget": 100}),
        ("both or neither of budget and steps", {"steps": None}),
        ("steps is 0", {"steps": 0}),
        ("steps is 2.5; expected an integer", {"steps": 2.5}),
        ("costs 5; give at least 5", {"steps": None, "budget": 4}),
        ("start_std is -1", {"start_std": -1.0}),
        ("start_std is 'a'; expected a number", {"start_std": "a"}),
        ("seed is None; expected an integer", {"seed": None}),
        ("norm is 'l3'", {"norm": "l3"}),
        ("c is nan", {"c": float("nan")}),
        ("chunk is 0", {"chunk": 0}),
        (r"expected 5 integers", {"ids": [1, 2]}),
        ("a int was given; expected a function", {"net": 3}),
    ],
)
def test_what_cannot_be_attacked_is_told_in_one_line(message, given):
    bad_attack(message, **given)


def test_a_label_beyond_the_models_classes_is_told_after_one_call():
    bad_attack("label 3 of image 4 is out of range; expected 0 .. 2", calls=1, labels=torch.tensor([0, 0, 0, 0, 3]))


def test_models_that_fail_are_told_in_one_line():
    bad_attack("the model raised RuntimeError: out of memory", BlackBoxError, net=Net(fails=1), calls=1)
    bad_attack("all 25 values of the first step are NaN", BlackBoxError, net=Net(nan={1}), calls=1)
    bad_attack(r"returned shape \(25,\)", BlackBoxError, net=lambda x: x.flatten(1).sum(1))
    found = attack(Net(nan={3}))
    assert found.trajectory.non_finite.tolist() == [M] * 5
    assert found.reason == [StopReason.NON_FINITE] * 5
    assert found.loss.isfinite().all()


@pytest.mark.parametrize("fails", [1, 2, 5, 7])
def test_an_attack_goes_on_where_the_model_failed(tmp_path, fails):
    whole = attack()
    net = Net(fails=fails)
    with pytest.raises(BlackBoxError):
        attack(net, checkpoint=tmp_path / "run")
    found = attack(net, checkpoint=tmp_path / "run")
    assert torch.equal(found.adversarial, whole.adversarial)
    assert torch.equal(found.misclassified, whole.misclassified)
    assert net.seen == int(found.queries.sum()) + int(found.interrupted.sum()), "the failed call is counted"
    assert int(found.interrupted.sum()) == (1 < fails < 7), "a stored point is requested again"
    assert found.queries.tolist() == [6 * M + 1 + (1 if fails == 7 else M)] * 5


def test_an_attack_interrupted_by_its_caller_gives_the_same(tmp_path):
    whole, net = attack(), Net()

    def stop(step):
        if int(step.trajectory.steps.max()) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        attack(net, checkpoint=tmp_path / "run", on_step=stop)
    found = attack(net, checkpoint=tmp_path / "run")
    assert torch.equal(found.adversarial, whole.adversarial)
    assert torch.equal(found.queries, whole.queries)
    assert net.seen == int(whole.queries.sum()) + 1, "and one stored point again"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("images_sha256", {"images": IMAGES * 0.5}),
        ("labels_sha256", {"labels": (labels_of(IMAGES) + 1) % 3}),
        ("targets_sha256", {"targets": (labels_of(IMAGES) + 1) % 3}),
        ("start_std", {"start_std": 1e-3}),
        ("stop_on_success", {"stop_on_success": True}),
        ("confidence", {"confidence": 1.0}),
        ("outputs", {"outputs": "log-probabilities"}),
        ("norm", {"norm": "l2"}),
        ("c", {"c": 0.2}),
    ],
)
def test_the_checkpoint_of_another_attack_is_refused(tmp_path, name, change):
    attack(checkpoint=tmp_path / "run")
    bad_attack(rf"belongs to another run \(.*{name}: ", CheckpointError, checkpoint=tmp_path / "run", **change)


def test_other_weights_are_another_run(tmp_path):
    for seed in (0, 1):
        save_optimizer(tmp_path / f"{seed}", "zo-lstm", make("zo-lstm", weight_seed=0), {})
    attack(optimizer=tmp_path / "0", checkpoint=tmp_path / "run")
    attack(optimizer=tmp_path / "1", checkpoint=tmp_path / "run")
    changed = make("zo-lstm")
    with torch.no_grad():
        next(changed.parameters()).mul_(1.001)
    save_optimizer(tmp_path / "1", "zo-lstm", changed, {})
    bad_attack("weights_sha256", CheckpointError, optimizer=tmp_path / "1", checkpoint=tmp_path / "run")


def test_load_gives_optimizers_by_name_and_by_folder(tmp_path):
    assert zoracle.load("zo-adam", num_directions=3).queries_per_step == 4
    save_optimizer(tmp_path, "zo-lstm", make("zo-lstm"), {})
    assert zoracle.load(tmp_path, num_directions=9).queries_per_step == 10
    assert set(zoracle.__all__) <= set(dir(zoracle))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zoracle.nothing


def test_the_examples_in_the_docstrings_run():
    found = doctest.testmod(minimizing, extraglobs={"torch": torch, "np": np})
    assert found.attempted >= 2
    assert found.failed == 0


def test_bounds_of_an_objective_in_units_of_scale():
    bowls = Bowls(1, D)
    found = zoracle.minimize(
        bowls,
        torch.zeros(1, D, dtype=torch.float64),
        budget=200,
        optimizer="zo-sgd",
        bounds=Bounds(-0.1, 0.1),
        scale=0.1,
    )
    assert found.x.abs().max() <= 0.1
