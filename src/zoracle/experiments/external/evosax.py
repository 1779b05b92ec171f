"""Evolution strategies of the package ``evosax``, learned ones among them."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from zoracle.errors import require
from zoracle.keyed import mix
from zoracle.optimizers import Config, Optimizer, Positive, Start
from zoracle.types import Key, Queries

_CLASSES = {"snes": "SNES", "les": "LearnedES", "cma-anchored-les": "CMAAnchoredLES"}


class EvosaxConfig(Config, frozen=True, kw_only=True):
    """Settings of a strategy of evosax.

    Attributes:
        strategy: "snes", or one of the learned ones with the weights that evosax ships: "les", "cma-anchored-les".
        sigma: first standard deviation.
        population: candidates per step.
    """

    strategy: Literal["snes", "les", "cma-anchored-les"] = "snes"
    sigma: Positive = 0.03
    population: Annotated[int, msgspec.Meta(ge=2)] = 21


class EvosaxState(NamedTuple):
    """State of a strategy of evosax."""

    x: Tensor
    """(B, d) the mean."""
    key: Key
    rest: tuple[Tensor, ...]
    """(B, ...) each: the other arrays of the strategy's own state, in JAX's order."""


class Evosax(Optimizer[EvosaxState, EvosaxConfig]):
    """An evolution strategy of the package ``evosax``.

    Its functions are pure, so its arrays are the state. They are compiled once for each d and run problem by problem:
    a batch would be compiled for each size, and could round differently. The random numbers are keyed. evosax
    computes in float32, whatever the type of x. A value that is missing counts as worse than all others of its step;
    a step without any value moves nothing.

    The learned ones read their weights from a pickle within evosax, by evosax's own loader. It is a part of that
    package, and as trusted as its code; nothing else is unpickled.

    Source: Lange, "evosax: JAX-based evolution strategies", 2022; Schaul, Glasmachers and Schmidhuber (2011) for
    SNES; Lange et al., "Discovering evolution strategies via meta-black-box optimization", ICLR 2023, for LES. Its
    CMA-anchored form is described in evosax only.
    """

    Config = EvosaxConfig

    def __init__(self, config: EvosaxConfig | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        require("evosax", "evosax")

    @property
    def queries_per_step(self) -> int:
        """The population."""
        return self.config.population

    @property
    def evaluates_iterate(self) -> bool:
        """False: the mean is not among the candidates."""
        return False

    def _init(self, start: Start) -> EvosaxState:
        b, d = start.x.shape
        first = _strategy(self.config, d).first
        rest = (torch.from_numpy(leaf).expand(b, *leaf.shape).clone() for leaf in first)
        return EvosaxState(start.x, start.key, tuple(rest))

    def _ask(self, state: EvosaxState) -> Queries:
        b, d = state.x.shape
        strategy = _strategy(self.config, d)
        points = np.empty((b, self.config.population, d), np.float32)
        for row in range(b):
            points[row] = strategy.ask(*_row(state, row))
        return Queries(torch.from_numpy(points).to(state.x), state.x.new_empty((b, 0, d)))

    def _tell(self, state: EvosaxState, queries: Queries, values: Tensor, gradients: Tensor | None) -> EvosaxState:
        strategy = _strategy(self.config, state.x.shape[1])
        x = state.x.clone()
        rest = tuple(leaf.clone() for leaf in state.rest)
        for row, told in enumerate(_complete(values.detach().float().cpu())):
            if not bool(told.isfinite().all()):
                continue
            points = queries.points[row].detach().float().cpu().numpy()
            mean, leaves = strategy.tell(*_row(state, row), points, told.numpy())
            x[row] = torch.from_numpy(mean).to(x)
            for kept, leaf in zip(rest, leaves, strict=True):
                kept[row] = torch.from_numpy(leaf)
        return EvosaxState(x, state.key.next(), rest)


def _complete(values: Tensor) -> Tensor:
    """Values (B, m) with missing ones just above the worst of their row; rows without any value stay as they are."""
    known = values.isfinite()
    worst = values.where(known, -torch.inf).amax(1, keepdim=True)
    above = worst.nextafter(torch.tensor(torch.inf))
    return values.where(known | ~known.any(1, keepdim=True), above)


def _row(state: EvosaxState, row: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Key, mean and the other arrays of one problem."""
    words = [int(part[row]) for part in state.key]
    key = np.array([mix(*words, stream) for stream in range(2)], np.uint32)
    return key, state.x[row].detach().float().cpu().numpy(), [leaf[row].numpy() for leaf in state.rest]


@lru_cache(maxsize=32)
def _strategy(config: EvosaxConfig, d: int) -> _Strategy:
    return _Strategy(config, d)


class _Strategy:
    """One strategy of evosax in d dimensions, between arrays of NumPy.

    Asking changes the state of none of these strategies, and their initial states do not depend on a key.
    """

    def __init__(self, config: EvosaxConfig, d: int) -> None:
        self._jax = require("jax", "evosax")
        if not self._jax.config.jax_platforms:  # by default, do not look for a GPU or take its memory
            self._jax.config.update("jax_platforms", "cpu")
        made = getattr(require("evosax.algorithms", "evosax"), _CLASSES[config.strategy])
        zero = np.zeros(d, np.float32)
        self._of = made(population_size=config.population, solution=zero, metrics_fn=_no_metrics)
        self._params = self._of.default_params.replace(std_init=np.float32(config.sigma))
        state = self._of.init(self._key(np.zeros(2, np.uint32)), zero, self._params)
        leaves, self._form = self._jax.tree.flatten(state.replace(mean=None))
        self.first = [np.array(leaf) for leaf in leaves]

    def ask(self, key: np.ndarray, mean: np.ndarray, rest: list[np.ndarray]) -> np.ndarray:
        """Candidates (m, d)."""
        points, _ = self._of.ask(self._key(key), self._state(mean, rest), self._params)
        return np.asarray(points)

    def tell(
        self, key: np.ndarray, mean: np.ndarray, rest: list[np.ndarray], points: np.ndarray, values: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The mean (d,) and the other arrays after the step."""
        state, _ = self._of.tell(self._key(key), points, values, self._state(mean, rest), self._params)
        leaves = self._jax.tree.leaves(state.replace(mean=None))
        return np.array(state.mean), [np.array(leaf) for leaf in leaves]

    def _state(self, mean: np.ndarray, rest: list[np.ndarray]) -> Any:
        return self._jax.tree.unflatten(self._form, rest).replace(mean=mean)

    def _key(self, words: np.ndarray) -> Any:
        return self._jax.random.wrap_key_data(words, impl="threefry2x32")


def _no_metrics(*_: Any) -> dict[str, Any]:
    return {}
