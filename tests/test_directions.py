from __future__ import annotations

import math

import pytest
import torch

from zoracle import directions
from zoracle.directions import complement, orthogonal_to, orthonormalise
from zoracle.errors import InputError
from zoracle.keyed import mix, normal, permutation, uniform
from zoracle.types import Key


def key(problems: int, seed: int = 0, step: int = 0) -> Key:
    start = Key.start(seed, torch.arange(problems))
    return start._replace(step=start.step + step)


LIKE = torch.zeros(6, 7, dtype=torch.float64)
KINDS = {
    "gaussian": lambda k, like: directions.gaussian(k, 5, like),
    "orthogonal": lambda k, like: directions.orthogonal(k, 5, like),
    "guided": lambda k, like: directions.guided(k, 5, subspace(like)),
}


def subspace(like: torch.Tensor) -> torch.Tensor:
    d = like.shape[1]
    rows = torch.stack((torch.linspace(-1, 1, d), torch.cos(torch.arange(d, dtype=torch.float32)))).to(like.dtype)
    return rows.expand(like.shape[0], 2, d)


@pytest.mark.parametrize("kind", KINDS)
def test_a_problem_alone_draws_what_it_draws_in_a_batch(kind: str) -> None:
    together = KINDS[kind](key(6), LIKE)
    for row in range(6):
        alone = Key(*(part[row : row + 1] for part in key(6)))
        assert torch.equal(KINDS[kind](alone, LIKE[:1])[0], together[row])


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_the_key_matters(kind: str) -> None:
    base = KINDS[kind](key(2), LIKE[:2])
    assert not torch.equal(base[0], base[1])
    assert not torch.equal(base, KINDS[kind](key(2, seed=1), LIKE[:2]))
    assert not torch.equal(base, KINDS[kind](key(2, step=1), LIKE[:2]))
    assert torch.equal(base, KINDS[kind](key(2), LIKE[:2]))


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_covariance_is_the_identity(kind: str) -> None:
    n = 4000
    u = KINDS[kind](key(n), torch.zeros(n, 7, dtype=torch.float64)).flatten(0, 1)
    outer = u.unsqueeze(2) * u.unsqueeze(1)
    # Directions of one draw are not independent where they are orthogonal: errors come from the n draws.
    by_draw = outer.view(n, 5, 7, 7).mean(1)
    error = by_draw.std(0) / math.sqrt(n)
    assert ((by_draw.mean(0) - torch.eye(7, dtype=torch.float64)).abs() < 4.5 * error).all()


def test_orthogonal_directions_are_orthogonal_and_of_length_sqrt_d() -> None:
    u = directions.orthogonal(key(3), 7, LIKE[:3])
    gram = u @ u.transpose(1, 2)
    torch.testing.assert_close(gram, 7 * torch.eye(7, dtype=torch.float64).expand(3, 7, 7))
    blocks = directions.orthogonal(key(3), 10, LIKE[:3])
    assert blocks.shape == (3, 10, 7)
    torch.testing.assert_close(blocks.norm(dim=2), torch.full((3, 10), math.sqrt(7), dtype=torch.float64))


@pytest.mark.parametrize(("scaling", "stretch"), [("balanced", math.sqrt(7 / 2)), ("published", 1.0)])
def test_guided_covariance_is_the_stated_one(scaling, stretch: float) -> None:
    n, alpha = 6000, 0.3
    like = torch.zeros(n, 7, dtype=torch.float64)
    u = directions.guided(key(n), 1, subspace(like), alpha, scaling)[:, 0]
    basis = torch.linalg.qr(subspace(like)[0].T).Q
    expected = alpha * torch.eye(7, dtype=torch.float64) + (1 - alpha) * stretch**2 * basis @ basis.T
    outer = u.unsqueeze(2) * u.unsqueeze(1)
    assert ((outer.mean(0) - expected).abs() < 4.5 * outer.std(0) / math.sqrt(n)).all()


