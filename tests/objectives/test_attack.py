from __future__ import annotations

import numpy as np
import pytest
import torch

from zoracle.blackboxes import PythonFunction, TorchModule
from zoracle.blackboxes.base import BlackBox
from zoracle.errors import BlackBoxError, InputError
from zoracle.objectives import Attack, ThreatModel

SHAPE, CLASSES, PROBLEMS = (1, 4, 5), 6, 3
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(20, CLASSES))
BIAS = RNG.normal(size=CLASSES)
IMAGES = torch.from_numpy(RNG.uniform(size=(PROBLEMS, *SHAPE)))
LABELS = torch.from_numpy((IMAGES.flatten(1).numpy() @ WEIGHT + BIAS).argmax(1))
TARGETS = (LABELS + 2) % CLASSES
POINTS = torch.from_numpy(RNG.normal(scale=0.8, size=(80, 20)))
PROBLEM = torch.from_numpy(RNG.integers(PROBLEMS, size=80))


class Linear(torch.nn.Module):
    """Logits, probabilities or log-probabilities of a linear classifier; counts what it sees."""

    def __init__(self, outputs: str = "logits"):
        super().__init__()
        self.outputs = outputs
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        logits = x.flatten(1) @ torch.from_numpy(WEIGHT).to(x) + torch.from_numpy(BIAS).to(x)
        return {"logits": logits, "probabilities": logits.softmax(1), "log-probabilities": logits.log_softmax(1)}[
            self.outputs
        ]


def expected(point, row, c, order, target, confidence):
    """The loss of the method's description, written again for one point in NumPy."""
    x = IMAGES[row].numpy().ravel()
    adversarial = np.minimum(np.maximum(x + point, 0), 1)
    logits = adversarial @ WEIGHT + BIAS
    log_p = logits - np.log(np.exp(logits).sum())
    wanted = int(LABELS[row]) if target is None else int(target[row])
    others = max(v for j, v in enumerate(log_p) if j != wanted)
    gap = log_p[wanted] - others if target is None else others - log_p[wanted]
    distance = np.abs(adversarial - x).sum() if order == "l1" else np.sqrt(((adversarial - x) ** 2).sum())
    predicted = int(logits.argmax())
    reached = predicted != wanted if target is None else predicted == wanted
    return max(gap + confidence, 0) + c * distance, reached and -gap >= confidence


def threat(settings: dict) -> ThreatModel:
    return ThreatModel(**{name: settings.pop(name) for name in ("norm", "eps", "c", "confidence") if name in settings})


def attack(**settings) -> Attack:
    outputs = settings.get("outputs", "logits")
    model = settings.pop("model", TorchModule(Linear(outputs)))
    return Attack(model, IMAGES, LABELS, threat(settings), **settings)


