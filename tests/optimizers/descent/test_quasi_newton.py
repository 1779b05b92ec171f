"""The parts of quasi-Newton steps, against dense algebra."""

from __future__ import annotations

import torch

from zoracle.optimizers.descent.quasi_newton import parabola, two_loop, vertex


def test_two_loops_are_the_dense_bfgs_updates_in_order() -> None:
    g = torch.Generator().manual_seed(4)
    root = torch.randn(6, 6, dtype=torch.float64, generator=g)
    hessian = root @ root.t() + torch.eye(6, dtype=torch.float64)
    steps = torch.randn(3, 6, dtype=torch.float64, generator=g)
    changes = steps @ hessian
    eye = torch.eye(6, dtype=torch.float64)
    inverse = eye * (steps[-1] @ changes[-1]) / changes[-1].square().sum()
    for s, y in zip(steps, changes, strict=True):
        v = eye - torch.outer(y, s) / (s @ y)
        inverse = v.t() @ inverse @ v + torch.outer(s, s) / (s @ y)
    gradient = torch.randn(6, dtype=torch.float64, generator=g)
    # The second problem has no pair: the identity times what is given.
    found = two_loop(
        gradient.expand(2, 6),
        torch.stack((steps, 0 * steps)),
        torch.stack((changes, 0 * changes)),
        torch.tensor([9.0, 0.5], dtype=torch.float64),
        torch.tensor([True, False]),
    )
    torch.testing.assert_close(found[0], inverse @ gradient)
    torch.testing.assert_close(found[1], 0.5 * gradient)


def test_pairs_that_vanish_in_float32_make_no_nan() -> None:
    tiny = torch.full((1, 2, 3), 1e-30)
    assert two_loop(torch.zeros(1, 3), tiny, tiny, torch.ones(1), torch.tensor([True])).isfinite().all()


def test_a_parabola_is_found_again_and_its_end_where_it_has_no_minimum_within() -> None:
    t = torch.linspace(0.2, 1, 5, dtype=torch.float64).expand(3, 5)
    values = torch.stack((2 + (t[0] - 0.4).square(), 3 - t[1], 1 + t[2]))
    low, where, start = parabola(t, values)
    torch.testing.assert_close(where, torch.tensor([0.4, 1.0, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(low, torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(start, torch.tensor([2.16, 3.0, 1.0], dtype=torch.float64), atol=1e-6, rtol=0)
    values[0, :2] = torch.nan
    assert parabola(t, values)[0].isnan().tolist() == [True, False, False]


def test_the_vertex_of_three_points() -> None:
    t = torch.tensor([[0.0, 1.0, 4.0], [0.0, 1.0, 4.0]], dtype=torch.float64)
    values = torch.stack(((t[0] - 1.5).square(), -t[1].square()))
    found = vertex(t, values)
    torch.testing.assert_close(found[0], torch.tensor(1.5, dtype=torch.float64))
    assert found[1].isnan()
