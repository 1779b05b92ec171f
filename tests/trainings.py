"""Small trainings that tests share."""

from __future__ import annotations

import msgspec
import torch

from problems import Bowls
from zoracle.keyed import normal
from zoracle.metatrain.config import Family, Stage, TrainConfig, Validation
from zoracle.metatrain.trainer import ESTIMATORS, Trainer
from zoracle.objectives.base import Objective
from zoracle.tasks.base import Task
from zoracle.types import Evaluation, Key

DIM = 6
ROWS = torch.arange(3)
START = torch.linspace(-1, 1, 3 * DIM, dtype=torch.float64).view(3, DIM)


class BowlTask(Task):
    name = "bowls"
    dim = DIM

    def ids(self, split: str) -> tuple[int, ...]:
        self.check_split(split)
        return {"train": (0, 1, 2, 3, 4), "valid": (5, 6), "test": (7, 8)}[split]

    def objective(self, ids, *, dtype=torch.float32, device="cpu"):
        return Bowls(len(ids), DIM, dtype)

    def start(self, ids, *, seed=0, dtype=torch.float32, device="cpu"):
        return normal(Key.start(seed, torch.tensor(ids)), (DIM,), stream=9, dtype=dtype)


class Sealed(Objective):
    """Values only: autograd through it, or asking for its gradient, is an error."""

    dim = DIM
    num_problems = 3

    def __init__(self) -> None:
        self.inner = Bowls(3, DIM)

    def _evaluate(self, points, problem, step):
        assert not torch.is_grad_enabled(), "autograd was on"
        assert not points.requires_grad
        return Evaluation(self.inner.evaluate(points, problem, step).loss)


def config(**changes) -> TrainConfig:
    first = Stage(train=("update_rnn",), settings={"query": "gaussian"}, unrolls=3, steps=6, truncation=3, meta_batch=2)
    second = msgspec.structs.replace(first, train=("query_rnn",), settings={"sampling_probability": 1.0}, unrolls=4)
    base = TrainConfig(
        task="bowls",
        optimizer="zo-lstm-paper",
        stages=(first, second),
        settings={"num_directions": 4},
        validation=Validation(problems=2, every=2, steps=6),
        values="directional",
        seed=3,
    )
    return msgspec.structs.replace(base, **changes)


def families(**settings) -> TrainConfig:
    two = (Family(task="bowls"), Family(task="bowls", problems=3, weight=3.0, rescale=50.0))
    return config(task=None, families=two, optimizer="zo-lstm", settings={"num_directions": 4}, **settings)


def meta_gradient(trainer: Trainer, stage: Stage) -> list[torch.Tensor]:
    """Of the next unroll's first update, for each parameter."""
    next(ESTIMATORS[stage.estimator](trainer.unroll(stage)).updates())
    return [p.grad.clone() for p in trainer.module.parameters()]
