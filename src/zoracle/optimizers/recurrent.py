"""Coordinatewise LSTMs: one set of weights for all coordinates, one hidden state for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from zoracle.state import tree_map

#: The last bits of a product depend on how its rows are aligned; with rows of a multiple of 16 numbers all are alike.
_ALIGNED = 16
#: Coordinates that are worked on at once where no graph is kept: all that a step makes of them stays in the cache.
BLOCK = 4096

Tree = TypeVar("Tree")


class Hidden(NamedTuple):
    """Hidden state of a coordinatewise LSTM."""

    h: Tensor
    """(B, H, d) output."""
    c: Tensor
    """(B, H, d) cell."""


class Weights(NamedTuple):
    """Weights of an LSTM for the problems of a batch, in the form that one step multiplies by."""

    gates: Tensor
    """(B, 4H, K) of features, h and, where there are biases or shared inputs, a one."""
    head: Tensor
    """(B, O, K) of features, the new h, and the one."""

    def of(self, rows: slice) -> Weights:
        """Those of some problems."""
        return Weights(self.gates[rows], self.head[rows])


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
        zero = like.new_zeros((like.shape[0], self.hidden, like.shape[1]))
        return Hidden(zero, zero.clone())

    def weights(self, like: Tensor, shared: Tensor | None = None, straight: Tensor | None = None) -> Weights:
        """The weights for a step on the problems of ``like`` (B, ...), of its type.

        Args:
            like: any tensor of the batch.
            shared: (B, shared), where there are shared inputs.
            straight: (outputs, inputs), weights from the features straight to the outputs.
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
        """One step. Its backward pass is written by hand, and of first order.

        Args:
            features: (B, inputs, d).
            hidden: state of the previous step.
            weights: what :meth:`weights` makes; needed where there are shared inputs.

        Returns:
            Outputs (B, outputs, d) and the new state.
        """
        made = self.weights(features) if weights is None else weights
        if torch.is_grad_enabled():
            out, h, c = _Step.apply(features, *hidden, *made)  # type: ignore[no-untyped-call]
            return out, Hidden(h, c)

        def some(rows: slice, cols: slice) -> tuple[Tensor, Hidden]:
            x, h, c = (leaf[rows, :, cols] for leaf in (features, *hidden))
            out, h, c, *_ = _step(x, h, c, *made.of(rows), aligned=_ALIGNED)
            return out, Hidden(h, c)

        return blockwise(some, features)


def blockwise(function: Callable[[slice, slice], Tree], like: Tensor, size: int = BLOCK) -> Tree:
    """A function of some problems and some of their coordinates, put together for all of ``like`` (B, ..., d).

    It is called for a few thousand coordinates at a time, or where a graph is kept for all at once. How a problem's
    coordinates are divided depends on d only.

    Args:
        function: from the rows of problems and the columns of coordinates to a tree of tensors (n, ..., w).
        like: any tensor of the batch.
        size: coordinates a call.
    """
    b, d = like.shape[0], like.shape[-1]
    if torch.is_grad_enabled() or b * d <= size:
        return function(slice(None), slice(None))
    whole: Tree | None = None
    for rows, cols in _blocks(b, d, size):
        part = function(rows, cols)
        if whole is None:
            whole = tree_map(lambda leaf: leaf.new_empty((b, *leaf.shape[1:-1], d)), part)
        tree_map(lambda leaf, new: leaf[rows, ..., cols].copy_(new), whole, part)  # noqa: B023
    assert whole is not None
    return whole


def _blocks(b: int, d: int, size: int) -> Iterator[tuple[slice, slice]]:
    together = max(1, size // d)
    for row in range(0, b, together):
        for col in range(0, d, size):
            yield slice(row, row + together), slice(col, col + size)


def _step(
    features: Tensor, h: Tensor, c: Tensor, gates: Tensor, head: Tensor, aligned: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Outputs, new h and c; and what the backward pass needs: inputs of the head, gates, tanh(c)."""
    n, f, w = features.shape
    size, rows = h.shape[1], gates.shape[2]
    if w % aligned == 0:
        one = [] if rows == f + size else [features.new_ones((1, 1, 1)).expand(n, 1, w)]
        inputs = torch.cat((features, h, *one), 1)
    else:
        inputs = features.new_ones((n, rows, w + -w % aligned))
        inputs[:, :f, :w] = features
        inputs[:, f : f + size, :w] = h
    activated = torch.bmm(gates, inputs).tanh_()
    i, forget, g, o = activated[:, :, :w].chunk(4, 1)
    # c = (1 + forget) / 2 c + (1 + i) / 2 g, and the mean of two numbers is a lerp.
    c = torch.addcmul(g, i, g).lerp_(torch.addcmul(c, forget, c), 0.5)
    squashed = torch.tanh(c)
    h = torch.addcmul(squashed, o, squashed).mul_(0.5)
    inputs[:, f : f + size, :w] = h
    return torch.bmm(head, inputs)[:, :, :w], h, c, inputs, activated, squashed


class _Step(torch.autograd.Function):
    """:func:`_step` with its backward pass."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, h: Tensor, c: Tensor, gates: Tensor, head: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, new_h, new_c, *kept = _step(features, h, c, gates, head, aligned=1)
        ctx.features = features.shape[1]
        ctx.save_for_backward(h, c, gates, head, *kept)
        return out, new_h, new_c

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        h, c, gates, head, inputs, activated, squashed = ctx.saved_tensors
        by_out, by_h, by_c = grad_outputs
        f, size = ctx.features, h.shape[1]
        i, forget, g, o = activated.chunk(4, 1)
        by_inputs = torch.bmm(head[:, :, : f + size].transpose(1, 2), by_out)
        # h = (1 + o) / 2 tanh(c), with by_h and by_c all that reaches h and c.
        by_h = (by_h + by_inputs[:, f:]).mul_(0.5)
        through = torch.addcmul(by_h, by_h, o)
        by_c = (by_c + through).addcmul_(through * squashed, squashed, value=-1).mul_(0.5)
        by_gates = torch.empty_like(activated)
        into_i, into_forget, into_g, into_o = by_gates.chunk(4, 1)
        torch.mul(by_c, g, out=into_i)
        torch.mul(by_c, c, out=into_forget)
        torch.addcmul(by_c, by_c, i, out=into_g)
        torch.mul(by_h, squashed, out=into_o)
        by_gates.addcmul_(by_gates * activated, activated, value=-1)  # the slope of tanh
        before = torch.bmm(gates[:, :, : f + size].transpose(1, 2), by_gates)
        of_gates = of_head = None
        if ctx.needs_input_grad[3]:
            of_gates = torch.bmm(by_gates, inputs.transpose(1, 2))
            of_gates[:, :, f : f + size] = torch.bmm(by_gates, h.transpose(1, 2))
        if ctx.needs_input_grad[4]:
            of_head = torch.bmm(by_out, inputs.transpose(1, 2))
        of_features = by_inputs[:, :f] + before[:, :f]
        return of_features, before[:, f:], torch.addcmul(by_c, by_c, forget), of_gates, of_head
