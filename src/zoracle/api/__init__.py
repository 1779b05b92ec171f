"""One call each: minimise a function, attack a model, load a trained optimizer."""

from zoracle.api.attacking import attack
from zoracle.api.loading import load
from zoracle.api.minimizing import minimize
from zoracle.api.solutions import AttackResult, Solution

__all__ = ["AttackResult", "Solution", "attack", "load", "minimize"]
