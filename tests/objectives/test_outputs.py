"""Kinds of outputs: distinguished, and what an attack makes of an answer that leaves classes out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import zoracle
from zoracle.blackboxes import PythonFunction, TopK, TorchModule
from zoracle.errors import BlackBoxError, InputError
from zoracle.objectives import Attack, ThreatModel
from zoracle.objectives.outputs import check, log_scores, told_apart
from zoracle.tasks import task

RNG = np.random.default_rng(0)
LOGITS = torch.from_numpy(RNG.normal(size=(40, 6)) * 3)
KINDS = {
    "logits": lambda z: z,
    "probabilities": lambda z: z.softmax(1),
    "log-probabilities": lambda z: z.log_softmax(1),
}
IMAGES = torch.from_numpy(RNG.uniform(size=(3, 20)))
WEIGHT = torch.from_numpy(RNG.normal(size=(20, 6)))
LABELS = (IMAGES @ WEIGHT).argmax(1)
POINTS = torch.from_numpy(RNG.normal(scale=0.8, size=(60, 20)))
PROBLEM = torch.from_numpy(RNG.integers(3, size=60))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_kinds_are_told_apart_row_by_row(kind, dtype):
    for size in (1, 40):
        assert told_apart(KINDS[kind](LOGITS[:size]).to(dtype)) == kind


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_finite_tell_nothing(kind):
    outputs = KINDS[kind](LOGITS).clone()
    outputs[0, 2], outputs[1] = torch.nan, torch.inf
    assert told_apart(outputs) == kind
    assert told_apart(outputs[:2]) == "auto"


def test_special_logits():
    assert told_apart(-LOGITS.abs() - 3) == "logits", "all negative"
    assert told_apart(torch.tensor([[0.0, 0.0, 0.0]]) - math.log(3)) == "log-probabilities"
    assert told_apart(torch.eye(3)) == "probabilities"


@pytest.mark.parametrize("row", [[0.9, 0.8, 0.1], [0.0, 0.0, 0.0], [0.2, 0.3, 0.4]])
def test_what_may_be_either_has_to_be_declared(row):
    with pytest.raises(BlackBoxError, match=r'pass outputs="logits" or outputs="probabilities"') as caught:
        told_apart(torch.tensor([row]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_differences_are_those_of_log_probabilities(kind):
    scores = log_scores(KINDS[kind](LOGITS), kind)
    expected = LOGITS.log_softmax(1)
    torch.testing.assert_close(scores - scores[:, :1], expected - expected[:, :1], rtol=1e-9, atol=1e-9)
    check(KINDS[kind](LOGITS), kind)


def test_a_declared_kind_is_checked():
    for kind in ("probabilities", "log-probabilities"):
        with pytest.raises(BlackBoxError, match='use outputs="logits"'):
            check(LOGITS, kind)
    check(torch.tensor([[0.6, -torch.inf, 0.3]]), "probabilities")


def best(outputs: torch.Tensor, k: int) -> torch.Tensor:
    """Outputs as a top-k answer leaves them."""
    scores, labels = outputs.topk(k)
    return torch.full_like(outputs, -torch.inf).scatter(1, labels, scores)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_classes_that_are_left_out_have_the_bound(kind, k, dtype):
    whole = KINDS[kind](LOGITS.to(dtype))
    answer = best(whole, k)
    missing = answer.isneginf()
    scores, true = log_scores(answer, kind), log_scores(whole, kind)
    listed = torch.where(missing, torch.nan, scores - scores.amax(1, keepdim=True))
    expected = torch.where(missing, torch.nan, true - true.amax(1, keepdim=True))
    torch.testing.assert_close(listed, expected, equal_nan=True)
    bound = scores.masked_fill(~missing, torch.inf).amin(1)
    kth = scores.masked_fill(missing, torch.inf).amin(1)
    assert (bound < kth).all(), "never a tie"
    # It is a bound: relative to the best class, the true score is no higher.
    relative = (true - true.amax(1, keepdim=True)).masked_fill(~missing, -torch.inf).amax(1)
    assert (relative <= bound - scores.amax(1) + 1e-4).all()
    if kind == "logits":
        torch.testing.assert_close(bound, kth)
    else:
        left = ((1 - true.exp().masked_fill(missing, 0).sum(1)) + 8 * torch.finfo(dtype).eps).log()
        torch.testing.assert_close(bound, torch.minimum(kth, left), rtol=1e-3, atol=1e-3)
    # Alone as among others, where others are whole.
    mixed = torch.cat((whole[:1], answer[1:2]))
    assert torch.equal(log_scores(mixed, kind)[1], scores[1])
    assert torch.equal(log_scores(mixed, kind)[0], true[0])


def test_a_row_that_says_nothing_is_nan():
    scores = log_scores(torch.tensor([[-torch.inf, -torch.inf], [1.0, -torch.inf]]), "logits")
    assert scores.isnan().tolist() == [[True, True], [False, False]]


def top(kind: str, k: int):
    def model(x):
        outputs = KINDS[kind](x @ WEIGHT.to(x))
        scores, labels = outputs.topk(k)
        return TopK(labels, scores)

    return PythonFunction(model, classes=6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_untargeted_loss_of_top_k_answers(kind, k):
    whole = Attack(PythonFunction(lambda x: x @ WEIGHT), IMAGES, LABELS, ThreatModel(c=0.0))
    part = Attack(top(kind, k), IMAGES, LABELS, ThreatModel(c=0.0), outputs=kind)
    true, told = (objective.evaluate(POINTS, PROBLEM) for objective in (whole, part))
    assert told.success.tolist() == true.success.tolist(), "who is first is known"
    assert 0 < int(true.success.sum()) < len(POINTS)
    if k > 1:
        # The best other class is listed wherever the label is first: nothing is lost.
        torch.testing.assert_close(told.loss, true.loss)
    elif kind == "logits":
        assert (told.loss < 1e-6).all(), "a plateau: nothing is known of the others"
    else:
        # What is left for the others bounds them, so the loss still tells how sure the model is.
        failed = ~true.success
        p = (POINTS + IMAGES[PROBLEM]).clamp(0, 1) @ WEIGHT
        p = p.softmax(1).amax(1)
        torch.testing.assert_close(told.loss[failed], (p.log() - (1 - p).log()).clamp(min=0)[failed])


@pytest.mark.parametrize("kind", KINDS)
def test_the_targeted_loss_of_top_k_answers(kind):
    targets = (LABELS + 2) % 6
    whole = Attack(PythonFunction(lambda x: x @ WEIGHT), IMAGES, LABELS, ThreatModel(c=0.0), targets=targets)
    part = Attack(top(kind, 3), IMAGES, LABELS, ThreatModel(c=0.0), targets=targets, outputs=kind)
    true, told = (objective.evaluate(POINTS, PROBLEM) for objective in (whole, part))
    assert told.success.tolist() == true.success.tolist()
    images = (POINTS + IMAGES[PROBLEM]).clamp(0, 1)
    listed = ((images @ WEIGHT).topk(3).indices == targets[PROBLEM].unsqueeze(1)).any(1)
    assert 0 < int(listed.sum()) < len(listed)
    torch.testing.assert_close(told.loss[listed], true.loss[listed])
    missing = told.loss[~listed]
    assert (missing > 0).all()
    assert (missing <= true.loss[~listed] + 1e-6).all(), "a lower bound of the true loss"
    if kind == "logits":
        scores = (images @ WEIGHT)[~listed].topk(3).values
        torch.testing.assert_close(missing, scores[:, 0] - scores[:, 2])


def test_confidence_asks_for_a_known_lead():
    answer = TopK(np.array([[1, 2]]), np.array([[3.0, 2.5]]))
    for confidence, success in ((0.0, True), (0.4, True), (0.6, False)):
        objective = Attack(
            PythonFunction(lambda x: answer, classes=4),
            IMAGES[:1],
            torch.tensor([0]),
            ThreatModel(confidence=confidence),
        )
        # The label is not among the two: it lies below 2.5, that is by half a nat at least behind.
        assert objective.evaluate(POINTS[:1], PROBLEM[:1] * 0).success.tolist() == [success]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("declared", [None, "auto", True])
def test_an_attack_by_any_kind_of_outputs_is_the_same(kind, declared):
    digits = task("digits")
    pictures = digits.pictures(digits.ids("test")[:4])
    network = digits.objective(digits.ids("test")[:4], dtype=torch.float64).black_box
    run = {"budget": 66, "optimizer": "zo-sgd", "num_directions": 10, "lr": 0.05, "mu": 1e-2, "seed": 1}
    images = pictures.images.double()
    expected = zoracle.attack(network, images, pictures.labels, outputs="logits", **run)
    box = PythonFunction(lambda x: KINDS[kind](network(x)), framework="torch", outputs=kind if declared else "auto")
    found = zoracle.attack(box, images, pictures.labels, outputs=kind if declared is True else declared, **run)
    torch.testing.assert_close(found.trajectory.loss, expected.trajectory.loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.adversarial, expected.adversarial, rtol=1e-6, atol=1e-6)


def test_top_2_scores_are_enough_for_an_untargeted_attack():
    digits = task("digits")
    pictures = digits.pictures(digits.ids("test")[:6])
    network = digits.objective(digits.ids("test")[:6]).black_box

    def two_best(images):
        scores, labels = network(images).topk(2)
        return {"labels": labels, "scores": scores}

    run = {"budget": 630, "optimizer": "zo-sgd", "lr": 0.05, "mu": 1e-2, "seed": 1}
    box = PythonFunction(two_best, framework="torch", classes=10)
    found = zoracle.attack(box, pictures.images, pictures.labels, **run)
    assert found.success.sum() >= 4
    assert (network(found.adversarial).argmax(1) != pictures.labels)[found.success].all()


def test_the_kind_is_checked():
    with pytest.raises(InputError, match="outputs is 'scores'; expected one of auto, logits, probabilities"):
        Attack(TorchModule(torch.nn.Identity()), IMAGES, LABELS, outputs="scores")


@pytest.mark.parametrize(
    ("answer", "settings", "message"),
    [
        (TopK([[0, 1]] * 2, [[1.0, 2.0]] * 2), {}, r"pass the number of classes, such as classes=1000"),
        (
            TopK([["a", "b"]] * 2, [[1.0, 2.0]] * 2),
            {"classes": 3},
            "returns class names; pass them in order: class_names=",
        ),
        (
            TopK([["a", "z"]] * 2, [[1.0, 2.0]] * 2),
            {"class_names": ["a", "b"]},
            "the class 'z', which is not in class_names",
        ),
        (TopK([[0, 3]] * 2, [[1.0, 2.0]] * 2), {"classes": 3}, r"label 3; expected 0 \.\. 2"),
        (TopK([[0, -1]] * 2, [[1.0, 2.0]] * 2), {"classes": 3}, r"label -1; expected 0 \.\. 2"),
        (TopK([[1, 1]] * 2, [[1.0, 2.0]] * 2), {"classes": 3}, "a label twice among the k best"),
        (TopK([[0.0, 1.0]] * 2, [[1.0, 2.0]] * 2), {"classes": 3}, "labels of type float64; expected integers"),
        (TopK([[0, 1]] * 2, [["x", "y"]] * 2), {"classes": 3}, "scores of type <U1; expected numbers"),
        (TopK([[0, 1]], [[1.0, 2.0]]), {"classes": 3}, r"labels \(1, 2\) and scores \(1, 2\) for 2 inputs"),
        (TopK([0, 1], [1.0, 2.0]), {"classes": 3}, r"labels \(2,\) and scores \(2,\) for 2 inputs"),
        ({"labels": [[0]] * 2}, {"classes": 3}, "a dict of labels; expected labels and scores"),
        ({}, {"classes": 3}, "a dict of nothing"),
        ([1, 0], {}, r"integers of shape \(2,\); labels only are not enough, it takes logits"),
        (np.array([[1], [0]]), {}, r"integers of shape \(2, 1\); labels only"),
        (torch.tensor([1, 0]), {}, r"integers of shape \(2,\); labels only"),
        (["cat", "dog"], {}, "names; labels only are not enough"),
        (np.array([0.0, 1.0]), {}, r"shape \(2,\) for 2 inputs.*; labels only are not enough"),
    ],
)
def test_answers_that_cannot_be_used(answer, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        PythonFunction(lambda x: answer, **settings)(torch.zeros(2, 4))
    assert "\n" not in str(caught.value)


def test_names_numbers_and_order_of_top_k_answers():
    expected = torch.tensor([[-torch.inf, 2.0, 1.0], [3.0, -torch.inf, 4.0]])
    scores = [[1.0, 2.0], [4.0, 3.0]]
    for labels in ([["c", "b"], ["c", "a"]], np.array([[b"c", b"b"], [b"c", b"a"]])):
        box = PythonFunction(lambda x, labels=labels: TopK(labels, scores), class_names=["a", "b", "c"])
        assert torch.equal(box(torch.zeros(2, 4)), expected)
    numbered = PythonFunction(lambda x: {"labels": [[2, 1], [2, 0]], "scores": scores}, classes=3)
    assert torch.equal(numbered(torch.zeros(2, 4)), expected)
    lost = PythonFunction(lambda x: TopK([[2, 1], [2, 0]], [[1.0, np.nan], [4.0, 3.0]]), classes=3)
    assert lost(torch.zeros(2, 4)).isnan().any(1).tolist() == [True, False]


@pytest.mark.parametrize(
    "settings", [{"classes": 1}, {"classes": 2.5}, {"classes": 3, "class_names": ["a", "b"]}, {"class_names": "ab"}]
)
def test_classes_that_cannot_be(settings):
    with pytest.raises(InputError, match="class"):
        PythonFunction(lambda x: x, **settings)
