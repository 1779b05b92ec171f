"""The main functions: minimise a function, attack a model, load an optimizer."""

from zoracle.api.attacking import attack
from zoracle.api.loading import load
from zoracle.api.minimizing import minimize
from zoracle.api.solutions import AttackResult, Solution

__all__ = ["AttackResult", "Solution", "attack", "load", "minimize"]
