"""What is minimised."""

from __future__ import annotations

from zoracle.objectives.attack import Attack
from zoracle.objectives.base import Bounds, Objective
from zoracle.objectives.binary_classification import BinaryClassification
from zoracle.objectives.callable import CallableObjective
from zoracle.objectives.functions import ClassicalFunction
from zoracle.objectives.quadratic import Quadratic

__all__ = [
    "Attack",
    "BinaryClassification",
    "Bounds",
    "CallableObjective",
    "ClassicalFunction",
    "Objective",
    "Quadratic",
]
