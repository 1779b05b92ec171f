"""zoracle's optimizers as a sampler of Optuna (extra ``optuna``)."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoracle.errors import InputError, require
from zoracle.interop.pointwise import PointByPoint

require("optuna", "optuna")

from optuna.distributions import BaseDistribution, FloatDistribution  # noqa: E402
from optuna.samplers import BaseSampler, RandomSampler  # noqa: E402
from optuna.search_space import IntersectionSearchSpace  # noqa: E402
from optuna.study import Study, StudyDirection  # noqa: E402
from optuna.trial import FrozenTrial, TrialState  # noqa: E402


class ZoracleSampler(BaseSampler):
    """Samples the continuous parameters of a study by an optimizer of zoracle's, all others independently.

    Continuous are ``suggest_float`` parameters without ``step``, those with ``log=True`` in their logarithm; the
    search space is that of completed trials, so that the first trial is sampled independently, and the best completed
    one is where the optimizer starts. Trials that fail or are pruned count as lost values.

    Args:
        optimizer: a name, or a folder of a training.
        scale: by how much a parameter typically has to change, as a share of its range.
        budget: how many trials there will be, as far as it is known.
        seed: keys everything that is random.
        independent_sampler: of the other parameters; by default at random.
        settings: settings of the optimizer (``num_directions=5``).
    """

    def __init__(
        self,
        optimizer: str = "portfolio",
        *,
        scale: float = 0.2,
        budget: int | None = None,
        seed: int = 0,
        independent_sampler: BaseSampler | None = None,
        **settings: Any,
    ) -> None:
        self._optimizer, self._scale, self._budget, self._seed = optimizer, scale, budget, seed
        self._settings = settings
        self._independent = RandomSampler(seed=seed) if independent_sampler is None else independent_sampler
        self._space = IntersectionSearchSpace()
        self._made: tuple[dict[str, BaseDistribution], PointByPoint] | None = None
        self._tokens: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()  # trials may run in threads

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The continuous parameters that all completed trials have."""
        space = self._space.calculate(study)
        return {
            name: one
            for name, one in space.items()
            if isinstance(one, FloatDistribution) and one.step is None and not one.single()
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of the continuous parameters."""
        if len(study.directions) != 1:
            raise InputError(f"the study has {len(study.directions)} objectives; expected one")
        if not search_space:
            return {}
        with self._lock:
            if self._made is None or self._made[0] != search_space:
                best = study.best_trial.params
                start = np.array([_to_unit(one, best[name]) for name, one in search_space.items()])
                self._tokens.clear()
                self._made = (search_space, self._points(start))
            token, point = self._made[1].ask()
            self._tokens[trial.number] = token
        return {name: _from_unit(one, share) for (name, one), share in zip(search_space.items(), point, strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of another parameter."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the optimizer what came of a trial."""
        self._independent.after_trial(study, trial, state, values)
        with self._lock:
            token = self._tokens.pop(trial.number, None)
            if token is None or self._made is None:
                return
            value = values[0] if state == TrialState.COMPLETE and values is not None else math.nan
            self._made[1].tell(token, -value if study.direction == StudyDirection.MAXIMIZE else value)

    def reseed_rng(self) -> None:
        """Only the independent sampler draws: points of the optimizer are asked for once each."""
        self._independent.reseed_rng()

    def _points(self, start: np.ndarray) -> PointByPoint:
        d = len(start)
        return PointByPoint(
            self._optimizer, start, scale=self._scale, low=np.zeros(d), high=np.ones(d), seed=self._seed,
            budget=self._budget, **self._settings,
        )  # fmt: skip


def _to_unit(one: Any, value: float) -> float:
    low, high = (math.log(end) if one.log else end for end in (one.low, one.high))
    return ((math.log(value) if one.log else value) - low) / (high - low)


def _from_unit(one: Any, share: float) -> float:
    low, high = (math.log(end) if one.log else end for end in (one.low, one.high))
    value = low + float(share) * (high - low)
    return float(min(max(math.exp(value) if one.log else value, one.low), one.high))
