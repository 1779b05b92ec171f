from __future__ import annotations

import numpy as np
import pytest
import torch

import zoracle
from classifiers import CLASSES, IMAGES, LABELS, NUMBER, TARGETS, Linear
from zoracle.errors import BlackBoxError, InputError

foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed (extra foolbox)")

from zoracle.interop.foolbox import L2ZoracleAttack, LinfZoracleAttack, ZoracleMinimizationAttack  # noqa: E402

BALLS = [(LinfZoracleAttack, "linf", 0.05), (L2ZoracleAttack, "l2", 0.3)]  # some succeed, some do not
SETTINGS = {"optimizer": "zo-sgd", "lr": 0.002, "num_directions": 5}
PIXELS = foolbox.distances


def wrapped(model: Linear):
    return foolbox.PyTorchModel(model.eval(), bounds=(model.low, model.high), device="cpu")


@pytest.mark.parametrize(("kind", "norm", "eps"), BALLS)
def test_within_a_ball_it_is_zoracles_attack_and_foolbox_agrees(kind, norm, eps):
    model = Linear()
    attack = kind(budget=200, seed=4, **SETTINGS)
    raw, clipped, success = attack(wrapped(model), IMAGES, LABELS, epsilons=eps)
    same = zoracle.attack(
        Linear(), IMAGES, LABELS, budget=200, norm=norm, eps=eps, seed=4, stop_on_success=True, **SETTINGS
    )
    assert torch.equal(raw, same.adversarial)
    assert torch.equal(success, same.success)
    assert 0 < success.sum() < NUMBER
    assert attack.queries.tolist() == same.queries.tolist()
    assert attack.queries.max() <= 200
    # Foolbox verifies with one call an image; that is its own.
    assert model.seen == int(attack.queries.sum()) + NUMBER
    torch.testing.assert_close(clipped, raw, rtol=0, atol=1e-6)
    assert (attack.distance(IMAGES, raw) <= eps * (1 + 1e-5)).all()


@pytest.mark.parametrize("p", [1, 2])
def test_minimisation_is_zoracles_attack_and_foolbox_agrees(p):
    model = Linear()
    attack = ZoracleMinimizationAttack(distance={1: PIXELS.l1, 2: PIXELS.l2}[p], budget=300, c=0.2, **SETTINGS)
    raw, _, success = attack(wrapped(model), IMAGES, LABELS, epsilons=[None, 1e-3])
    same = zoracle.attack(Linear(), IMAGES, LABELS, budget=300, norm=f"l{p}", c=0.2, **SETTINGS)
    assert torch.equal(raw[0], same.adversarial)
    assert success.tolist() == [same.success.tolist(), [False] * NUMBER]  # within 1e-3 there is nothing
    assert same.success.all()
    assert attack.queries.shape == (NUMBER,)
    assert model.seen == int(attack.queries.sum()) + 2 * NUMBER


def test_several_epsilons_have_counts_each():
    model = Linear()
    attack = LinfZoracleAttack(budget=200, **SETTINGS)
    _, _, success = attack(wrapped(model), IMAGES, LABELS, epsilons=[0.001, 0.05, 0.2])
    assert attack.queries.shape == success.shape == (3, NUMBER)
    assert [bool(part.success.all()) for part in attack.results] == success.all(1).tolist() == [False, False, True]
    assert model.seen == int(attack.queries.sum()) + 3 * NUMBER
    # Once more: the counts are those of the last call.
    attack(wrapped(model), IMAGES, LABELS, epsilons=[0.2])
    assert attack.queries.shape == (1, NUMBER)


@pytest.mark.parametrize(("kind", "eps"), [(LinfZoracleAttack, 0.12), (L2ZoracleAttack, 0.5)])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0), (-0.42, 2.82)])
def test_other_bounds_are_the_same_attack_in_other_units(kind, eps, low, high):
    width = high - low
    model = Linear(low, high)
    attack, unit = (kind(budget=200, **SETTINGS) for _ in range(2))
    images = (IMAGES * width + low).clamp(low, high)
    raw, _, success = attack(wrapped(model), images, LABELS, epsilons=eps * width)
    expected, _, _ = unit(wrapped(Linear()), IMAGES, LABELS, epsilons=eps)
    assert success.all()
    assert low <= model.lowest < model.highest <= high
    assert attack.distance(images, raw).max() <= eps * width * (1 + 1e-5)
    # Pixels are rounded differently, which makes differences of values a little noisy: not to the bit.
    torch.testing.assert_close((raw - low) / width, expected, rtol=0, atol=0.01)
    assert (attack.queries - unit.queries).abs().max() <= 12  # two steps


@pytest.mark.parametrize("kind", [LinfZoracleAttack, L2ZoracleAttack])
def test_targeted(kind):
    model = Linear()
    attack = kind(budget=1200, **SETTINGS)
    criterion = foolbox.criteria.TargetedMisclassification(TARGETS)
    raw, _, success = attack(wrapped(model), IMAGES, criterion, epsilons=3.0)
    assert success.all()
    assert torch.equal(Linear()(raw).argmax(1), TARGETS)
    assert model.seen == int(attack.queries.sum()) + NUMBER
    # Class 0 and class 1 are what stands in for the labels; both can be targets.
    for target in (0, 1):
        criterion = foolbox.criteria.TargetedMisclassification(torch.full((NUMBER,), target))
        raw, _, success = attack(wrapped(model), IMAGES, criterion, epsilons=5.0)
        assert (Linear()(raw).argmax(1) == target).tolist() == success.tolist() == [True] * NUMBER