@pytest.mark.parametrize("outputs", ["logits", "probabilities", "log-probabilities"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("targets", [None, TARGETS])
@pytest.mark.parametrize("confidence", [0.0, 0.7])
def test_loss_and_success_against_the_formula(outputs, norm, targets, confidence):
    objective = attack(outputs=outputs, norm=norm, targets=targets, confidence=confidence, c=0.3)
    result = objective.evaluate(POINTS, PROBLEM)
    rows = [
        expected(p, r, 0.3, norm, targets, confidence) for p, r in zip(POINTS.numpy(), PROBLEM.tolist(), strict=True)
    ]
    np.testing.assert_allclose(result.loss.numpy(), [loss for loss, _ in rows], rtol=1e-12)
    assert result.success.tolist() == [success for _, success in rows]
    assert 0 < int(result.success.sum()) < len(POINTS)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("targets", [None, TARGETS])
def test_gradient_against_central_differences(norm, targets):
    objective = attack(norm=norm, targets=targets)
    loss, gradient = objective.gradient(POINTS, PROBLEM)
    assert not loss.requires_grad
    assert not gradient.requires_grad
    assert torch.equal(loss, objective.evaluate(POINTS, PROBLEM).loss)
    h = 1e-6
    for j in range(objective.dim):
        step = torch.zeros(objective.dim, dtype=torch.float64)
        step[j] = h
        up, down = (objective.evaluate(POINTS + s, PROBLEM).loss for s in (step, -step))
        torch.testing.assert_close(gradient[:, j], (up - down) / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_gradient_at_the_image_itself_is_finite(norm):
    _, gradient = attack(norm=norm).gradient(torch.zeros(PROBLEMS, 20, dtype=torch.float64), torch.arange(PROBLEMS))
    assert gradient.isfinite().all()


def test_one_query_a_point():
    model = Linear()
    objective = attack(model=TorchModule(model))
    objective.evaluate(POINTS, PROBLEM)
    assert model.seen == len(POINTS)
    objective.distances(POINTS, PROBLEM)
    objective.adversarial(POINTS, PROBLEM)
    assert model.seen == len(POINTS)
    objective.gradient(POINTS[:2], PROBLEM[:2])
    assert model.seen == len(POINTS) + 2


def test_adversarial_images_distances_and_predictions():
    objective = attack()
    images = objective.adversarial(POINTS, PROBLEM)
    assert images.shape == (80, *SHAPE)
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)
    moved = (images - IMAGES[PROBLEM]).flatten(1).abs()
    distances = objective.distances(POINTS, PROBLEM)
    torch.testing.assert_close(distances["l1"], moved.sum(1))
    torch.testing.assert_close(distances["l2"], moved.square().sum(1).sqrt())
    torch.testing.assert_close(distances["linf"], moved.amax(1))
    logits = images.flatten(1).numpy() @ WEIGHT + BIAS
    assert objective.predict(POINTS, PROBLEM).tolist() == logits.argmax(1).tolist()


def test_no_success_without_confidence_is_a_tie():
    tied = Attack(PythonFunction(lambda x: x * 0), torch.full((1, 3), 0.5), torch.tensor([0]))
    result = tied.evaluate(torch.zeros(1, 3), torch.tensor([0]))
    assert (float(result.loss), bool(result.success)) == (0.0, False)


def test_a_black_box_without_gradients():
    objective = Attack(PythonFunction(lambda x: x.flatten(1) @ torch.from_numpy(WEIGHT)), IMAGES, LABELS)
    assert not objective.differentiable
    with pytest.raises(InputError, match="has no gradient"):
        objective.gradient(POINTS, PROBLEM)


def test_float32_points_of_float64_images():
    loss = attack().evaluate(POINTS.float(), PROBLEM).loss
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss.double(), attack().evaluate(POINTS, PROBLEM).loss, rtol=1e-4, atol=1e-4)


def test_nan_outputs_give_nan_losses_and_no_success():
    class Flaky(BlackBox):
        def _call(self, x):
            outputs = Linear()(x)
            outputs[1, 4] = torch.nan
            outputs[2] = torch.inf
            return outputs

    result = attack(model=Flaky()).evaluate(POINTS[:4], PROBLEM[:4])
    assert result.loss.isnan().tolist() == [False, True, True, False]
    assert not result.success[1:3].any()


def test_probabilities_of_zero_are_floored():
    certain = PythonFunction(lambda x: torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1))
    objective = Attack(certain, torch.full((1, 3), 0.5), torch.tensor([0]), outputs="probabilities")
    assert objective.evaluate(torch.zeros(1, 3), torch.tensor([0])).loss.item() == pytest.approx(
        30 * np.log(10), rel=1e-6
    )


def bad(images=IMAGES, labels=LABELS, **settings):
    return lambda: Attack(TorchModule(Linear()), images, labels, **settings)


