"""Memory at a million coordinates, and how it grows. Each reading is of a process of its own."""

from __future__ import annotations

import pytest

from benchmarks.measure import peak_memory

BASE = {"b": 2, "d": 100_000, "q": 20, "steps": 3}
OPTIMIZERS = ["zo-sgd", "zo-lstm"]


def peak(name: str, **settings: int):
    return peak_memory("benchmarks.overhead:probe", name=name, **{**BASE, **settings})


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_million_coordinates_fit_into_2_gib(name):
    found = peak(name, b=1, d=1_000_000)
    assert found.whole < 2048, "MiB of the whole process, Python and torch included"
    assert found.above > 1_000_000 * 20 * 4 / 2**20, "the directions alone take this: or nothing was measured"


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_memory_grows_no_faster_than_problems_directions_and_coordinates(name):
    one = peak(name).above
    for grown in ({"b": 6}, {"q": 60}, {"d": 300_000}):
        assert peak(name, **grown).above < 3.3 * one, grown
