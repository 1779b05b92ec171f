"""Draws that are keyed: the same in any batch, and as random as they say."""

from __future__ import annotations

import torch

from zoracle.keyed import integers, mix, signs
from zoracle.types import Key


def key(problems: list[int], step: int = 3, seed: int = -5) -> Key:
    k = Key.start(seed, torch.tensor(problems))
    return k._replace(step=torch.full_like(k.step, step))


def test_integers_are_the_words_that_mix_gives() -> None:
    drawn = integers(key([7, -2]), 1000, 4, stream=9)
    expected = [[mix(-5, problem, 3, 9, j) * 1000 >> 32 for j in range(4)] for problem in (7, -2)]
    assert drawn.tolist() == expected
    assert integers(key([-2]), 1000, 2, stream=9).tolist() == [expected[1][:2]]


def test_integers_are_uniform_and_stay_below_their_limit() -> None:
    drawn = integers(key([1]), 10, 20_000)[0]
    counts = drawn.bincount(minlength=10)
    assert counts.shape == (10,)
    assert float((counts - 2000).abs().max()) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    limits = torch.tensor([[1, 2], [3, 4]])
    each = torch.stack([integers(key([0, 1], step), limits, 2) for step in range(200)])
    assert (each.amax(0) == limits - 1).all()
    assert (each >= 0).all()


def test_draws_differ_by_seed_problem_step_and_stream() -> None:
    one = integers(key([1]), 2**31, 3)
    for other in (key([2]), key([1], step=4), key([1], seed=6)):
        assert not bool((integers(other, 2**31, 3) == one).any())
    assert not bool((integers(key([1]), 2**31, 3, stream=1) == one).any())


def test_signs_are_fair_and_of_the_type_asked_for() -> None:
    drawn = signs(key([4]), 10_000, dtype=torch.float64)
    assert drawn.dtype == torch.float64
    assert drawn.abs().eq(1).all()
    assert abs(float(drawn.mean())) < 0.05