def test_guided_without_a_subspace_is_gaussian() -> None:
    nothing = torch.zeros(2, 2, 7, dtype=torch.float64)
    assert torch.equal(directions.guided(key(2), 5, nothing), directions.gaussian(key(2), 5, LIKE[:2]))
    same = torch.ones(2, 2, 7, dtype=torch.float64)  # the second vector adds nothing to the first
    u = directions.guided(key(2), 5, same, alpha=0.0)
    torch.testing.assert_close(u, u.mean(2, keepdim=True).expand_as(u))


def test_antithetic_pairs() -> None:
    u = directions.gaussian(key(2), 3, LIKE[:2])
    pairs = directions.antithetic(u)
    assert pairs.shape == (2, 6, 7)
    assert torch.equal(pairs[:, 0::2], u)
    assert torch.equal(pairs[:, 1::2], -u)


def test_float32_and_float64_see_the_same_draws() -> None:
    wide = normal(key(2), (3, 5), dtype=torch.float64)
    assert torch.equal(wide.float(), normal(key(2), (3, 5)))


def test_keys_do_not_collide_where_it_would_be_seen() -> None:
    words = {mix(seed, problem, step) for seed in range(5) for problem in range(100) for step in range(200)}
    # Of 100,000 draws from 2^32 about 1.2 pairs collide by chance.
    assert len(words) >= 100_000 - 12
    assert mix(1, 2) != mix(2, 1)


def test_coin_and_permutation_are_fair_and_fixed() -> None:
    coins = uniform(key(20_000))
    assert abs(float(coins.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 20_000)
    assert permutation(5, 1, 2).tolist() == permutation(5, 1, 2).tolist()
    assert sorted(permutation(50, 3).tolist()) == list(range(50))


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="expected at least 1"):
        directions.draw("gaussian", key(1), 0, LIKE[:1])
    with pytest.raises(InputError, match="gaussian, orthogonal"):
        directions.draw("sobol", key(1), 2, LIKE[:1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alpha"):
        directions.guided(key(1), 2, subspace(LIKE[:1]), alpha=2.0)


@pytest.mark.parametrize("d", [13, 64])
def test_orthonormal_rows_keep_their_span_and_spares_replace_what_depends(d: int) -> None:
    g = torch.Generator().manual_seed(5)
    vectors = torch.randn(2, 3, d, generator=g, dtype=torch.float64)
    spare = torch.randn(2, 3, d, generator=g, dtype=torch.float64)
    asked = []

    def spares() -> torch.Tensor:
        asked.append(True)
        return spare

    rows = orthonormalise(vectors, spares)
    assert not asked
    torch.testing.assert_close(rows @ rows.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    torch.testing.assert_close(complement(vectors, rows), torch.zeros_like(vectors), atol=1e-12, rtol=0)
    torch.testing.assert_close(rows[:, 0], vectors[:, 0] / vectors[:, 0].norm(dim=1, keepdim=True))

    broken = vectors.clone()
    broken[0, 1] = 2 * broken[0, 0]
    broken[0, 2] = 0
    mended = orthonormalise(broken, spares)
    torch.testing.assert_close(mended @ mended.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    assert torch.equal(mended[1], rows[1]), "the other problem is left as it was"
    replaced = torch.stack((vectors[0, 0], spare[0, 1], spare[0, 2])).unsqueeze(0)
    torch.testing.assert_close(mended[:1], orthonormalise(replaced, spares))


def test_directions_orthogonal_to_a_basis_have_length_root_d() -> None:
    g = torch.Generator().manual_seed(6)
    basis = orthonormalise(torch.randn(2, 3, 20, generator=g, dtype=torch.float64), lambda: torch.zeros(2, 3, 20))
    z = torch.randn(2, 5, 20, generator=g, dtype=torch.float64)
    std = torch.rand(2, 20, generator=g, dtype=torch.float64) + 0.5
    u = orthogonal_to(basis, z, std)
    assert float((u @ basis.transpose(1, 2)).abs().max()) < 1e-12
    torch.testing.assert_close(u.norm(dim=2), torch.full((2, 5), 20**0.5, dtype=torch.float64))
    both = orthonormalise(torch.cat((basis, z * std.unsqueeze(1)), dim=1), lambda: torch.zeros(2, 8, 20))
    assert float(complement(u, both).abs().max()) < 1e-10, "in the span of the basis and sigma z"
