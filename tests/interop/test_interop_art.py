from __future__ import annotations

import numpy as np
import pytest
import torch

import zoracle
from classifiers import CLASSES, IMAGES, LABELS, NUMBER, SHAPE, TARGETS, Linear
from zoracle.errors import BlackBoxError, InputError

pytest.importorskip("art", reason="ART is not installed (extra art)")

from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier, SklearnClassifier
from art.exceptions import EstimatorError

from zoracle.interop.art import ZoracleAttack

SETTINGS = {"optimizer": "zo-sgd", "lr": 0.002, "num_directions": 5}
X, Y = IMAGES.numpy(), LABELS.numpy()
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[Y]
THREATS = [
    ({"norm": np.inf, "eps": 0.05}, {"norm": "linf", "eps": 0.05, "stop_on_success": True}),
    ({"norm": 2, "eps": 0.3}, {"norm": "l2", "eps": 0.3, "stop_on_success": True}),
    ({"norm": 1, "eps": None, "c": 0.2}, {"norm": "l1", "c": 0.2}),
    ({"norm": "2", "eps": None, "stop_on_success": True}, {"norm": "l2", "stop_on_success": True}),
]


def black_box(model: Linear, outputs: str = "logits", clip_values=(0, 1)) -> BlackBoxClassifier:
    def predict(x):
        logits = model(torch.from_numpy(x))
        return (logits if outputs == "logits" else logits.softmax(1)).numpy()

    return BlackBoxClassifier(predict, SHAPE, CLASSES, clip_values=clip_values)


@pytest.mark.parametrize(("threat", "same_threat"), THREATS, ids=["linf ball", "l2 ball", "small l1", "small l2"])
def test_it_is_zoracles_attack_with_exact_counts(threat, same_threat):
    model = Linear()
    attack = ZoracleAttack(black_box(model), budget=200, seed=3, **threat, **SETTINGS)
    adversarial = attack.generate(X, Y)
    assert model.seen == attack.queries.sum()
    assert attack.queries.max() <= 200
    same = zoracle.attack(Linear(), IMAGES, LABELS, budget=200, seed=3, **same_threat, **SETTINGS)
    assert adversarial.dtype == np.float32
    np.testing.assert_array_equal(adversarial, same.adversarial.numpy())
    np.testing.assert_array_equal(attack.queries, same.queries.numpy())
    assert same.success.any()
    right = attack.estimator.predict(adversarial).argmax(1) == Y
    assert right.tolist() == (~same.success).tolist() == (~attack.result.success).tolist()


@pytest.mark.parametrize("y", [Y, Y.astype(np.int32)[:, None], ONE_HOT, IMAGES.new_tensor(ONE_HOT), Y.tolist()])
def test_labels_in_any_form(y):
    model = Linear()
    attack = ZoracleAttack(black_box(model), budget=200, eps=0.05, **SETTINGS)
    expected = zoracle.attack(
        Linear(), IMAGES, LABELS, budget=200, norm="linf", eps=0.05, stop_on_success=True, **SETTINGS
    )
    np.testing.assert_array_equal(attack.generate(X, y), expected.adversarial.numpy())
    assert model.seen == attack.queries.sum() == expected.queries.sum()


def test_no_labels_cost_a_query_an_image():
    model = Linear()
    attack = ZoracleAttack(black_box(model), budget=200, eps=0.05, **SETTINGS)
    labelled = attack.generate(X, Y)
    known, model.seen = attack.queries, 0
    np.testing.assert_array_equal(attack.generate(X), labelled)  # the classifier is right about these
    np.testing.assert_array_equal(attack.queries, known + 1)
    assert model.seen == attack.queries.sum()


