"""What the public classes compute, reproduced to rounding by the classes that users run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoracle.metatrain.loss import MetaLoss
from zoracle.metatrain.oracle import TrainingOracle
from zoracle.objectives.base import Objective
from zoracle.optimizers.descent.zo_adam import ZOAdam
from zoracle.optimizers.descent.zo_sgd import ZOSGD
from zoracle.optimizers.descent.zo_signsgd import ZOSignSGD
from zoracle.optimizers.learned.paper import PaperLSTM
from zoracle.rollout import rollout, take_step
from zoracle.rollout.oracle import Oracle
from zoracle.types import Evaluation

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "official_trajectories.npz"))
MU = float(GOLDEN["problem.mu"])
Q = int(GOLDEN["problem.q"])
NAMES = {
    "update_rnn.weight_ih_l0": "update_rnn.weight_ih",
    "update_rnn.weight_hh_l0": "update_rnn.weight_hh",
    "outputer.weight": "update_rnn.head",
    "query_u_rnn.weight_ih_l0": "query_rnn.weight_ih",
    "query_u_rnn.weight_hh_l0": "query_rnn.weight_hh",
    "query_u_outputer.weight": "query_rnn.head",
}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(np.atleast_1d(GOLDEN[name]))


class TinyAttack(Objective):
    """The recorded problem: a linear target network of 10 classes on 36 pixels."""

    dim = 36
    num_problems = 1
    differentiable = True

    def _evaluate(self, points, problem, step):
        # One point at a time, as the recorded code did: a product of one row rounds differently from one of six,
        # and mu = 1e-6 magnifies that difference to 1e-9 of the estimate.
        return Evaluation(torch.cat([self._loss(point) for point in points.split(1)]))

    def _loss(self, points):
        x, label = tensor("problem.x"), int(GOLDEN["problem.y"][0])
        adversarial = (x + points).clamp(0, 1)
        normalised = (adversarial - float(GOLDEN["problem.mean"])) / float(GOLDEN["problem.norm_std"])
        log_p = torch.log_softmax(normalised @ tensor("problem.W").T + tensor("problem.b"), dim=1)
        others = torch.cat((log_p[:, :label], log_p[:, label + 1 :]), dim=1).amax(1)
        distance = (adversarial - x).abs().sum(1)
        return (log_p[:, label] - others).clamp(min=0) + float(GOLDEN["problem.c"]) * distance


def recorded(name: str):
    draws = tensor(f"{name}.z")
    return lambda key, q, like: draws[key.step]


def with_weights(optimizer: PaperLSTM, name: str) -> PaperLSTM:
    state = {
        ours: tensor(f"{name}.param.{theirs}") for theirs, ours in NAMES.items() if f"{name}.param.{theirs}" in GOLDEN
    }
    optimizer.double()
    missing = optimizer.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert len(state) in (3, 6)
    return optimizer


REFERENCE = {"num_directions": Q, "mu": MU}
LEARNED = {**REFERENCE, "sampling_probability": 1.0}
VARIANTS = {
    "zo_lstm": {},
    "zo_lstm_no_query": {"query": "gaussian"},
    "zo_lstm_no_update": {"update": "sgd"},
    "zo_lstm_update_only": {"query": "gaussian"},
}


def build(name: str):
    if name in VARIANTS:
        return with_weights(PaperLSTM(source=recorded(name), **LEARNED, **VARIANTS[name]), name)
    kind = {"zo_sgd": ZOSGD, "zo_signsgd": ZOSignSGD, "zo_adam": ZOAdam}[name]
    return kind(source=recorded(name), **REFERENCE)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    # Relative to the norm of the whole record: the difference quotients carry an absolute rounding error of about
    # f * 1e-16 / mu = 1e-9 whatever their own size.
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-9


@pytest.mark.parametrize("name", ["zo_sgd", "zo_signsgd", "zo_adam", *VARIANTS])
def test_trajectory_is_the_recorded_one(name: str) -> None:
    optimizer = build(name)
    state = optimizer.init(tensor("problem.theta0").unsqueeze(0))
    oracle = Oracle(TinyAttack())
    thetas, losses, gradients, stds = [state.x[0]], [], [], []
    for _ in range(8):
        queries, evaluation, state = take_step(optimizer, oracle, state, torch.zeros(1, dtype=torch.int64))
        losses.append(evaluation.loss[0, 0])
        thetas.append(state.x[0])
        if name in ("zo_lstm", "zo_lstm_no_update"):
            stds.append(queries.aux.std[0])
        if f"{name}.grad" in GOLDEN:
            gradients.append(state.gradient[0])
    close(torch.stack(thetas), tensor(f"{name}.theta"))
    close(torch.stack(losses), tensor(f"{name}.loss"))
    if stds:
        close(torch.stack(stds), tensor(f"{name}.std"))
    if gradients:
        close(torch.stack(gradients), tensor(f"{name}.grad"))

    # The loop that users run gives the same.
    start = optimizer.init(tensor("problem.theta0").unsqueeze(0))
    final, trajectory = rollout(optimizer, Oracle(TinyAttack()), start, 8)
    close(trajectory.loss[:, 0], tensor(f"{name}.loss"))
    close(final.x[0], tensor(f"{name}.theta")[-1])


@pytest.mark.parametrize("name", ["train_zo_lstm", "train_zo_lstm_update_only"])
def test_meta_gradient_is_the_recorded_one(name: str) -> None:
    query = "learned" if name == "train_zo_lstm" else "gaussian"
    optimizer = with_weights(PaperLSTM(source=recorded(name), query=query, **LEARNED), name)
    optimizer.requires_grad_(True)
    loss = MetaLoss(form="difference", weights="linear", penalty=0.005)
    state = optimizer.init(tensor("problem.theta0").unsqueeze(0))
    segment = loss.segment(optimizer, TrainingOracle(TinyAttack()), state, 6)
    close(segment.losses[:, 0].detach(), tensor(f"{name}.loss_after"))
    close(segment.value.detach().view(1), tensor(f"{name}.meta_loss"))
    segment.value.backward()
    gradients = dict(optimizer.named_parameters())
    recorded_names = [theirs for theirs in NAMES if f"{name}.grad.{theirs}" in GOLDEN]
    assert len(recorded_names) == (6 if query == "learned" else 3)
    for theirs in recorded_names:
        close(gradients[NAMES[theirs]].grad, tensor(f"{name}.grad.{theirs}"))
