"""ECnoise and the distances that follow from it, against noise that is known."""

from __future__ import annotations

import math

import pytest
import torch

from zoracle.errors import InputError
from zoracle.estimators.noise import Verdict, clear_distance, ecnoise

G = torch.Generator


def line(spacing: float, rows: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Generator]:
    g = G().manual_seed(seed)
    start = torch.rand(rows, 1, generator=g, dtype=torch.float64)
    t = start + spacing * torch.arange(7, dtype=torch.float64)
    return 2 + 5 * (t - 0.3).square() + torch.sin(3 * t), g


@pytest.mark.parametrize("sigma", [1e-6, 1e-2, 3.0])
def test_random_noise_is_found(sigma: float) -> None:
    smooth, g = line(1e-7)
    found = ecnoise(smooth + sigma * torch.randn(smooth.shape, generator=g, dtype=torch.float64))
    assert (found.verdict == Verdict.FOUND).float().mean() > 0.97
    # As seven values allow: half of the answers within a factor of 1.5.
    assert 0.75 < float(found.level.median()) / sigma < 1.25
    assert ((found.level / sigma).log().abs() < math.log(1.5)).float().mean() > 0.6


def test_rounding_is_noise_of_a_twelfth_of_its_step_squared() -> None:
    smooth, _ = line(1e-2)
    step = 1e-3
    found = ecnoise((smooth / step).round() * step)
    assert 0.6 < float(found.level.median()) / (step / math.sqrt(12)) < 1.4


def test_a_line_that_is_too_short_for_the_rounding_says_so() -> None:
    smooth, _ = line(1e-7)
    assert (ecnoise((smooth / 1e-3).round() * 1e-3).verdict == Verdict.TOO_CLOSE).all()


def test_a_smooth_function_has_the_noise_of_its_type() -> None:
    smooth, _ = line(1e-7)
    assert ecnoise(smooth).level.max() < 64 * torch.finfo(torch.float64).eps * 10
    single = ecnoise(smooth.float())
    assert single.level.max() < 64 * torch.finfo(torch.float32).eps * 10


def test_a_missing_value_leaves_its_line_unknown_and_no_other() -> None:
    smooth, g = line(1e-7, rows=2)
    values = smooth + 0.1 * torch.randn(smooth.shape, generator=g, dtype=torch.float64)
    alone = ecnoise(values[1:])
    values[0, 3] = torch.nan
    found = ecnoise(values)
    assert found.verdict[0] == Verdict.UNKNOWN
    assert found.level[0].isnan()
    assert torch.equal(found.level[1:], alone.level)
    with pytest.raises(InputError, match="at least 6"):
        ecnoise(values[:, :5])


def test_the_clear_distance_is_the_first_from_which_on_all_stand_out() -> None:
    distances = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3)
    differences = torch.tensor([[0.1, 5.0, 0.2, 6.0], [5.0, 5.0, 5.0, 5.0], [0.1, 0.1, 0.1, 0.2]])
    where, ratio = clear_distance(distances, differences, torch.tensor([0.5, 0.5, 0.5]), 10.0)
    assert where.tolist() == [4.0, 1.0, 4.0]
    assert ratio.tolist() == pytest.approx([12.0, 10.0, 0.4])
