"""The distance at which the scale-free ZO-LSTM probes its directions."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from zoracle.optimizers.finite_difference import FiniteDifferenceOptimizer
from zoracle.optimizers.learned import scouting
from zoracle.optimizers.learned.guided_state import GuidedLSTMConfig, GuidedLSTMState
from zoracle.optimizers.radius import centred
from zoracle.state import assign, select
from zoracle.types import Queries


class Reaching(FiniteDifferenceOptimizer[GuidedLSTMState, GuidedLSTMConfig]):
    """A search along directions that are first probed at a distance, unless the scouting steps advised against it.

    Rows of a batch may be at different steps, so some may scout while others search.
    """

    @abstractmethod
    def _search(self, state: GuidedLSTMState) -> Queries: ...

    @abstractmethod
    def _searched(self, state: GuidedLSTMState, queries: Queries, values: Tensor) -> GuidedLSTMState: ...

    def _ask(self, state: GuidedLSTMState) -> Queries:
        scouts = _scouts(state)
        if 0 < scouts.numel() == state.x.shape[0]:
            return self._scout(state)
        asked = self._search(state)
        return asked if scouts.numel() == 0 else assign(asked, scouts, self._scout(select(state, scouts)))

    def _tell(
        self, state: GuidedLSTMState, queries: Queries, values: Tensor, gradients: Tensor | None
    ) -> GuidedLSTMState:
        scouts = _scouts(state)
        if 0 < scouts.numel() == state.x.shape[0]:
            return self._scouted(state, values)
        found = self._searched(state, queries, values)
        return found if scouts.numel() == 0 else assign(found, scouts, self._scouted(*select((state, values), scouts)))

    def _scout(self, state: GuidedLSTMState) -> Queries:
        q, x = self.config.num_directions, state.x.detach()
        drawn = self.draw(state.key, x, scouting.pairs(q))
        return Queries(*scouting.points(x, drawn, q, state.mu, state.radius.reach))

    def _scouted(self, state: GuidedLSTMState, values: Tensor) -> GuidedLSTMState:
        tally = scouting.counted(state.tally[0], values, state.mu, state.radius.reach)
        reach, until = scouting.told(tally, state.radius.reach, state.radius.until, state.x.shape[1])
        last = taken(state) == -1
        radius = state.radius._replace(
            reach=torch.where(last, reach, state.radius.reach), until=torch.where(last, until, state.radius.until)
        )
        return state._replace(key=state.key.next(), tally=(tally,), radius=radius)

    def distance(self, state: GuidedLSTMState) -> Tensor:
        """The probing distance (B,) of this step."""
        return state.radius.at(taken(state), state.mu) if self.config.reach else state.mu

    def _slopes(self, state: GuidedLSTMState, values: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes (B, q), zero if unknown, and whether they are known."""
        mu = self.distance(state)
        slopes = (values[:, 1:] - values[:, :1]) / mu.to(values).unsqueeze(1)
        known = slopes.isfinite()
        slopes = torch.where(known, slopes, 0.0)
        return (centred(slopes, known, mu > state.mu) if self.config.reach else slopes), known


def taken(state: GuidedLSTMState) -> Tensor:
    """Steps (B,) that the search has taken; below 0 while it scouts."""
    return state.key.step.to(state.x.device) - state.scouting


def _scouts(state: GuidedLSTMState) -> Tensor:
    """The rows that are still scouting."""
    if not state.tally:
        return state.x.new_empty(0, dtype=torch.int64)
    return (taken(state) < 0).nonzero().squeeze(1)
