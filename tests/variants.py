"""Every registered optimizer in each of its variants, on problems of the battery."""

from __future__ import annotations

import torch

from problems import Fenced
from zoracle.optimizers.base import Optimizer
from zoracle.optimizers.registry import REGISTRY, make

# Settings beside the registered ones; " ball" asks for an l2 ball where the battery gives a box alone.
VARIANTS = {name: {} for name in REGISTRY}
VARIANTS["zo-sgd central"] = {"difference": "central"}
VARIANTS["zo-sgd orthogonal"] = {"directions": "orthogonal"}
VARIANTS["zo-sgd control variate"] = {"control_variate": True}
VARIANTS["nes forward"] = {"difference": "forward"}
VARIANTS["nes ball"] = {}
VARIANTS["zo-adamm decay"] = {"decay": "sqrt"}
VARIANTS["snes ball"] = {}
VARIANTS["bandits ball"] = {}
VARIANTS["bandits tile"] = {"tile": 2}
VARIANTS["square ball"] = {}
VARIANTS["sign-hunter ball"] = {}
VARIANTS["simba ball"] = {}
VARIANTS["spectral-search ball"] = {}
# Points of these dimensions are images, and of all others they are none.
SHAPES = {8: (2, 2, 2), 50: (2, 5, 5)}


def fenced(name: str, problems: int, dim: int, dtype: torch.dtype = torch.float64) -> Fenced:
    return Fenced(problems, dim, dtype, ball=name.endswith(" ball"), shape=SHAPES.get(dim))


def build(name: str, q: int = 6) -> Optimizer:
    # QueryRNN's coin and weights that do something: an untrained head hardly moves.
    plain = name.split(" ")[0]
    sampling = {"num_directions": q} if has(plain, "num_directions") else {}
    optimizer = make(plain, **sampling, **VARIANTS[name])
    if isinstance(optimizer, torch.nn.Module):
        g = torch.Generator().manual_seed(1)
        for parameter in optimizer.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    return optimizer


def has(name: str, setting: str) -> bool:
    return setting in type(make(name).config).__struct_fields__


def begin(optimizer: Optimizer, objective: Fenced, x0: torch.Tensor, **options):
    return optimizer.init(x0, space=objective.space(torch.arange(len(x0)), x0), **options)
