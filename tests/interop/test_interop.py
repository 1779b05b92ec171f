"""What the modules for other libraries have in common."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import torch

from zoracle.errors import InputError, MissingExtraError
from zoracle.interop.images import ImageForm


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("foolbox", "foolbox", "foolbox"),
        ("art", "art", "art"),
        ("scipy", "scipy", "scipy"),
        ("transformers", "transformers", "transformers"),
    ],
)
def test_a_missing_library_names_its_extra(monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"zoracle.interop.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"^{package} is required but not installed.*zoracle\[{extra}\]'$"):
        import_module(f"zoracle.interop.{name}")


def test_other_libraries_are_imported_where_they_are_used_only():
    code = (
        "import sys, zoracle, zoracle.cli.main, zoracle.interop.torch_optim, zoracle.interop.images; "
        "print([name for name in ('foolbox', 'eagerpy', 'art', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.4242, 2.8215)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_there_and_back(low, high, channels_last):
    unit = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    unit[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    form = ImageForm(low, high, channels_last=channels_last)
    theirs = form.give(unit)
    assert theirs.shape == ((4, 5, 6, 3) if channels_last else unit.shape)
    assert theirs.is_contiguous()
    assert bool((theirs >= low).all())
    assert bool((theirs <= high).all())
    torch.testing.assert_close(theirs.aminmax(), torch.tensor([low, high]).aminmax())
    back = form.take(theirs)
    torch.testing.assert_close(back, unit, rtol=0, atol=1e-6)
    assert bool((back >= 0).all())
    assert bool((back <= 1).all())
    if (low, high) == (0.0, 1.0):
        assert torch.equal(back, unit)
    torch.testing.assert_close(form.give(back[1:] * 0 + 1) - form.give(back[1:] * 0), form.width + theirs[1:] * 0)


def test_images_that_have_no_channels_keep_their_axes():
    images = torch.zeros(4, 5, 6)
    assert ImageForm(0, 1, channels_last=True).take(images).shape == images.shape


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_ranges_that_are_none(low, high):
    with pytest.raises(InputError, match=r"pixels range over .*; expected \(low, high\)"):
        ImageForm(low, high)
