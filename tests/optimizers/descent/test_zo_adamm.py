"""ZO-AdaMM against torch's AMSGrad, where the two are the same, and against its equations."""

from __future__ import annotations

import math

import pytest
import torch

from problems import Linear
from zoracle.optimizers.descent.zo_adamm import ZOAdaMM, ZOAdaMMState
from zoracle.rollout import take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Key

DIM = 6


def axes(key: Key, q: int, like: torch.Tensor) -> torch.Tensor:
    """As many directions as coordinates, one along each: of a linear function their estimate is the gradient."""
    return math.sqrt(q) * torch.eye(q, dtype=like.dtype).expand(like.shape[0], q, q)


#: Differences of a linear function are exact; with a radius of 1 rounding is least.
EXACT = {"num_directions": DIM, "mu": 1.0, "source": axes}


def stepped(optimizer: ZOAdaMM, state: ZOAdaMMState, gradient: torch.Tensor) -> ZOAdaMMState:
    """The state after a step on the linear function with this gradient (1, d)."""
    return take_step(optimizer, Oracle(Linear(gradient[0])), state, torch.arange(1))[2]


def gradients(steps: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    # Sizes that rise and fall, so that the maximum counts.
    size = torch.tensor([1.0, 3.0, 0.2, 0.1, 2.0, 0.05, 0.01, 1.0])[:steps]
    return size[:, None] * torch.randn(steps, DIM, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("decay", ["none", "sqrt"])
def test_it_is_amsgrad_without_the_corrections(decay: str) -> None:
    lr, beta1, beta2 = 0.07, 0.8, 0.95
    optimizer = ZOAdaMM(
        lr=lr, beta1=beta1, beta2=beta2, square0=1e-30, decay=decay, num_directions=DIM, mu=1.0, source=axes
    )
    state = optimizer.init(torch.ones(1, DIM, dtype=torch.float64))
    x = torch.ones(DIM, dtype=torch.float64, requires_grad=True)
    reference = torch.optim.Adam([x], lr=lr, betas=(beta1, beta2), eps=0.0, amsgrad=True)
    for t, gradient in enumerate(gradients(8), 1):
        # torch corrects both moments for their start, step by step; a step size of its own undoes that.
        rate = lr / math.sqrt(t) if decay == "sqrt" else lr
        reference.param_groups[0]["lr"] = rate * (1 - beta1**t) / math.sqrt(1 - beta2**t)
        x.grad = gradient.clone()
        reference.step()
        state = stepped(optimizer, state, gradient.unsqueeze(0))
        torch.testing.assert_close(state.x[0], x.detach(), rtol=1e-10, atol=1e-12)


def test_the_denominator_never_falls_and_starts_where_it_is_told() -> None:
    optimizer = ZOAdaMM(beta1=0.0, beta2=0.5, square0=0.25, lr=1.0, num_directions=1, mu=1.0, source=axes)
    state = optimizer.init(torch.zeros(1, 1, dtype=torch.float64))
    expected, square, largest = 0.0, 0.25, 0.25
    for gradient in (0.1, 4.0, 0.2, 0.1):
        square = 0.5 * square + 0.5 * gradient**2
        largest = max(largest, square)
        expected -= gradient / math.sqrt(largest)
        state = stepped(optimizer, state, torch.tensor([[gradient]], dtype=torch.float64))
        assert state.x.item() == pytest.approx(expected, rel=1e-12)
    assert state.largest.item() > 3 * state.square.item()


def test_the_default_step_size_follows_the_dimension() -> None:
    optimizer = ZOAdaMM(beta1=0.0, beta2=0.0, **EXACT)
    state = optimizer.init(torch.zeros(1, DIM, dtype=torch.float64))
    after = stepped(optimizer, state, torch.full((1, DIM), 3.0, dtype=torch.float64))
    torch.testing.assert_close(after.x, torch.full((1, DIM), -16 / DIM, dtype=torch.float64))
