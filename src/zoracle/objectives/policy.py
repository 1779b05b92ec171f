"""Policies for an environment of Gymnasium, by the return of whole episodes (extra ``gymnasium``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from zoracle.errors import InputError, require
from zoracle.keyed import mix
from zoracle.objectives.base import Objective
from zoracle.types import Evaluation

Numbers = npt.NDArray[np.float64]


class PolicySearch(Objective):
    r"""P sets of initial states of one environment, for each of which a policy is searched.

    A point holds the weights of a policy, a = W o without hidden units and :math:`W_2 \tanh(W_1 o + b_1) + b_2` with
    them, each matrix row by row; actions are cut to the environment's range. With R_e the sum of rewards of the episode
    from initial state e,

    .. math:: f = -\frac1E \sum_e R_e.

    The initial states of a problem are the same in every evaluation, so f has no noise.

    Args:
        environment: its name in Gymnasium; observations and actions have to be vectors of real numbers.
        ids: one per problem, which the initial states are keyed by.
        hidden: hidden units; 0 for a linear policy.
        episodes: E.
        horizon: steps of an episode at most; None uses the environment's own limit.

    Raises:
        MissingExtraError: Gymnasium is not installed, or a package that the environment needs.
        InputError: no such environment, none of this kind, or a number out of range.

    Source: Mania, Guy and Recht, "Simple random search of static linear policies is competitive for reinforcement
    learning", 2018, for linear policies.
    """

    def __init__(
        self, environment: str, ids: Sequence[int], *, hidden: int = 0, episodes: int = 1, horizon: int | None = None
    ) -> None:
        if episodes < 1 or hidden < 0 or (horizon is not None and horizon < 1):
            raise InputError(
                f"episodes is {episodes}, hidden {hidden} and horizon {horizon}; expected at least 1, 0 and 1"
            )
        self.environment, self.ids = environment, list(ids)
        self.hidden, self.episodes, self.horizon = hidden, episodes, horizon
        self.num_problems = len(self.ids)
        self._env = opened(environment, horizon)
        self._inputs = self._env.observation_space.shape[0]
        self._outputs = self._env.action_space.shape[0]
        self.dim = policy_dim(self._inputs, hidden, self._outputs)

    def _evaluate(self, points: Tensor, problem: Tensor, step: Tensor | None) -> Evaluation:
        given = points.detach().cpu().double().numpy()
        losses = [
            -math.fsum(self._episode(point, mix(self.ids[p], e)) for e in range(self.episodes)) / self.episodes
            for point, p in zip(given, problem.tolist(), strict=True)
        ]
        return Evaluation(points.new_tensor(losses))

    def _episode(self, point: Numbers, seed: int) -> float:
        """The return of one episode."""
        layers = self._layers(point)
        low, high = self._env.action_space.low, self._env.action_space.high
        seen, _ = self._env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            out = np.asarray(seen, dtype=np.float64)
            for i, (weight, bias) in enumerate(layers):
                out = weight @ (np.tanh(out) if i else out) + bias
            seen, reward, ended, cut, _ = self._env.step(np.clip(out, low, high).astype(low.dtype))
            total += float(reward)
            over = bool(ended or cut)
        return total

    def _layers(self, point: Numbers) -> list[tuple[Numbers, Numbers]]:
        if not self.hidden:
            return [(point.reshape(self._outputs, self._inputs), np.zeros(self._outputs))]
        h = self.hidden
        sizes = np.cumsum([self._inputs * h, h, h * self._outputs])
        w1, b1, w2, b2 = np.split(point, sizes)
        return [(w1.reshape(h, self._inputs), b1), (w2.reshape(self._outputs, h), b2)]


def policy_dim(inputs: int, hidden: int, outputs: int) -> int:
    """How many weights a policy has."""
    return (inputs + 1) * hidden + (hidden + 1) * outputs if hidden else inputs * outputs


def opened(environment: str, horizon: int | None) -> Any:
    """An environment of Gymnasium with vectors of real numbers on both sides.

    Raises:
        MissingExtraError: Gymnasium is not installed, or a package that the environment needs.
        InputError: no such environment, or none of this kind.
    """
    gymnasium = require("gymnasium", "gymnasium")
    error = gymnasium.error
    try:
        env = gymnasium.make(environment, max_episode_steps=horizon)
    except error.DependencyNotInstalled:
        require("mujoco", "gymnasium")
        raise
    except error.Error as reason:
        told = str(reason).splitlines()[0]
        raise InputError(f"environment {environment!r} cannot be made: {told}") from reason
    box = gymnasium.spaces.Box
    for name, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, box) or len(space.shape) != 1:
            raise InputError(f"environment {environment!r} has {name} of {space}; expected vectors of real numbers")
    return env
