"""What a run will reach, told from what it has reached."""

from __future__ import annotations

import torch

from zoracle.optimizers.forecast import begun, forecast, forgotten, marked


def after(*values: float, members: int = 1):
    history = begun(torch.zeros(1, dtype=torch.float64), members)
    for value in values:
        history = marked(history, 0, torch.tensor([value], dtype=torch.float64))
    return history


def told(history, left: float, error: float = 0.0) -> float:
    turns = torch.full(history.marks.shape, left, dtype=torch.float64)
    return float(forecast(history, turns, torch.tensor([error], dtype=torch.float64))[0, 0])


def test_a_geometric_sequence_is_continued_exactly() -> None:
    run = lambda n: 2 + 5 * 0.8**n  # noqa: E731
    for turns in (3, 7, 12, 40):  # marks are thinned out from the seventeenth on
        now = run(turns - 1)
        history = after(*(run(n) for n in range(turns)))
        for left in (4, 20, 200):
            ends = run(turns - 1 - int(history.turns) + left)
            assert abs(told(history, left) - ends) < 0.02 * now


def test_steady_and_growing_gains_are_continued_as_they_are() -> None:
    assert abs(told(after(10.0, 9.0, 8.0), 3) - 5.0) < 1e-9
    assert abs(told(after(10.0, 9.9, 9.0), 3) - 6.3) < 1e-9


def test_nothing_is_foretold_of_a_young_run_and_nothing_gained_by_one_that_stands() -> None:
    assert told(after(3.0, 2.0), 10) == -float("inf")
    assert told(after(3.0, 2.0, 2.0), 10) == 2.0
    assert told(after(3.0, float("inf"), 2.0), 10) == -float("inf")  # an infinite value leaves no mark
    assert told(after(3.0, 2.9, 2.8), 10, error=0.2) == 2.8


def test_members_are_apart() -> None:
    history = after(4.0, 2.0, 1.0, members=2)
    assert history.young.tolist() == [[False, True]]
    assert float(history.gain[0, 0]) == 3.0
    assert forgotten(history, 0).young.tolist() == [[True, True]]
    assert forgotten(history, 1).marks.tolist() == [[3, 0]]
