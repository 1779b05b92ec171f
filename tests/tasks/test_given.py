"""A user's own model and images as a task: the same problems as a built-in one, told from others by hashes."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from zoracle.blackboxes import BlackBox
from zoracle.errors import InputError
from zoracle.evaluation.evaluate import evaluate
from zoracle.evaluation.spec import RunSpec
from zoracle.objectives import ThreatModel
from zoracle.optimizers.registry import make
from zoracle.storage.hashing import tensor_hash
from zoracle.tasks import given, task
from zoracle.tasks.config import task_config
from zoracle.tasks.given import GivenImages, ImageSet, image_set
from zoracle.tasks.image_attack import ImageData


class Mean(BlackBox):
    """Two classes: dark and bright; it counts the images that it sees."""

    def __init__(self):
        self.seen = 0

    def _call(self, inputs):
        self.seen += len(inputs)
        mean = 20 * (inputs.flatten(1).mean(1) - 0.5)
        return torch.stack((-mean, mean), 1)


IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 3, 5), dtype=np.uint8)
LABELS = [0, 1, 1, 0]


SET = ("targets", "ids", "splits", "class_names", "layout", "problems")
LINF = ThreatModel(norm="linf", eps=0.1)


def build(images=IMAGES, labels=LABELS, **settings):
    given = {name: settings.pop(name) for name in SET if name in settings}
    return GivenImages(Mean(), image_set(images, labels, **given), **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threat", [None, LINF])
def test_the_problems_of_a_built_in_task_are_the_same_when_given(dtype, threat):
    digits = task("digits", threat=threat)
    ids = digits.ids("test")[:3]
    data, box = digits.pick(ids), digits.objective(ids, dtype=dtype).black_box
    given = ImageSet(ImageData(data.images, data.labels, ids), {"test": ids}, digits.white)
    same = GivenImages(box, given, threat=digits.threat)
    assert same.ids("test") == ids
    start = digits.start(ids, seed=3, dtype=dtype)
    assert torch.equal(same.start(ids, seed=3, dtype=dtype), start)
    ours, theirs = (made.objective(ids[::-1], dtype=dtype).evaluate(start, torch.arange(3)) for made in (same, digits))
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.success, theirs.success)
    assert torch.equal(same.pictures(ids).images, digits.pictures(ids).images)


def test_bytes_and_their_fractions_are_the_same_images():
    one, other = build(), build((IMAGES / np.float32(255)).astype(np.float32))
    ids, start = one.ids("test"), one.start(one.ids("test"))
    assert ids == (0, 1, 2, 3)
    losses = [made.objective(ids).evaluate(start, torch.arange(4)).loss for made in (one, other)]
    torch.testing.assert_close(*losses)
    grey, last = build(IMAGES[:, 0]), build(np.moveaxis(IMAGES, 1, 3), layout="NHWC")
    assert torch.equal(grey.pick().images, one.pick().images)
    assert torch.equal(last.pick().images, one.pick().images)
    assert one.pictures(ids).images.shape == (4, 1, 3, 5)


def test_what_is_drawn_for_an_image_follows_its_id():
    one = build(ids=[7, 3, 9, 4])
    assert torch.equal(one.start((9, 3)), build(ids=range(10, 14), splits=None).start((9, 3)))
    picked = one.pick((9, 7))
    assert torch.equal(picked.images, torch.from_numpy(IMAGES[[2, 0]]))
    assert picked.labels.tolist() == [1, 0]


def test_targets_reach_the_objective():
    made = build(targets=[1, 0, 0, 1], threat=ThreatModel(confidence=0.25, c=0.5))
    attack = made.objective((2, 3))
    assert attack.targets.tolist() == [0, 1]
    assert attack.threat == ThreatModel(confidence=0.25, c=0.5, norm="l1", eps=None)
    assert build().objective((2, 3)).targets is None
    assert build(threat=ThreatModel(norm="l2", eps=0.5)).objective((0,)).threat.eps == 0.5
    assert build(threat=ThreatModel(norm="l2", eps=0.5)).start_std == 0
    assert build(start_std=0.1).start_std == 0.1
    assert build(reduce="tile:1x2").dim == build(reduce="tile:1x2").objective((0,)).dim == 2


def test_a_run_counts_what_the_model_saw():
    made = build()
    result = evaluate(make("zo-sgd", num_directions=4), made, RunSpec(ids=made.ids("test"), steps=3))
    assert made.defaults.problems == 4
    assert made.objective(made.ids("test")).black_box.seen == int(result.spent.sum() + result.monitored.sum())


def test_what_is_given_is_told_by_hashes_and_nothing_else(tmp_path):
    config = task_config(build(target="house:classify"))
    assert config["target"] == "house:classify"
    assert config["images_sha256"] == tensor_hash(torch.from_numpy(IMAGES))
    other = IMAGES.copy()
    other[0, 0, 0, 0] ^= 1
    file = tmp_path / "model.onnx"
    file.write_bytes(b"1")
    changed = [
        {"images": other},
        {"labels": [0, 1, 1, 1]},
        {"targets": [1, 0, 0, 1]},
        {"target": "house:other"},
        {"target_file": file},
        {"threat": LINF},
        {"outputs": "probabilities"},
    ]
    seen = [config] + [task_config(build(**{"target": "house:classify", **change})) for change in changed]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
    assert str(tmp_path) not in str(seen)
    assert task_config(build(target="house:classify")) == config


def test_splits():
    made = build(ids=[5, 6, 7, 8], splits={"test": [8, 5], "valid": [6]})
    assert made.ids("test") == (8, 5)
    assert made.ids("valid") == (6,)
    assert build(problems=2).defaults.problems == 2
    with pytest.raises(InputError, match="there are no images for the train split"):
        made.ids("train")
    with pytest.raises(InputError, match="split 'tests' is unknown"):
        made.ids("tests")
    with pytest.raises(InputError, match="task images has no image 9; expected one of its 4 ids"):
        made.objective((9,))


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        (r"labels have shape \(3,\); expected \(4,\)", {"labels": [0, 1, 0]}),
        ("images are int64", {"images": IMAGES.astype(int)}),
        (r"have shape \(4, 3\)", {"images": IMAGES[:, 0, :, 0]}),
        ("label 1 of image 1 is out of range; expected 0 .. 0", {"class_names": ["only"]}),
        ("target 2 of image 0 is out of range", {"class_names": ["a", "b"], "targets": [2, 0, 0, 1]}),
        ("target 1 of image 2 is its label", {"targets": [1, 0, 1, 1]}),
        (r"targets have shape \(2,\)", {"targets": [1, 0]}),
        (r"ids are int64 of shape \(2,\); expected 4 integers", {"ids": [1, 2]}),
        ("ids are float64", {"ids": [1.0, 2, 3, 4]}),
        ("ids contain 2 more than once", {"ids": [1, 2, 2, 4]}),
        ("the test split contains 9", {"splits": {"test": [9]}}),
        ("split 'tests' is unknown", {"splits": {"tests": [0]}}),
        ("layout is 'HWC'", {"layout": "HWC"}),
    ],
)
def test_what_cannot_be_used_is_one_line(message, settings):
    with pytest.raises(InputError, match=message) as told:
        build(**settings)
    assert "\n" not in str(told.value)


def test_the_example_in_the_docstring_runs():
    found = doctest.testmod(given)
    assert found.attempted
    assert not found.failed
