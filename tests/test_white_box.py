"""`python -m scripts.white_box`: what projected gradient descent breaks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.white_box import broken_by_gradients, correct, main
from zoracle.blackboxes import TorchModule
from zoracle.objectives import ThreatModel
from zoracle.tasks import GivenImages, ImageData, ImageSet


@pytest.mark.parametrize(("norm", "eps", "dual"), [("linf", 0.08, 1), ("l2", 0.3, 2)])
def test_a_linear_classifier_falls_where_its_margin_is_within_reach(norm, eps, dual):
    g = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(200, 1, 4, 5, generator=g)  # no pixel reaches a bound
    linear = nn.utils.skip_init(nn.Linear, 20, 2)  # no global random state
    with torch.no_grad():
        linear.weight.copy_(torch.randn(2, 20, generator=g))
        linear.bias.zero_()
        scores = linear(images.flatten(1))
    labels = scores.argmax(1)
    ids = tuple(range(200))
    data = ImageSet(ImageData(images, labels, ids), {"test": ids, "valid": ()}, 1.0, ("a", "b"))
    network = TorchModule(nn.Sequential(nn.Flatten(), linear))
    attack = GivenImages(network, data, name="linear", target="linear", threat=ThreatModel(norm=norm, eps=eps))
    assert correct(attack, ids) == ids
    distance = (scores[:, 0] - scores[:, 1]).abs() / (linear.weight[0] - linear.weight[1]).norm(p=dual)
    clear = (distance - eps).abs() > 0.02 * eps
    found = broken_by_gradients(attack, ids, restarts=1, steps=40)
    assert torch.equal(found[clear], (distance < eps)[clear])
    assert 20 < int(found.sum()) < 180


def test_it_says_how_many_fall(capsys):
    main(["--task", "digits", "--eps", "3/10", "--problems", "10", "--steps", "20"])
    assert capsys.readouterr().out == "10 of 10 images are broken\n"
    with pytest.raises(SystemExit, match="2"):
        main(["--task", "quadratic", "--eps", "0.1"])
