"""The coordinatewise LSTM: what it computes, and that blocks, batches and graphs change nothing."""

from __future__ import annotations

import pytest
import torch

from zoracle.optimizers.learned.recurrent import BLOCK, CoordinatewiseLSTM, Hidden, blockwise, step

F, H, OUT, S = 3, 5, 2, 4


def build(*, shared: bool = True) -> CoordinatewiseLSTM:
    lstm = CoordinatewiseLSTM(F, H, OUT, head_scale=1.0, bias=shared, shared=S if shared else 0, seed=1)
    return lstm.double()


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def inputs(b: int, d: int) -> tuple[torch.Tensor, Hidden, torch.Tensor, torch.Tensor]:
    return draw(b, F, d), Hidden(draw(b, H, d), draw(b, H, d)), draw(b, S), draw(OUT, F)


def run(lstm, x, hidden, common, straight) -> tuple[torch.Tensor, Hidden]:
    weights = lstm.weights(x, common, straight)
    out, h, c = blockwise(lambda x, *rest: step((x,), *rest), (x, *hidden), weights)
    return out, Hidden(h, c)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("d", [1, 13, 32])
def test_it_is_torchs_cell_with_a_linear_head(d: int, shared: bool) -> None:
    lstm = build(shared=shared)
    x, hidden, common, straight = inputs(2, d)
    # Its weights are given, none drawn: that would use the global random state.
    cell = torch.nn.utils.skip_init(torch.nn.LSTMCell, F, H, bias=shared, dtype=torch.float64)
    cell.weight_ih.data, cell.weight_hh.data = lstm.weight_ih.data, lstm.weight_hh.data
    with torch.no_grad():
        if lstm.head_bias is not None:
            lstm.head_bias.copy_(draw(OUT))
        out, new = run(lstm, x, hidden, common if shared else None, straight)
        for p in range(2):
            if lstm.bias is not None and lstm.weight_shared is not None:  # what all coordinates share is a bias
                cell.bias_ih.data, cell.bias_hh.data = lstm.bias.data, lstm.weight_shared @ common[p]
            h, c = cell(x[p].t(), (hidden.h[p].t(), hidden.c[p].t()))
            expected = h @ lstm.head.t() + x[p].t() @ straight.t()
            if lstm.head_bias is not None:
                expected = expected + lstm.head_bias
            torch.testing.assert_close(new.h[p].t(), h)
            torch.testing.assert_close(new.c[p].t(), c)
            torch.testing.assert_close(out[p].t(), expected)


@pytest.mark.parametrize("shared", [False, True])
def test_with_a_graph_it_computes_the_same_and_every_weight_has_a_gradient(shared: bool) -> None:
    lstm = build(shared=shared).requires_grad_(True)
    x, hidden, common, straight = inputs(2, 7)
    out, new = run(lstm, x, hidden, common if shared else None, straight)
    with torch.no_grad():
        plain, plain_new = run(lstm, x, hidden, common if shared else None, straight)
    for a, b in zip((out, *new), (plain, *plain_new), strict=True):
        torch.testing.assert_close(a.detach(), b)
    (out.square().sum() + new.c.sum()).backward()
    assert all(p.grad is not None and bool((p.grad != 0).all()) for p in lstm.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [13, 784, BLOCK - 1, BLOCK, 2 * BLOCK + 40])
def test_blocks_and_batches_change_no_bit(d: int, dtype: torch.dtype) -> None:
    lstm = build()
    x, hidden, common, straight = inputs(7, d)
    x, hidden = x.to(dtype), Hidden(hidden.h.to(dtype), hidden.c.to(dtype))
    with torch.no_grad():
        common = common.to(dtype)
        together = run(lstm, x, hidden, common, straight)
        for p in (slice(0, 1), slice(5, 6), slice(2, 5)):
            alone = run(lstm, x[p].clone(), Hidden(hidden.h[p].clone(), hidden.c[p].clone()), common[p], straight)
            assert torch.equal(alone[0], together[0][p])
            assert torch.equal(alone[1].h, together[1].h[p])
            assert torch.equal(alone[1].c, together[1].c[p])
