"""A small classifier that tests of other libraries' attacks share: exact, counted, never random."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

SHAPE, CLASSES, NUMBER = (3, 4, 5), 6, 5
_RNG = np.random.default_rng(0)
WEIGHT = _RNG.normal(size=(60, CLASSES)).astype(np.float32)
IMAGES = torch.from_numpy(_RNG.uniform(0.2, 0.8, size=(NUMBER, *SHAPE)).astype(np.float32))
LABELS = (IMAGES.flatten(1) @ torch.from_numpy(WEIGHT)).argmax(1)
TARGETS = (LABELS + 2) % CLASSES


class Linear(nn.Module):
    """Logits of images (N, 3, 4, 5) with pixels in [low, high]; counts the images it sees."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.weight = nn.Parameter(torch.from_numpy(WEIGHT), requires_grad=False)
        self.seen = 0
        self.lowest, self.highest = high, low

    def forward(self, x):
        self.seen += len(x)
        self.lowest, self.highest = min(self.lowest, float(x.min())), max(self.highest, float(x.max()))
        return ((x - self.low) / (self.high - self.low)).flatten(1) @ self.weight
