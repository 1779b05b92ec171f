"""A small classifier that tests of other libraries' attacks share: exact, counted, never random."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

SHAPE, CLASSES, NUMBER = (3, 4, 5), 6, 5
_RNG = np.random.default_rng(0)
WEIGHT = _RNG.normal(size=(60, CLASSES)).astype(np.float32)
LABELS = torch.tensor([5, 1, 2, 0, 4])
# Grey, some noise, and more and more of what each class looks like, so that some are easier to attack than others.
_MARGIN = np.array([0.01, 0.02, 0.03, 0.04, 0.05])[:, None]
_PIXELS = 0.5 + _RNG.uniform(-0.1, 0.1, size=(NUMBER, 60)) + _MARGIN * WEIGHT[:, LABELS.numpy()].T
IMAGES = torch.from_numpy(_PIXELS.clip(0.05, 0.95).astype(np.float32)).view(NUMBER, *SHAPE)
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
        return ((x - self.low) / (self.high - self.low) - 0.5).flatten(1) @ self.weight
