"""Coordinatewise LSTMs: one set of weights for all coordinates, one hidden state for each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

#: Matrix products give each row the same bits in any batch only where the number of rows is a multiple of the
#: width of the vector kernels; rows are padded to it.
_ROWS = 16


class Hidden(NamedTuple):
    """Hidden state of a coordinatewise LSTM."""

    h: Tensor
    """(B, d, H) output."""
    c: Tensor
    """(B, d, H) cell."""


class CoordinatewiseLSTM(nn.Module):
    """A one-layer LSTM with a linear head, applied to each coordinate by itself.

    Args:
        inputs: features a coordinate.
        hidden: hidden size.
        outputs: outputs a coordinate.
        head_scale: what the head's initial weights are multiplied by, so that first steps are small.
        bias: whether gates and head have biases (the published networks have none).
        seed: keys the initial weights.

    Source: Andrychowicz et al. (2016), section 2.1; settings of Ruan et al. (2020).
    """

    def __init__(
        self, inputs: int, hidden: int = 10, outputs: int = 1, *, head_scale: float = 0.1, bias: bool = False, seed: int
    ) -> None:
        super().__init__()
        self.hidden = hidden
        g = torch.Generator().manual_seed(seed)

        def parameter(*shape: int, fan: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(shape, generator=g) - 1) * fan**-0.5 * scale)

        # The distributions are those of torch.nn.LSTM and torch.nn.Linear.
        self.weight_ih = parameter(4 * hidden, inputs, fan=hidden)
        self.weight_hh = parameter(4 * hidden, hidden, fan=hidden)
        self.head = parameter(outputs, hidden, fan=hidden, scale=head_scale)
        self.bias = nn.Parameter(torch.zeros(4 * hidden)) if bias else None
        self.head_bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def start(self, like: Tensor) -> Hidden:
        """Zero hidden state for the coordinates of ``like`` (B, d)."""
        zero = like.new_zeros((*like.shape, self.hidden))
        return Hidden(zero, zero.clone())

    def forward(self, features: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """One step.

        Args:
            features: (B, d, inputs).
            hidden: state of the previous step.

        Returns:
            Outputs (B, d, outputs) and the new state.
        """
        b, d, _ = features.shape
        n = b * d
        pad = -n % _ROWS
        x, h, c = (_pad(t.flatten(0, 1), pad) for t in (features, hidden.h, hidden.c))
        gates = torch.addmm(torch.mm(x, self.weight_ih.to(x.dtype).t()), h, self.weight_hh.to(x.dtype).t())
        if self.bias is not None:
            gates = gates + self.bias.to(x.dtype)
        i, f, g, o = gates.chunk(4, dim=1)
        c = _sigmoid(f) * c + _sigmoid(i) * torch.tanh(g)
        h = _sigmoid(o) * torch.tanh(c)
        out = torch.mm(h, self.head.to(x.dtype).t())
        if self.head_bias is not None:
            out = out + self.head_bias.to(x.dtype)
        shape = (b, d, -1)
        return out[:n].view(shape), Hidden(h[:n].view(shape), c[:n].view(shape))


def _sigmoid(x: Tensor) -> Tensor:
    # torch.sigmoid rounds the last few numbers of a tensor differently from the rest, tanh does not:
    # with it a problem alone would differ from the same problem in a batch.
    return 0.5 * torch.tanh(0.5 * x) + 0.5


def _pad(rows: Tensor, pad: int) -> Tensor:
    return rows if pad == 0 else torch.cat((rows, rows.new_zeros((pad, rows.shape[1]))))
