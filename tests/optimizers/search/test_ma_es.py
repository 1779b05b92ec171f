"""LM-MA-ES: what it does to its draws, against the transformations one after the other."""

from __future__ import annotations

import math

import torch

from zoracle.optimizers.search.ma_es import MAES


def test_transformations_by_inner_products_are_those_one_after_the_other() -> None:
    strategy, d = MAES(num_directions=6), 30
    state = strategy.init(torch.zeros(2, d, dtype=torch.float64))
    g = torch.Generator().manual_seed(0)
    paths = torch.randn(state.paths.shape, generator=g, dtype=torch.float64)
    paths[:, 1] *= 40  # longer than random steps make it
    # The second problem has begun two steps ago: only two of its paths count.
    key = state.key._replace(step=torch.full_like(state.key.step, 50))
    state = state._replace(paths=paths, key=key, begun=torch.tensor([0, 48]))
    z = torch.randn((2, 7, d), generator=g, dtype=torch.float64)
    for row, counting in ((0, paths.shape[1]), (1, 2)):
        y = z[row]
        for j in range(counting):
            path, share = paths[row, j], 1 / (1.5**j * d)
            path = path * min(1.0, math.sqrt(2 * d) / float(path.norm()))
            y = (1 - share) * y + share * torch.outer(y @ path, path)
        torch.testing.assert_close(strategy.shaped(state, z)[row], y, atol=1e-12, rtol=1e-12)


def test_a_candidate_that_a_bound_turns_back_counts_as_drawn_where_it_is() -> None:
    strategy = MAES(num_directions=20, sigma=2.0)
    x = torch.full((1, 3), 0.9, dtype=torch.float64)
    start = strategy.init(x)
    space = start.space._replace(low=-torch.ones_like(x), high=torch.ones_like(x))
    state = start._replace(space=space)
    asked, free = strategy.ask(state), strategy.ask(start)
    assert (asked.points.abs() <= 1).all()
    moved = asked.points != free.points
    assert moved.any()
    torch.testing.assert_close(asked.directions[~moved], free.directions[~moved])
    torch.testing.assert_close(asked.directions[moved], ((asked.points - 0.9) / 2.0)[moved])