def changed(images, value):
    images = images.clone()
    images[1, 0, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bad((IMAGES * 255).byte()), "images are torch.uint8; expected floating-point pixels in [0, 1]"),
        (bad(IMAGES * 2 - 1), "expected [0, 1]"),
        (bad(changed(IMAGES, torch.nan)), "image 1 holds NaN or infinite pixels"),
        (bad(IMAGES[:0], LABELS[:0]), "expected (P, ...) with at least one image"),
        (bad(IMAGES.flatten()), "expected (P, ...)"),
        (bad(labels=LABELS[:2]), "labels have shape (2,); expected (3,), one per image"),
        (bad(labels=LABELS.double()), "labels are torch.float64; expected integers"),
        (bad(labels=torch.tensor([0, -1, 2])), "label -1 of image 1 is out of range; expected 0 or more"),
        (bad(labels=torch.tensor([0, 1, 6]), num_classes=6), "label 6 of image 2 is out of range; expected 0 .. 5"),
        (bad(targets=torch.tensor([0, 9, 0]), num_classes=6), "target 9 of image 1 is out of range"),
        (bad(targets=LABELS), f"target {int(LABELS[0])} of image 0 is its label"),
        (bad(targets=TARGETS[:1]), "targets have shape (1,)"),
        (bad(num_classes=1), "the model has 1 classes; expected at least 2"),
        (lambda: ThreatModel(c=-1), "c is -1; expected a number of at least 0"),
        (lambda: ThreatModel(confidence=float("nan")), "confidence is nan"),
        (lambda: ThreatModel(norm="l3"), "norm is 'l3'; expected one of l1, l2"),
        (bad(outputs="scores"), "outputs is 'scores'"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_are_learned_from_the_first_call():
    objective = Attack(TorchModule(Linear()), IMAGES, torch.tensor([0, 1, 6]))
    with pytest.raises(InputError, match=r"label 6 of image 2 is out of range; expected 0 \.\. 5"):
        objective.evaluate(POINTS, PROBLEM)
    narrow = attack(num_classes=7)
    with pytest.raises(BlackBoxError, match="the model returned 6 classes; expected 7"):
        narrow.evaluate(POINTS, PROBLEM)


@pytest.mark.parametrize("outputs", ["probabilities", "log-probabilities"])
def test_outputs_that_are_not_what_was_said(outputs):
    objective = attack(model=TorchModule(Linear("logits")), outputs=outputs)
    with pytest.raises(BlackBoxError, match='use outputs="logits"'):
        objective.evaluate(POINTS, PROBLEM)


def test_wrong_points():
    with pytest.raises(InputError, match=r"points have shape \(80, 19\); expected \(N, 20\)"):
        attack().evaluate(POINTS[:, :19], PROBLEM)
    with pytest.raises(InputError, match=r"problem out of range: expected 0 \.\. 2"):
        attack().evaluate(POINTS, PROBLEM + 1)


def ball(norm: str, eps: float, **settings) -> Attack:
    return attack(norm=norm, eps=eps, **settings)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 0.7), ("l2", 100.0), ("linf", 5.0)])
def test_in_a_ball_images_stay_in_it_and_in_range(norm, eps):
    objective = ball(norm, eps)
    adversarial = objective.adversarial(POINTS, PROBLEM)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    length = objective.distances(POINTS, PROBLEM)[norm]
    assert (length <= eps * (1 + 1e-12)).all()
    if eps < 1:
        assert (length > 0.99 * eps).any(), "or the ball was never reached"
    inside = objective.project(POINTS, PROBLEM)
    again = objective.project(inside, PROBLEM)
    torch.testing.assert_close(again, inside, rtol=1e-14, atol=1e-15)
    x = IMAGES[PROBLEM].flatten(1)
    torch.testing.assert_close(x + inside, adversarial.flatten(1), rtol=1e-14, atol=1e-15)
    if norm == "linf":
        assert torch.equal(inside, POINTS.clamp(-eps, eps).minimum(1 - x).maximum(-x))


@pytest.mark.parametrize("eps", [1 / 255, 0.3, 1.0])
def test_images_of_an_linf_ball_are_those_of_the_projected_points_to_the_bit(eps):
    objective = ball("linf", eps)
    x = IMAGES.flatten(1)
    rows = torch.arange(len(x))
    for points in (x.new_full(x.shape, eps), 2 * eps * (x - 0.5), 1 - x, -x, torch.nextafter(1 - x, 2 + x), 9 * x):
        inside = objective.project(points, rows)
        assert torch.equal(objective.adversarial(points, rows).flatten(1), (x + inside).clamp(0, 1))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_in_a_ball_the_loss_is_the_gap_alone(norm):
    objective = ball(norm, 0.3, confidence=0.1)
    far = attack(c=0.0, confidence=0.1)
    inside = objective.project(POINTS, PROBLEM)
    found, wanted = objective.evaluate(POINTS, PROBLEM), far.evaluate(inside, PROBLEM)
    torch.testing.assert_close(found.loss, wanted.loss)
    assert torch.equal(found.success, wanted.success)
    assert objective.constrained
    assert not far.constrained
    assert torch.equal(far.project(POINTS, PROBLEM), POINTS)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 0.5)])
