"""What is minimised."""

from __future__ import annotations

from zoracle.objectives.attack import Attack
from zoracle.objectives.base import Bounds, Objective

__all__ = ["Attack", "Bounds", "Objective"]
