"""zoracle's optimizers in Nevergrad (extra ``nevergrad``): importing this registers the optimizer "Zoracle"."""

from __future__ import annotations

from typing import Any

from zoracle.errors import require
from zoracle.interop.pointwise import PointByPoint

require("nevergrad", "nevergrad")

from nevergrad.optimization import base  # noqa: E402

_TOKEN = "zoracle"


class _Zoracle(base.Optimizer):
    """What :class:`ConfiguredZoracle` makes: an optimizer of Nevergrad's that asks one of zoracle's."""

    def __init__(
        self,
        parametrization: Any,
        budget: int | None = None,
        num_workers: int = 1,
        *,
        optimizer: str = "portfolio",
        scale: float = 1.0,
    ) -> None:
        super().__init__(parametrization, budget=budget, num_workers=num_workers)
        self._optimizer, self._scale = optimizer, scale
        self._made: PointByPoint | None = None

    def _points(self) -> PointByPoint:
        if self._made is None:  # not before the first point: the seed may be set until then
            self._made = PointByPoint(
                self._optimizer,
                self.parametrization.get_standardized_data(reference=self.parametrization),
                scale=self._scale,
                seed=int(self._rng.randint(2**31)),
                budget=self.budget,
            )
        return self._made

    def _internal_ask_candidate(self) -> Any:
        token, point = self._points().ask()
        candidate = self.parametrization.spawn_child()
        candidate.set_standardized_data(point, reference=self.parametrization)
        candidate._meta[_TOKEN] = token
        return candidate

    def _internal_tell_candidate(self, candidate: Any, loss: float) -> None:
        self._points().tell(candidate._meta[_TOKEN], float(loss))

    def _internal_tell_not_asked(self, candidate: Any, loss: float) -> None:
        raise base.errors.TellNotAskedNotSupportedError


class ConfiguredZoracle(base.ConfiguredOptimizer):
    """An optimizer of zoracle's as one of Nevergrad's: ``ConfiguredZoracle(optimizer="zo-adam")(parametrization)``.

    It works in Nevergrad's standardized space, where a change of one is typical, and takes bounds as Nevergrad does.
    Values may come in any order; with more workers than a step has points, the others get points beside the iterate.

    Args:
        optimizer: a name, or a folder of a training.
        scale: by how much a standardized coordinate typically has to change.
    """

    def __init__(self, *, optimizer: str = "portfolio", scale: float = 1.0) -> None:
        super().__init__(_Zoracle, {"optimizer": optimizer, "scale": scale})


#: Also ``nevergrad.optimizers.registry["Zoracle"]``.
Zoracle = ConfiguredZoracle().set_name("Zoracle", register=True)
