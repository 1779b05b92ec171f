"""CMA-ES of the package ``cma``."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from zoracle.errors import require
from zoracle.keyed import mix
from zoracle.optimizers import Config, Optimizer, Positive, Start
from zoracle.types import Key, Queries

_UNPLANNED = 1000


class PyCMAConfig(Config, frozen=True, kw_only=True):
    """Settings of CMA-ES by pycma.

    Attributes:
        sigma: first standard deviation.
        population: candidates per step.
        diagonal: keep the covariance diagonal (separable CMA-ES) instead of full.
    """

    sigma: Positive = 0.03
    population: Annotated[int, msgspec.Meta(ge=2)] = 21
    diagonal: bool = False


class PyCMAState(NamedTuple):
    """State of a run: all values received so far, which determine the state of pycma."""

    x: Tensor
    """(B, d) the mean."""
    key: Key
    origin: Tensor
    """(B, d) the starting point."""
    told: Tensor
    """(B, T, m) float64 values so far; rows of future steps are NaN."""
    horizon: Tensor
    """(B,) T."""


class PyCMA(Optimizer[PyCMAState, PyCMAConfig]):
    """CMA-ES of the package ``cma``.

    Its own object cannot be a tensor, so it is none of the state: it is made again from the start and the values told
    so far whenever it is not at hand, and gives the same. Its random numbers are keyed; NumPy's global generator is
    not touched. A value that is missing counts as worse than all others of its step.

    Source: Hansen, Akimoto and Baudis, "CMA-ES/pycma", 2019; Ros and Hansen (2008) for the diagonal form.
    """

    Config = PyCMAConfig

    def __init__(self, config: PyCMAConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self._cma = require("cma", "baselines")
        self._at_hand: dict[bytes, _Strategy] = {}

    @property
    def queries_per_step(self) -> int:
        """The population."""
        return self.config.population

    @property
    def evaluates_iterate(self) -> bool:
        """False: the mean is not among the candidates."""
        return False

    def _init(self, start: Start) -> PyCMAState:
        planned = torch.where(start.horizon > 0, start.horizon, _UNPLANNED)
        steps = int(planned.max()) if planned.numel() else 0
        told = torch.full((start.x.shape[0], steps, self.config.population), torch.nan, dtype=torch.float64)
        return PyCMAState(start.x, start.key, start.x.clone(), told, planned)

    def _ask(self, state: PyCMAState) -> Queries:
        points = [torch.from_numpy(self._strategy(state, row).asked()) for row in range(state.x.shape[0])]
        made = torch.stack(points) if points else state.x.new_empty((0, self.config.population, state.x.shape[1]))
        return Queries(made.to(state.x), state.x.new_empty((state.x.shape[0], 0, state.x.shape[1])))

    def _tell(self, state: PyCMAState, queries: Queries, values: Tensor, gradients: Tensor | None) -> PyCMAState:
        told, x = state.told, state.x.clone()
        step = state.key.step
        if bool((step >= told.shape[1]).any()):  # the run is longer than planned
            told = torch.cat((told, torch.full_like(told, torch.nan)), dim=1)
        told = told.index_put((torch.arange(step.numel()), step), values.detach().double().cpu())
        after = state._replace(x=x, key=state.key.next(), told=told)
        for row in range(x.shape[0]):
            strategy = self._strategy(state, row)
            del self._at_hand[self._name(state, row)]
            strategy.tell(told[row, int(step[row])].numpy())
            x[row] = torch.from_numpy(strategy.mean()).to(x)
            if int(step[row]) + 1 < int(state.horizon[row]):  # the others are finished
                self._at_hand[self._name(after, row)] = strategy
        return after

    def _name(self, state: PyCMAState, row: int) -> bytes:
        """A digest of everything that determines the strategy's state."""
        step = int(state.key.step[row])
        words = [int(part[row]) for part in state.key]
        parts = (state.origin[row].double().cpu(), state.told[row, :step])
        digest = hashlib.sha256(repr((self.config, words)).encode())
        for part in parts:
            digest.update(part.contiguous().numpy().tobytes())
        return digest.digest()

    def _strategy(self, state: PyCMAState, row: int) -> _Strategy:
        name = self._name(state, row)
        if name not in self._at_hand:
            seed, problem, step = (int(part[row]) for part in state.key)
            made = _Strategy(self._cma, self.config, state.origin[row].double().cpu().numpy(), mix(seed, problem))
            for values in state.told[row, :step].numpy():
                made.asked()
                made.tell(values)
            self._at_hand[name] = made
        return self._at_hand[name]


class _Strategy:
    """One problem's CMA-ES."""

    def __init__(self, cma: Any, config: PyCMAConfig, x0: np.ndarray, seed: int) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        options = {
            "popsize": config.population,
            "CMA_diagonal": config.diagonal,
            "randn": lambda *shape: generator.standard_normal(shape),
            "seed": np.nan,
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
        }
        self.strategy = cma.CMAEvolutionStrategy(x0, config.sigma, options)
        self.points: np.ndarray | None = None

    def asked(self) -> np.ndarray:
        """The candidates of this step (m, d)."""
        if self.points is None:
            self.points = np.stack(self.strategy.ask())
        return self.points

    def tell(self, values: np.ndarray) -> None:
        """The values (m,) of the candidates."""
        known = np.isfinite(values)
        worst = values[known].max() if known.any() else 0.0
        self.strategy.tell(list(self.asked()), np.where(known, values, worst + 1.0).tolist())
        self.points = None

    def mean(self) -> np.ndarray:
        """(d,) the mean of the distribution."""
        return np.asarray(self.strategy.result.xfavorite)
