"""Directions under several covariances against the true gradient: their cosines, bands and spectra."""

from __future__ import annotations

import torch

from zoracle.experiments.covariances import BANDS, alignment, bands, measured, phases
from zoracle.optimizers.learned.guided_lstm import GuidedLSTM
from zoracle.optimizers.learned.spectrum import COVARIANCES, SPECTRAL
from zoracle.tasks import task

DIGITS = task("digits")
IDS = tuple(DIGITS.ids("valid")[:2])


def test_as_many_directions_as_dimensions_find_the_whole_gradient() -> None:
    found = alignment(GuidedLSTM(num_directions=64), DIGITS, IDS, seed=0, steps=3)
    for values in found.cosine.values():
        torch.testing.assert_close(values, torch.ones(4, 2, 3), atol=1e-4, rtol=0)


def test_few_directions_find_their_share_of_it_and_low_ones_the_low_band() -> None:
    optimizer = GuidedLSTM(num_directions=10, spectral=True)
    found = alignment(optimizer, DIGITS, IDS, seed=0, steps=12)
    assert tuple(found.cosine) == COVARIANCES == measured(optimizer)
    whole = torch.stack([values[0] for values in found.cosine.values()])
    assert bool(((whole > 0) & (whole < 1)).all()), "a projection points along the gradient, and is not all of it"
    # Ten random directions of 64 hold sqrt(10 / 64) = 0.40 of a gradient; guesses may hold more.
    assert 0.3 < float(found.cosine["isotropic"][0, :, 0].mean()) < 0.6
    low, high = found.cosine["fixed"][1].mean(), found.cosine["fixed"][3].mean()
    assert low - high > found.cosine["isotropic"][1].mean() - found.cosine["isotropic"][3].mean()
    torch.testing.assert_close(found.energy.sum(0), torch.ones(2, 12))
    assert set(found.spectra) == {*SPECTRAL, "gradient"}
    for spectrum in found.spectra.values():
        assert spectrum.shape == (3, 1, 8, 8)
        torch.testing.assert_close(spectrum.square().mean((1, 2, 3)), torch.ones(3))


def test_weights_without_a_spectrum_are_measured_under_what_they_allow() -> None:
    optimizer = GuidedLSTM(num_directions=10)
    assert measured(optimizer) == ("learned", "fixed", "isotropic")
    found = alignment(optimizer, DIGITS, IDS, seed=0, steps=4)
    assert set(found.spectra) == {"fixed", "gradient"}
    assert not torch.equal(found.cosine["fixed"], found.cosine["isotropic"])
    # What it runs with has no spectrum, and the run is its own.
    assert torch.equal(alignment(optimizer, DIGITS, IDS, seed=0, steps=4).energy, found.energy)


def test_every_frequency_and_every_step_belongs_to_one_part() -> None:
    band = bands((3, 32, 32)).view(3, 32, 32)
    assert band[0, 0, 0] == 0
    assert band[2, 31, 31] == 2
    assert torch.equal(band[0, 0], torch.bucketize(torch.arange(32) / 64, torch.tensor(BANDS), right=True))
    assert phases(200).bincount().tolist() == [20, 80, 100]
