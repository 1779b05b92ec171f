"""Checks that every optimizer, objective, task and black box must pass, also for code outside the package."""

from zoracle.testing.blackboxes import check_black_box
from zoracle.testing.objectives import check_objective, check_task
from zoracle.testing.optimizers import check_optimizer, stays_inside
from zoracle.testing.problems import Bowls, Fenced, Linear

__all__ = [
    "Bowls",
    "Fenced",
    "Linear",
    "check_black_box",
    "check_objective",
    "check_optimizer",
    "check_task",
    "stays_inside",
]