def test_the_gradient_in_a_ball_is_that_of_the_projected_point(norm, eps):
    objective = ball(norm, eps)
    _, gradient = objective.gradient(POINTS, PROBLEM)
    h = 1e-6
    for j in (0, 7, 19):
        e = torch.zeros(20, dtype=torch.float64)
        e[j] = h
        up, down = objective.evaluate(POINTS + e, PROBLEM).loss, objective.evaluate(POINTS - e, PROBLEM).loss
        torch.testing.assert_close(gradient[:, j], (up - down) / (2 * h), rtol=1e-4, atol=1e-6)


def test_the_space_of_an_attack():
    rows = torch.tensor([2, 0])
    x = IMAGES[rows].flatten(1)
    free, small, round_ = attack(), ball("linf", 0.1), ball("l2", 0.4)
    space = free.space(rows, POINTS)
    assert torch.equal(space.low, -x)
    assert torch.equal(space.high, 1 - x)
    assert space.radius.isinf().all()
    assert space.shape.tolist() == [[1, 4, 5], [1, 4, 5]]
    space = small.space(rows, POINTS.float())
    assert space.low.dtype is torch.float32
    assert space.low.min() == -torch.tensor(0.1)
    assert (space.high <= 0.1).all()
    space = round_.space(rows, POINTS)
    assert space.radius.tolist() == [0.4, 0.4]
    assert torch.equal(space.high, 1 - x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "linf"}, "without eps"),
        ({"norm": "l1", "eps": 1.0}, "norm is 'l1'; expected one of l2, linf"),
        ({"norm": "l2", "eps": 0.0}, "eps is 0.0; expected a positive number"),
        ({"norm": "l2", "eps": float("nan")}, "eps is nan"),
    ],
)
def test_unusable_balls(settings, message):
    with pytest.raises(InputError, match=message):
        attack(**settings)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_large_images_are_projected_as_each_alone(norm) -> None:
    images = torch.rand((3, 1, 300, 300), generator=torch.Generator().manual_seed(0))
    attack = Attack(TorchModule(Linear()), images, torch.arange(3), ThreatModel(norm=norm, eps=0.3))
    points = torch.randn((3, 90_000), generator=torch.Generator().manual_seed(1))
    problem = torch.tensor([2, 0, 1])
    every = attack.project(points, problem)
    for row in range(3):
        assert torch.equal(every[row], attack.project(points[row : row + 1], problem[row : row + 1])[0])
        x = images[problem[row]].flatten()
        assert bool((x + every[row]).clamp(0, 1).eq(x + every[row]).all())
        assert every[row].norm(p=torch.inf if norm == "linf" else 2) <= 0.3 * (1 + 1e-6)
    before = points.clone(), images.clone()
    attack.adversarial(points, problem), attack.adversarial(points[:1], problem[:1])
    assert torch.equal(points, before[0])
    assert torch.equal(attack.adversarial(torch.zeros_like(points), torch.arange(3)), images)


@pytest.mark.parametrize("length", [0.0, 0.2999, 0.3, 0.31, 5.0])
def test_a_large_image_in_an_l2_ball_takes_fewer_passes_to_the_same_bits(length) -> None:
    """Images with black and white pixels, points in the pixel range and beyond; with gradients every pass is taken."""
    g = torch.Generator().manual_seed(0)
    images = torch.rand((1, 1, 300, 300), generator=g).sub_(0.2).mul_(1.7).clamp_(0, 1)
    attack = Attack(TorchModule(Linear()), images, torch.arange(1), ThreatModel(norm="l2", eps=0.3))
    direction = torch.randn((1, 90_000), generator=g)
    problem, space = torch.arange(1), attack.space(torch.arange(1), direction)
    for points in (direction, direction.clamp(space.low, space.high)):
        points = points * (length / points.norm())
        with torch.no_grad():
            fewer = attack.project(points, problem), attack.adversarial(points, problem)
        every = attack.project(points, problem), attack.adversarial(points, problem)
        assert all(torch.equal(one, other) for one, other in zip(fewer, every, strict=True))
