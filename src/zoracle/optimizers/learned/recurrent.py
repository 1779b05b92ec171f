"""Coordinatewise LSTMs: one set of weights shared by all coordinates, one hidden state per coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

#: The last bits of a product depend on the alignment of its rows; rows of a multiple of 16 numbers are all alike.
_ALIGNED = 16
#: Coordinates processed at once when no graph is kept: the intermediate results of a step stay in the cache.
BLOCK = 8192


class Hidden(NamedTuple):
    """Hidden state of a coordinatewise LSTM."""

    h: Tensor
    """(B, H, d) output."""
    c: Tensor
    """(B, H, d) cell."""


class Weights(NamedTuple):
    """Weights of an LSTM for the problems of a batch, arranged for the products of one step."""

    gates: Tensor
    """(B, 4H, K) of features, h and, where there are biases or shared inputs, a one."""
    head: Tensor
    """(B, O, K) of features, the new h, and the one."""


class CoordinatewiseLSTM(nn.Module):
    """A one-layer LSTM with a linear head, applied to each coordinate separately.

    Args:
        inputs: number of features per coordinate.
        hidden: hidden size.
        outputs: outputs a coordinate.
        head_scale: factor of the head's initial weights, which keeps the first steps small.
        bias: whether gates and head have biases (the published networks have none); the forget gate's starts at one.
        shared: number of inputs shared by all coordinates of a problem.
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
        zero = like.new_zeros((like.shape[0], self.hidden, like.shape[1]))
        return Hidden(zero, zero.clone())

    def weights(self, like: Tensor, shared: Tensor | None = None, straight: Tensor | None = None) -> Weights:
        """The weights for a step on the problems of ``like`` (B, ...), of its type.

        Args:
            like: any tensor of the batch.
            shared: (B, shared), required if there are shared inputs.
            straight: (outputs, inputs), weights from the features directly to the outputs.
        """
        b, h = like.shape[0], self.hidden

        def of(weight: Tensor) -> Tensor:
            return weight.to(like.dtype).expand(b, -1, -1)

        through = self.head.new_zeros((self.head.shape[0], self.weight_ih.shape[1])) if straight is None else straight
        gates, head = [of(self.weight_ih), of(self.weight_hh)], [of(through), of(self.head)]
        if self.bias is not None and self.head_bias is not None:
            common = of(self.bias.unsqueeze(1))
            if self.weight_shared is not None and shared is not None:
                common = common + (shared.unsqueeze(1) * of(self.weight_shared)).sum(2, keepdim=True)
            gates.append(common)
            head.append(of(self.head_bias.unsqueeze(1)))
        # A sigmoid is a tanh of half its argument. torch.sigmoid rounds the last few numbers of a tensor differently
        # from the rest, tanh does not: with it a problem alone would differ from the same problem in a batch.
        half = torch.full((4 * h, 1), 0.5, dtype=like.dtype, device=like.device)
        half[2 * h : 3 * h] = 1.0
        return Weights(torch.cat(gates, 2) * half, torch.cat(head, 2))

    def forward(self, features: Tensor, hidden: Hidden, weights: Weights | None = None) -> tuple[Tensor, Hidden]:
        """One step.

        Args:
            features: (B, inputs, d).
            hidden: state of the previous step.
            weights: result of :meth:`weights`; required if there are shared inputs.

        Returns:
            Outputs (B, outputs, d) and the new state.
        """
        made = self.weights(features) if weights is None else weights
        out, h, c = blockwise(lambda x, *rest: step((x,), *rest), (features, *hidden), made)
        return out, Hidden(h, c)


class Gates(nn.Module):
    """Rates of running means, in (0, 1), computed from scalars shared by all coordinates of a problem.

    Args:
        scalars: S, how many.
        rates: M initial rates.
        seed: keys the initial weights.
        width: of the layer between.
    """

    def __init__(self, scalars: int, rates: tuple[float, ...], *, seed: int, width: int = 16) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.inner = nn.Parameter(torch.randn(width, scalars, generator=g) / math.sqrt(scalars))
        self.inner_bias = nn.Parameter(torch.zeros(width))
        self.outer = nn.Parameter(torch.randn(len(rates), width, generator=g) * 0.1)
        self.outer_bias = nn.Parameter(torch.tensor([math.log(rate / (1 - rate)) for rate in rates]))

    def forward(self, scalars: Tensor) -> Tensor:
        """Rates (B, M) for scalars (B, S); sums instead of products of matrices, so that no batch changes them."""
        weights = (weight.to(scalars.dtype) for weight in (self.inner, self.inner_bias, self.outer, self.outer_bias))
        inner, inner_bias, outer, outer_bias = weights
        middle = torch.tanh((scalars.unsqueeze(1) * inner).sum(2) + inner_bias)
        return 0.5 + 0.5 * torch.tanh(0.5 * ((middle.unsqueeze(1) * outer).sum(2) + outer_bias))