def test_a_numpy_model_with_channels_last_gives_the_same():
    model = Linear()
    seen = []

    def predict(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape)
        return model(torch.from_numpy(x.copy()).movedim(-1, 1)).numpy()

    last = foolbox.NumPyModel(predict, bounds=(0, 1), data_format="channels_last")
    attack = LinfZoracleAttack(budget=200, chunk=7, **SETTINGS)
    images = IMAGES.movedim(1, -1).contiguous().numpy()
    raw, _, success = attack(last, images, LABELS.numpy(), epsilons=0.1)
    same = zoracle.attack(
        Linear(), IMAGES, LABELS, budget=200, norm="linf", eps=0.1, stop_on_success=True, chunk=7, **SETTINGS
    )
    assert isinstance(raw, np.ndarray)
    assert {shape[1:] for shape in seen} == {(4, 5, 3)}
    assert max(shape[0] for shape in seen) == 7
    np.testing.assert_array_equal(raw, same.adversarial.movedim(1, -1).numpy())
    assert success.tolist() == same.success.tolist()
    assert model.seen == int(attack.queries.sum()) + NUMBER


def test_a_model_without_a_data_format():
    attack = LinfZoracleAttack(budget=200, **SETTINGS)
    model = Linear()
    plain = foolbox.NumPyModel(lambda x: model(torch.from_numpy(x.copy())).numpy(), bounds=(0, 1))
    _, _, success = attack(plain, IMAGES.numpy(), LABELS.numpy(), epsilons=0.2)
    assert success.all()


@pytest.mark.parametrize("given", [{}, {"outputs": "probabilities"}])
def test_probabilities_and_misclassified_images(given):
    class Probabilities(Linear):
        def forward(self, x):
            return super().forward(x).softmax(1)

    attack = LinfZoracleAttack(budget=200, **given, **SETTINGS)
    wrong = (LABELS + 1) % CLASSES
    _, _, success = attack(wrapped(Probabilities()), IMAGES, wrong, epsilons=0.05)
    assert success.all()
    assert attack.results[0].misclassified.all()
    assert attack.queries.tolist() == [1] * NUMBER  # the look that found out


@pytest.mark.parametrize(("kind", "norm", "eps"), BALLS)
def test_square_attack(kind, norm, eps):
    model = Linear()
    attack = kind(budget=300, optimizer="square", seed=2)
    raw, _, success = attack(wrapped(model), IMAGES, LABELS, epsilons=eps)
    given = {"norm": norm, "eps": eps, "stop_on_success": True, "optimizer": "square", "seed": 2}
    assert torch.equal(raw, zoracle.attack(Linear(), IMAGES, LABELS, budget=300, **given).adversarial)
    assert success.tolist() == attack.results[0].success.tolist()
    assert success.any()
    assert model.seen == int(attack.queries.sum()) + NUMBER


def test_what_else_zoracles_attack_takes_goes_through():
    attack = LinfZoracleAttack(budget=200, reduce="tile:2x2", **SETTINGS)
    raw, _, _ = attack(wrapped(Linear()), IMAGES, LABELS, epsilons=0.1)
    given = {"norm": "linf", "eps": 0.1, "stop_on_success": True, "reduce": "tile:2x2", **SETTINGS}
    assert torch.equal(raw, zoracle.attack(Linear(), IMAGES, LABELS, budget=200, **given).adversarial)


def test_what_cannot_be_attacked_is_told():
    model = wrapped(Linear())
    attack = LinfZoracleAttack(budget=200, **SETTINGS)
    with pytest.raises(InputError, match=r"has not been called yet"):
        _ = attack.queries
    both = foolbox.criteria.Misclassification(LABELS) & foolbox.criteria.Misclassification(TARGETS)
    with pytest.raises(InputError, match=r"expected labels, Misclassification or TargetedMisclassification"):
        attack(model, IMAGES, both, epsilons=0.1)
    with pytest.raises(InputError, match=r"create one per seed"):
        attack.repeat(3)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'mask'"):
        attack(model, IMAGES, LABELS, epsilons=0.1, mask=1)
    with pytest.raises(InputError, match=r"eps is -1"):
        attack(model, IMAGES, LABELS, epsilons=-1.0)
    with pytest.raises(InputError, match=r"pixels range over \[.*\]; expected those of the model, \[0, 1\]"):
        attack.run(model, IMAGES * 9, LABELS, epsilon=0.1)
    with pytest.raises(InputError, match=r"distance is Linf distance"):
        ZoracleMinimizationAttack(distance=PIXELS.linf, budget=100)
    with pytest.raises(InputError, match=r"budget is 3 queries"):
        LinfZoracleAttack(budget=3, **SETTINGS)(model, IMAGES, LABELS, epsilons=0.1)
    broken = foolbox.NumPyModel(lambda x: 1 / 0, bounds=(0, 1))
    with pytest.raises(BlackBoxError, match=r"ZeroDivisionError"):
        attack(broken, IMAGES.numpy(), LABELS.numpy(), epsilons=0.1)


def test_its_repr_names_the_settings():
    attack = L2ZoracleAttack(budget=200, **SETTINGS)
    attack(wrapped(Linear()), IMAGES, LABELS, epsilons=0.1)
    assert repr(attack) == (
        "L2ZoracleAttack(budget=200, optimizer=zo-sgd, confidence=0.0, outputs=auto, seed=0, chunk=None, "
        "settings={'lr': 0.002, 'num_directions': 5}, stop_on_success=True)"
    )
