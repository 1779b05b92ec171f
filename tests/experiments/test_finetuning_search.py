"""The search for a step size in ``reproduce finetune``, and how soon an accuracy is reached."""

import math

import numpy as np
import pytest
import torch

from zoracle.experiments.finetune import reached, speed
from zoracle.experiments.finetuning.training import Outcome, searched


def test_a_search_goes_on_beyond_the_edge_of_a_grid_and_ends_at_what_suits_a_whole_run():
    def run(lr: float, forwards: int) -> Outcome:
        best = 1e-1 if forwards < 400 else 1e-4  # a long run diverges at what is best for a short one
        distance = abs(math.log10(lr / best))
        return Outcome(torch.zeros(5), torch.tensor([0.0, forwards]), torch.tensor([0.5, distance]), 0.0)

    found = searched(run, "mezo", 400)
    assert found.lr == pytest.approx(1e-1 / 3**5)  # as far as it may go from 1e-1
    assert found.forwards == 6 * 100 + 7 * 400  # up to 1 and back; three, and four beyond
    assert searched(run, "mezo", 400, fine=False).lr == pytest.approx(1e-1)


def test_when_an_accuracy_is_first_reached():
    spent = torch.tensor([0.0, 100.0, 200.0, 300.0, 400.0], dtype=torch.float64)
    curve = torch.tensor([0.2, 0.4, 0.3, 0.8, 0.5], dtype=torch.float64)
    assert reached(curve, spent, 0.2) == 0.0
    assert reached(curve, spent, 0.35) == pytest.approx(75.0)
    assert reached(curve, spent, 0.4) == pytest.approx(100.0)
    assert reached(curve, spent, 0.5) == pytest.approx(240.0)
    assert reached(curve, spent, 0.9) == math.inf


def test_the_learned_method_against_tuned_mezo_by_seed():
    mezo = torch.tensor([[0.1, 0.1, 0.2, 0.3, 0.5], [0.3, 0.3, 0.3, 0.3, 0.7]], dtype=torch.float64)
    learned = torch.tensor([[0.1, 0.5, 0.7, 0.7, 0.7], [0.3, 0.3, 0.4, 0.5, 0.5]], dtype=torch.float64)
    curves = {
        "a/mezo/accuracy": mezo.numpy(),
        "a/learned/accuracy": learned.numpy(),
        "a/mezo/forwards": np.array([0.0, 250.0, 500.0, 750.0, 1000.0]),
        "a/learned/forwards": np.array([0.0, 200.0, 400.0, 600.0, 800.0]),
    }
    found = speed("a", curves)
    assert found is not None
    assert (found["target"], found["runs"]) == (pytest.approx(0.6), 1)
    assert found["half"] == pytest.approx(((0.7 - 0.5) + (0.4 - 0.7)) / 2)
    assert found["end"] == pytest.approx(0.0)
    # The first run reaches 0.6 half way between 200 and 400; the second counts with its 800.
    assert found["share"] == pytest.approx((0.3 + 0.8) / 2)
    assert found["share_low"] < found["share"] < found["share_high"]
    still = speed("a", curves | {"a/mezo/accuracy": mezo[:, :1].expand(-1, 5).numpy()})
    assert still is not None
    assert not {"share", "runs"} & set(still), "MeZO does not leave the start: there is nothing to reach"
    assert speed("a", {key: value for key, value in curves.items() if "mezo" not in key}) is None
