"""The search for a step size in ``reproduce finetune``."""

import math

import pytest
import torch

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
