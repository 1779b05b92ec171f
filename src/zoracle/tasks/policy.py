"""Policy search on environments of Gymnasium (extra ``gymnasium``)."""

from __future__ import annotations

import torch

from zoracle.keyed import mix
from zoracle.objectives.policy import PolicySearch
from zoracle.tasks.synthetic import PROBLEM_SEED, SyntheticTask, check_at_least


class PolicyTask(SyntheticTask):
    """Finding the weights of a policy by the return of whole episodes.

    The initial states of a problem are keyed by its id. Points start at small weights, keyed by seed and id.

    Args:
        environment: its name in Gymnasium, with vectors of real numbers as observations and actions.
        hidden: hidden units of the policy; 0 for a linear one.
        episodes: initial states that an evaluation averages over.
        horizon: steps of an episode at most; None uses the environment's own limit.
        start_std: standard deviation of the starting weights.

    Raises:
        MissingExtraError: Gymnasium is not installed, or a package that the environment needs.
        InputError: no such environment, or a setting out of its range.
    """

    name = "policy"

    def __init__(
        self,
        *,
        environment: str = "Pendulum-v1",
        hidden: int = 0,
        episodes: int = 1,
        horizon: int | None = None,
        start_std: float = 0.1,
    ) -> None:
        check_at_least("hidden", hidden, 0)
        check_at_least("episodes", episodes, 1)
        if horizon is not None:
            check_at_least("horizon", horizon, 1)
        made = PolicySearch(environment, (0,), hidden=hidden, episodes=episodes, horizon=horizon)
        super().__init__(dim=made.dim, start_std=start_std)
        self.environment = environment
        self.hidden = hidden
        self.episodes = episodes
        self.horizon = horizon

    def objective(
        self, ids: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> PolicySearch:
        """The problems with these ids, in this order; losses have the type of the points.

        Raises:
            InputError: an id below 0.
        """
        keys = [mix(PROBLEM_SEED, i) for i in self._checked(ids).tolist()]
        return PolicySearch(self.environment, keys, hidden=self.hidden, episodes=self.episodes, horizon=self.horizon)