class Pacing(nn.Module):
    """Change of the step unit from one step to the next, computed from scalars shared by all coordinates.

    Args:
        scalars: S, how many.
        straight: initial weights of some of the scalars, by index; the others start at zero.
        bias: initial bias of the sum.
        most: the largest change of the logarithm in a step.
        seed: keys the initial weights.
        width: of the layer between.
    """

    def __init__(
        self, scalars: int, straight: dict[int, float], bias: float, *, most: float, seed: int, width: int = 16
    ) -> None:
        super().__init__()
        self.most = most
        g = torch.Generator().manual_seed(seed)
        self.inner = nn.Parameter(torch.randn(width, scalars, generator=g) / math.sqrt(scalars))
        self.inner_bias = nn.Parameter(torch.zeros(width))
        self.outer = nn.Parameter(torch.randn(width, generator=g) * 0.1)
        self.straight = nn.Parameter(torch.tensor([straight.get(i, 0.0) for i in range(scalars)]))
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(self, scalars: Tensor) -> Tensor:
        """Changes (B,) of the logarithm for scalars (B, S); sums, so that no batch changes them."""
        weights = (self.inner, self.inner_bias, self.outer, self.straight, self.bias)
        inner, inner_bias, outer, straight, bias = (weight.to(scalars.dtype) for weight in weights)
        middle = torch.tanh((scalars.unsqueeze(1) * inner).sum(2) + inner_bias)
        changed = (middle * outer).sum(1) + (scalars * straight).sum(1) + bias
        return self.most * torch.tanh(changed)


def blockwise(
    function: Callable[..., tuple[Tensor, ...]], coordinates: Sequence[Tensor], problems: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Apply a function of coordinates to all coordinates of all problems, in parts.

    It is called for a few thousand coordinates at a time, or for all at once if a graph is kept. How a problem's
    coordinates are divided depends only on d.

    Args:
        function: takes a part of each given tensor and returns tensors (n, ..., w).
        coordinates: tensors (B, ..., d).
        problems: tensors (B, ...) whose last dimension is not that of coordinates.
    """
    if torch.is_grad_enabled():
        return function(*coordinates, *problems)
    b, d = coordinates[0].shape[0], coordinates[0].shape[-1]
    together, blocks = max(1, BLOCK // d), -(-d // BLOCK)

    def parts(leaf: Tensor) -> list[Tensor]:
        rows = torch.split(leaf, together)
        return list(rows) if blocks == 1 else [part for row in rows for part in torch.split(row, BLOCK, -1)]

    shared = ([part for part in torch.split(leaf, together) for _ in range(blocks)] for leaf in problems)
    whole: list[Tensor] = []
    for index, part in enumerate(zip(*map(parts, coordinates), *shared, strict=True)):
        made = function(*part)
        if not whole:
            whole = [leaf.new_empty((b, *leaf.shape[1:-1], d)) for leaf in made]
            into = list(map(parts, whole))
        for leaf, new in zip(into, made, strict=True):
            leaf[index].copy_(new)
    return tuple(whole)


def step(
    features: Sequence[Tensor], h: Tensor, c: Tensor, gates: Tensor, head: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of an LSTM on some coordinates.

    Args:
        features: (n, ., w) each, one below the other.
        h: (n, H, w) output of the previous step.
        c: (n, H, w) its cell.
        gates: of :class:`Weights`.
        head: of :class:`Weights`.

    Returns:
        Outputs (n, outputs, w), new h and c.
    """
    (n, size, w), rows = h.shape, gates.shape[2]
    f = sum(part.shape[1] for part in features)
    one = [h.new_ones((n, 1, w))] if rows > f + size else []
    inputs = torch.cat((*features, h, *one), 1)
    if w % _ALIGNED and not torch.is_grad_enabled():
        inputs = functional.pad(inputs, (0, -w % _ALIGNED))
    activated = torch.bmm(gates, inputs).tanh_()
    i, forget, g, o = _columns(activated, w).chunk(4, 1)
    # c = (1 + forget) / 2 c + (1 + i) / 2 g, and the mean of two numbers is a lerp.
    c = torch.addcmul(g, i, g).lerp_(torch.addcmul(c, forget, c), 0.5)
    squashed = torch.tanh(c)
    h = torch.addcmul(squashed, o, squashed).mul_(0.5)
    if torch.is_grad_enabled():
        inputs = torch.cat((*features, h, *one), 1)
    else:
        inputs[:, f : f + size, :w] = h
    return _columns(torch.bmm(head, inputs), w), h, c


def _columns(rows: Tensor, w: int) -> Tensor:
    return rows if rows.shape[2] == w else rows[:, :, :w]
