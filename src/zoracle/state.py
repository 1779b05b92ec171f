"""States are trees of NamedTuples with tensors as leaves; these are the operations on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from zoracle.errors import CheckpointError

__all__ = [
    "Tree",
    "assign",
    "concatenate",
    "detach",
    "flatten",
    "like",
    "parted",
    "select",
    "tree_map",
    "unflatten",
]

Tree = TypeVar("Tree")


def tree_map(fn: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """Apply a function to every tensor of one tree, or to the corresponding tensors of several."""
    if isinstance(tree, Tensor):
        return cast(Tree, fn(tree, *others))
    if isinstance(tree, tuple):
        rest = [cast(tuple[Any, ...], other) for other in others]
        parts = [tree_map(fn, part, *(other[i] for other in rest)) for i, part in enumerate(tree)]
        return cast(Tree, type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts))
    raise TypeError(f"a state holds {type(tree).__name__}; expected tensors and NamedTuples of them only")


def detach(tree: Tree) -> Tree:
    """The same state without its graph: truncated back-propagation through time."""
    return tree_map(Tensor.detach, tree)


def select(tree: Tree, index: Tensor) -> Tree:
    """The rows of some problems: an index (K,) int64, or a mask (B,) bool."""
    return tree_map(lambda leaf: leaf[index.to(leaf.device)], tree)


def assign(tree: Tree, index: Tensor, rows: Tree) -> Tree:
    """The state with the rows of some problems replaced; the given state is left as it was."""

    def put(leaf: Tensor, new: Tensor) -> Tensor:
        return leaf.index_copy(0, index.to(leaf.device), new.to(leaf.dtype))

    return tree_map(put, tree, rows)


def concatenate(one: Tree, other: Tree) -> Tree:
    """The problems of two states in one."""
    return tree_map(lambda a, b: torch.cat((a, b.to(a))), one, other)


def parted(mask: Tensor, yes: Callable[..., Any], no: Callable[..., Any], *trees: Any) -> Any:
    """What one function makes of the rows in a mask (B,) and another of the others, in the rows' order.

    Args:
        mask: which rows the first function is given.
        yes: trees of K rows to a tree of K rows.
        no: likewise, of the same form.
        trees: of B rows.
    """
    some = mask.nonzero().squeeze(1)
    if some.numel() == 0:
        return no(*trees)
    if some.numel() == mask.shape[0]:
        return yes(*trees)
    rest = (~mask).nonzero().squeeze(1)
    first, second = yes(*select(trees, some)), no(*select(trees, rest))
    whole = tree_map(lambda leaf: leaf.new_zeros((mask.shape[0], *leaf.shape[1:])), first)
    return assign(assign(whole, some, first), rest, second)


def flatten(tree: Any, prefix: str = "state") -> dict[str, Tensor]:
    """Named tensors of a state, for a safetensors file; names are the fields joined by dots."""
    if isinstance(tree, Tensor):
        return {prefix: tree.detach().contiguous()}
    names = getattr(tree, "_fields", range(len(tree)))
    flat: dict[str, Tensor] = {}
    for name, part in zip(names, tree, strict=True):
        flat.update(flatten(part, f"{prefix}.{name}"))
    return flat


def unflatten(template: Tree, tensors: Mapping[str, Tensor], prefix: str = "state") -> Tree:
    """The state with the form of a template and the tensors of a file.

    Raises:
        CheckpointError: a tensor is missing, or its shape or type differs from the template's.
    """
    if isinstance(template, Tensor):
        if prefix not in tensors:
            raise CheckpointError(f"tensor {prefix!r} is missing; the file was made by another optimizer or version")
        value = tensors[prefix]
        if value.shape != template.shape or value.dtype != template.dtype:
            raise CheckpointError(
                f"tensor {prefix!r} is {value.dtype} {tuple(value.shape)}; "
                f"expected {template.dtype} {tuple(template.shape)}"
            )
        return cast(Tree, value.to(template.device))
    parts_of = cast(tuple[Any, ...], template)
    names = getattr(template, "_fields", range(len(parts_of)))
    parts = [unflatten(part, tensors, f"{prefix}.{name}") for name, part in zip(names, parts_of, strict=True)]
    return cast(Tree, type(template)(*parts) if hasattr(template, "_fields") else tuple(parts))


def like(x: Tensor, *shape: int) -> Tensor:
    """Zeros of a shape, with x's type and device."""
    return torch.zeros(shape, dtype=x.dtype, device=x.device)
