"""Images as pictures of so many bits per channel, within the ball that they have to stay in."""

from __future__ import annotations

import torch
from torch import Tensor

from zoracle.errors import InputError
from zoracle.objectives.threat import ThreatModel

#: How far from a level, in levels, a pixel may be and still be it; as far beyond the ball a level may lie.
_SLACK = 1e-3
#: Halvings of the search for the most that may be rounded away from the original.
_HALVINGS = 20


def check_levels(images: Tensor, bits: int) -> None:
    """Raise where images (P, ...) in [0, 1] are no pictures of so many bits.

    Raises:
        InputError: a pixel lies between two levels.
    """
    scaled = images.detach().double().flatten(1) * (2**bits - 1)
    off = (scaled - scaled.round()).abs().amax(1) > _SLACK
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise InputError(
            f"image {row} is not a picture of {bits} bits: it has pixels between levels; pass bytes, or leave out bits"
        )


def rounded(x: Tensor, moved: Tensor, threat: ThreatModel) -> Tensor:
    r"""Pictures (N, d) of ``threat.bits`` bits near images in [0, 1], in the ball around the originals.

    With L = 2^bits - 1, pixels are k / L. Each goes to the nearest level; in an linf ball to the nearest one inside. In
    an l2 ball, where that leaves it, the pixels whose change has the smallest fractional part are rounded towards the
    original instead, no more of them than it takes.

    Args:
        x: (N, d) originals, pictures themselves.
        moved: (N, d) images in the ball.
        threat: the ball, and the number of bits.
    """
    assert threat.bits is not None
    levels = 2**threat.bits - 1
    base = (x * levels).round()
    change = moved * levels - base
    if threat.eps is None:
        whole = change.round()
    elif threat.norm == "linf":
        most = int(threat.eps * levels + _SLACK)
        whole = change.round().clamp(-most, most)
    else:
        whole = _within_length(change, threat.eps * levels)
    pictures: Tensor = (base + whole).clamp_(0, levels) / levels
    return pictures


def _within_length(change: Tensor, radius: float) -> Tensor:
    """Whole changes (N, d) whose Euclidean length is at most the radius, as that of the changes is."""
    towards = change.trunc()
    part = (change - towards).abs()
    away = towards + change.sign()

    def at(threshold: Tensor) -> Tensor:
        return torch.where(part >= threshold, away, towards)

    def fits(threshold: Tensor) -> Tensor:
        inside: Tensor = torch.linalg.vector_norm(at(threshold), dim=1, keepdim=True) <= radius + _SLACK
        return inside

    low = change.new_full((change.shape[0], 1), 0.5)
    inside = fits(low)
    if bool(inside.all()):
        return at(low)
    high = torch.where(inside, low, 1.0)  # nothing is rounded away: the change's own length is within the radius
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = fits(middle)
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return at(high)