@pytest.fixture
def draws():
    """ART's PyTorchClassifier draws from torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.usefixtures("draws")
def test_a_pytorch_classifier_and_its_clip_values():
    model = Linear(-1.0, 1.0)
    classifier = PyTorchClassifier(model, loss=None, input_shape=SHAPE, nb_classes=CLASSES, clip_values=(-1, 1))
    attack = ZoracleAttack(classifier, budget=300, eps=0.24, batch_size=7, **SETTINGS)
    x = X * 2 - 1
    adversarial = attack.generate(x, ONE_HOT)
    assert model.seen == attack.queries.sum()
    assert (classifier.predict(adversarial).argmax(1) != Y).all()
    assert np.abs(adversarial - x).max() <= 0.24 * (1 + 1e-5)
    assert -1 <= model.lowest < model.highest <= 1


@pytest.mark.parametrize("y", [TARGETS.numpy(), np.zeros(NUMBER, dtype=int), np.ones(NUMBER, dtype=int)])
def test_targeted(y):
    classifier = black_box(Linear())
    attack = ZoracleAttack(classifier, budget=1200, eps=5.0, norm=2, targeted=True, **SETTINGS)
    assert attack.targeted
    adversarial = attack.generate(X, y)
    assert (classifier.predict(adversarial).argmax(1) == y).all()
    with pytest.raises(InputError, match=r"targeted attack was given no y"):
        attack.generate(X)


@pytest.mark.parametrize("given", [{}, {"outputs": "probabilities"}])
def test_probabilities(given):
    attack = ZoracleAttack(black_box(Linear(), "probabilities"), budget=200, **given, **SETTINGS)
    expected = zoracle.attack(
        Linear(), IMAGES, LABELS, budget=200, norm="linf", eps=0.3, stop_on_success=True, **SETTINGS
    )
    np.testing.assert_allclose(attack.generate(X, Y), expected.adversarial.numpy(), atol=5e-3)
    assert (attack.estimator.predict(attack.generate(X, Y)).argmax(1) != Y).all()


def test_a_classifier_of_features():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features = IMAGES.flatten(1).repeat(20, 1).double().numpy()
    features += np.random.default_rng(1).normal(scale=0.02, size=features.shape)
    fitted = linear_model.LogisticRegression().fit(features, np.tile(Y, 20))
    classifier = SklearnClassifier(fitted, clip_values=(0, 1))
    x = features[:NUMBER].astype(np.float32)
    given = {"optimizer": "zo-signsgd", "lr": 0.02}
    attack = ZoracleAttack(classifier, budget=400, eps=0.3, **given)
    y = classifier.predict(x).argmax(1)
    adversarial = attack.generate(x)
    assert adversarial.shape == x.shape
    assert np.abs(adversarial - x).max() <= 0.3 * (1 + 1e-5)
    assert (classifier.predict(adversarial).argmax(1) != y).tolist() == attack.result.success.tolist()
    assert attack.result.success.any()


def test_channels_last():
    model = Linear()
    classifier = black_box(model)
    classifier.channels_first = False
    classifier._predict_fn = lambda x: model(torch.from_numpy(x).movedim(-1, 1)).numpy()
    attack = ZoracleAttack(classifier, budget=200, eps=0.05, **SETTINGS)
    expected = ZoracleAttack(black_box(Linear()), budget=200, eps=0.05, **SETTINGS).generate(X, Y)
    adversarial = attack.generate(np.moveaxis(X, 1, -1), Y)
    assert adversarial.shape == (NUMBER, 4, 5, 3)
    np.testing.assert_array_equal(np.moveaxis(adversarial, -1, 1), expected)


def test_parameters_in_arts_way():
    attack = ZoracleAttack(black_box(Linear()), budget=200, **SETTINGS)
    assert "budget=200, norm=inf, eps=0.3, optimizer=zo-sgd, targeted=False" in repr(attack)
    attack.set_params(budget=50, eps=0.01, settings={"lr": 0.1})
    assert attack.generate(X, Y).shape == X.shape
    assert attack.queries.max() == 44  # the image itself, two steps of 21, the last iterate
    with pytest.raises(ValueError, match=r'"speed" cannot be set'):
        attack.set_params(speed=1)
    with pytest.raises(InputError, match=r"budget is 0; expected at least 1"):
        attack.set_params(budget=0)
    with pytest.raises(InputError, match=r"norm is 3; expected np.inf, 1 or 2"):
        attack.set_params(budget=50, norm=3)


@pytest.mark.parametrize(
    ("y", "told"),
    [
        (Y[:2], r"y is int64 of shape \(2,\); expected 5 integers, or one-hot rows \(5, 6\)"),
        (Y + 10, r"y ranges over .*; expected classes 0 .. 5"),
        (Y - 10, r"y ranges over"),
        (Y * 1.0, r"y is float64"),
        (ONE_HOT[:, :3], r"of shape \(5, 3\)"),
    ],
)
def test_labels_that_are_none(y, told):
    model = Linear()
    with pytest.raises(InputError, match=told):
        ZoracleAttack(black_box(model), budget=200, **SETTINGS).generate(X, y)
    assert model.seen == 0


def test_what_cannot_be_attacked_is_told():
    model = Linear()
    attack = ZoracleAttack(black_box(model), budget=200, **SETTINGS)
    with pytest.raises(InputError, match=r"pixels range over .*; expected those of the model, \[0, 1\]"):
        attack.generate(X * 9, Y)
    with pytest.raises(InputError, match=r"image 0 holds NaN"):
        attack.generate(np.full_like(X, np.nan), Y)
    with pytest.raises(InputError, match=r"generate was given mask; expected x and y only"):
        attack.generate(X, Y, mask=None)
    with pytest.raises(InputError, match=r"has no clip_values"):
        ZoracleAttack(black_box(model, clip_values=None), budget=200).generate(X, Y)
    limits = np.zeros(SHAPE), np.linspace(1, 2, 60).reshape(SHAPE)
    with pytest.raises(InputError, match=r"clip_values differ between pixels"):
        ZoracleAttack(black_box(model, clip_values=limits), budget=200).generate(X, Y)
    with pytest.raises(InputError, match=r"norm is 'linf' without eps"):
        ZoracleAttack(black_box(model), budget=200, eps=None).generate(X, Y)
    with pytest.raises(InputError, match=r"targeted is 1"):
        ZoracleAttack(black_box(model), budget=200, targeted=1)
    with pytest.raises(EstimatorError):
        ZoracleAttack(model, budget=200)
    assert model.seen == 0
    broken = BlackBoxClassifier(lambda x: 1 / 0, SHAPE, CLASSES, clip_values=(0, 1))
    with pytest.raises(BlackBoxError, match=r"ZeroDivisionError"):
        ZoracleAttack(broken, budget=200, **SETTINGS).generate(X, Y)


def test_clip_values_that_are_arrays_of_one_number():
    limits = np.zeros(SHAPE, dtype=np.float32), np.ones(SHAPE, dtype=np.float32)
    attack = ZoracleAttack(black_box(Linear(), clip_values=limits), budget=200, eps=0.05, **SETTINGS)
    expected = ZoracleAttack(black_box(Linear()), budget=200, eps=0.05, **SETTINGS)
    np.testing.assert_array_equal(attack.generate(X, Y), expected.generate(X, Y))
