"""Objectives: the functions to minimise."""

from __future__ import annotations

from zoracle.objectives.attack import Attack, ImageAttack
from zoracle.objectives.base import Bounds, Objective
from zoracle.objectives.binary_classification import BinaryClassification
from zoracle.objectives.callable import CallableObjective
from zoracle.objectives.functions import ClassicalFunction
from zoracle.objectives.hyperparameters import TrainingSettings
from zoracle.objectives.lasso import LassoPenalties
from zoracle.objectives.network import NetworkTraining
from zoracle.objectives.policy import PolicySearch
from zoracle.objectives.quadratic import Quadratic
from zoracle.objectives.reduced import Reduced
from zoracle.objectives.ripples import Ripples
from zoracle.objectives.robust_regression import RobustRegression
from zoracle.objectives.rover import Rover
from zoracle.objectives.shifted import ShiftedFunctions
from zoracle.objectives.threat import ThreatModel

__all__ = [
    "Attack",
    "BinaryClassification",
    "Bounds",
    "CallableObjective",
    "ClassicalFunction",
    "ImageAttack",
    "LassoPenalties",
    "NetworkTraining",
    "Objective",
    "PolicySearch",
    "Quadratic",
    "Reduced",
    "Ripples",
    "RobustRegression",
    "Rover",
    "ShiftedFunctions",
    "ThreatModel",
    "TrainingSettings",
]
