"""Pictures of so many bits: in the ball, near what was asked for, and never further away than the nearest ones."""

from __future__ import annotations

import pytest
import torch

from zoracle.errors import InputError
from zoracle.objectives.rounding import check_levels, rounded
from zoracle.objectives.threat import ThreatModel

N, D = 40, 60


def drawn(dtype):
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (N, D), generator=generator).to(dtype) / 255
    return x, torch.randn(N, D, generator=generator, dtype=torch.float64).to(dtype)


def is_picture(images):
    levels = (images * 255).round()
    return torch.equal(levels.to(torch.uint8).to(images.dtype) / 255, images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1 / 255, 0.0049, 8 / 255, 0.3])
def test_in_a_cube_pixels_go_to_the_nearest_level_inside(dtype, eps):
    x, step = drawn(dtype)
    moved = (x + (step * eps).clamp(-eps, eps)).clamp(0, 1)
    found = rounded(x, moved, ThreatModel(norm="linf", eps=eps, bits=8))
    assert is_picture(found)
    assert float((found - x).abs().max()) <= eps + 1e-6
    inside = (moved * 255).round() / 255
    fits = (inside - x).abs() <= eps + 1e-6
    assert torch.equal(found[fits], inside[fits])
    assert torch.equal(rounded(x, found, ThreatModel(norm="linf", eps=eps, bits=8)), found), "a picture stays"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.01, 0.05, 0.3, 2.0])
def test_in_a_round_ball_no_more_is_rounded_back_than_it_takes(dtype, eps):
    x, step = drawn(dtype)
    change = (x + step).clamp(0, 1) - x
    moved = x + change * (eps / torch.linalg.vector_norm(change, dim=1, keepdim=True)).clamp(max=1)
    found = rounded(x, moved, ThreatModel(norm="l2", eps=eps, bits=8))
    assert is_picture(found)
    length = torch.linalg.vector_norm((found - x).double(), dim=1)
    assert float(length.max()) <= eps + 1e-5
    towards = x + ((moved - x) * 255).trunc() / 255
    assert (length >= torch.linalg.vector_norm((towards - x).double(), dim=1) - 1e-9).all()
    if eps >= 0.3:  # a level is a small part of the radius, and nearly all of it is used
        assert float(length.min()) > 0.95 * min(eps, float(torch.linalg.vector_norm(change, dim=1).min()))


def test_without_a_ball_pixels_go_to_the_nearest_level():
    x, step = drawn(torch.float64)
    moved = (x + step).clamp(0, 1)
    assert torch.equal(rounded(x, moved, ThreatModel(bits=8)), (moved * 255).round() / 255)
    assert rounded(x, moved, ThreatModel(bits=1)).unique().tolist() == [0, 1]


def test_originals_have_to_be_pictures():
    x, _ = drawn(torch.float32)
    check_levels(x.view(N, 3, 4, 5), 8)
    with pytest.raises(InputError, match="image 5 is not a picture of 8 bits"):
        check_levels(torch.cat((x[:5], x[5:6] + 1e-3, x[6:])).view(N, 3, 4, 5), 8)
