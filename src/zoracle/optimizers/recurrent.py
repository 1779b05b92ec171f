"""Coordinatewise LSTMs: one set of weights for all coordinates, one hidden state for each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

#: A product of matrices gives each row the same bits in any batch only where the number of rows is a multiple of 16
#: and the length of a row one of 4 (otherwise other kernels do the edges); both are padded to that with zeros.
_ROWS, _COLUMNS = 16, 4
_CHUNK = 2048


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
        bias: whether gates and head have biases (the published networks have none); the forget gate's starts at one.
        shared: inputs that all coordinates of a problem share.
        seed: keys the initial weights.

    Source: Andrychowicz et al. (2016), section 2.1; settings of Ruan et al. (2020).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int = 10,
        outputs: int = 1,
        *,
        head_scale: float = 0.1,
        bias: bool = False,
        shared: int = 0,
        seed: int,
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
        forget = torch.arange(4 * hidden) // hidden == 1
        self.bias = nn.Parameter(forget.float()) if bias else None
        self.weight_shared = parameter(4 * hidden, shared, fan=hidden, scale=0.5) if shared else None
        self.head_bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def start(self, like: Tensor) -> Hidden:
        """Zero hidden state for the coordinates of ``like`` (B, d)."""
        zero = like.new_zeros((*like.shape, self.hidden))
        return Hidden(zero, zero.clone())

    def forward(self, features: Tensor, hidden: Hidden, shared: Tensor | None = None) -> tuple[Tensor, Hidden]:
        """One step.

        Args:
            features: (B, d, inputs).
            hidden: state of the previous step.
            shared: (B, shared), where there are shared inputs.

        Returns:
            Outputs (B, d, outputs) and the new state.
        """
        b, d, _ = features.shape
        n = b * d
        x, h, c = (_pad_rows(t.flatten(0, 1)) for t in (features, hidden.h, hidden.c))
        # What all coordinates of a problem share, (B, 4H), and the problem of each row.
        common = x.new_zeros((b, 4 * self.hidden)) if self.bias is None else self.bias.to(x.dtype).expand(b, -1)
        if self.weight_shared is not None and shared is not None:
            common = common + (shared.unsqueeze(1) * self.weight_shared.to(x.dtype)).sum(2)
        problem = (torch.arange(x.shape[0], device=x.device) // d).clamp(max=b - 1)
        if torch.is_grad_enabled():
            out, h, c = self._cell(x, h, c, common[problem])
        else:
            # A few thousand rows at a time: their gates then stay in the cache. The bits are the same.
            parts = [
                self._cell(x[i], h[i], c[i], common[problem[i]])
                for i in (slice(start, start + _CHUNK) for start in range(0, x.shape[0], _CHUNK))
            ]
            out, h, c = (torch.cat(part) for part in zip(*parts, strict=True))
        shape = (b, d, -1)
        return out[:n].view(shape), Hidden(h[:n].view(shape), c[:n].view(shape))

    def _cell(self, x: Tensor, h: Tensor, c: Tensor, common: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, h and c of padded rows (N, .)."""
        gates = _add_product(_add_product(common, x, self.weight_ih), h, self.weight_hh)
        # A sigmoid is a tanh of half its argument. torch.sigmoid rounds the last few numbers of a tensor differently
        # from the rest, tanh does not: with it a problem alone would differ from the same problem in a batch.
        half = torch.full((4 * self.hidden,), 0.5, dtype=x.dtype, device=x.device)
        half[2 * self.hidden : 3 * self.hidden] = 1.0
        i, f, g, o = torch.tanh(gates * half).chunk(4, dim=1)
        c = 0.5 * ((1 + f) * c + (1 + i) * g)
        h = 0.5 * (1 + o) * torch.tanh(c)
        zero = x.new_zeros(self.head.shape[0]) if self.head_bias is None else self.head_bias.to(x.dtype)
        return _add_product(zero, h, self.head), h, c


def rowwise(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows (B, d, K) times a weight (H, K), as (B, d, H); each row's bits are the same in any batch."""
    b, d, _ = rows.shape
    zero = rows.new_zeros(weight.shape[0])
    return _add_product(zero, _pad_rows(rows.flatten(0, 1)), weight)[: b * d].view(b, d, -1)


def _add_product(start: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """``start`` plus padded rows (N, K) times a weight (H, K)."""
    weight = weight.to(rows.dtype)
    extra = -rows.shape[1] % _COLUMNS
    if extra:
        rows, weight = functional.pad(rows, (0, extra)), functional.pad(weight, (0, extra))
    return torch.addmm(start, rows, weight.t())


def _pad_rows(rows: Tensor) -> Tensor:
    extra = -rows.shape[0] % _ROWS
    return functional.pad(rows, (0, 0, 0, extra)) if extra else rows
