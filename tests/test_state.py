"""States as trees of tensors: named, taken apart, put together, and refused where they do not fit."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from zoracle.errors import CheckpointError
from zoracle.state import assign, detach, flatten, select, tree_map, unflatten
from zoracle.storage.files import read_tensors, write_tensors


class Inner(NamedTuple):
    h: torch.Tensor
    pair: tuple


class Outer(NamedTuple):
    x: torch.Tensor
    inner: Inner


def tree(b=3):
    x = torch.arange(b * 2, dtype=torch.float64).view(b, 2)
    return Outer(x, Inner(x.float() + 10, (torch.arange(b), x[:, :1] > 2)))


def test_names_are_fields_and_a_file_gives_the_same_back(tmp_path):
    flat = flatten(tree())
    assert list(flat) == ["state.x", "state.inner.h", "state.inner.pair.0", "state.inner.pair.1"]
    write_tensors(tmp_path / "s.safetensors", flat, {"a": 1.5})
    tensors, metadata = read_tensors(tmp_path / "s.safetensors")
    back = unflatten(tree_map(torch.zeros_like, tree()), tensors)
    assert metadata == {"a": 1.5}
    assert isinstance(back, Outer)
    assert isinstance(back.inner, Inner)
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(flat.values(), flatten(back).values(), strict=True)
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda flat: flat.pop("state.inner.h"), "'state.inner.h' is missing"),
        (lambda flat: flat.update({"state.x": flat["state.x"].float()}), r"torch.float32 \(3, 2\); expected torch.f"),
        (lambda flat: flat.update({"state.x": flat["state.x"][:2]}), r"\(2, 2\); expected torch.float64 \(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(spoil, message):
    flat = flatten(tree())
    spoil(flat)
    with pytest.raises(CheckpointError, match=message) as error:
        unflatten(tree(), flat)
    assert "\n" not in str(error.value)


def test_rows_are_taken_and_put_back_and_the_given_state_is_left():
    state = tree()
    some = select(state, torch.tensor([2, 0]))
    assert some.inner.pair[0].tolist() == [2, 0]
    assert select(state, torch.tensor([False, True, False])).x.tolist() == [[2.0, 3.0]]
    put = assign(state, torch.tensor([2, 0]), tree_map(lambda leaf: leaf * 0, some))
    assert put.x.tolist() == [[0, 0], [2, 3], [0, 0]]
    assert torch.equal(state.x, tree().x)


def test_detached_states_have_no_graph():
    x = torch.ones(2, requires_grad=True)
    assert not detach(Outer(x * 2, Inner(x, ()))).x.requires_grad


def test_only_tensors_are_states():
    with pytest.raises(TypeError, match="a state holds float"):
        tree_map(lambda leaf: leaf, (torch.ones(1), 1.0))
