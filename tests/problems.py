"""Small problems that tests share; they are those of ``zoracle.testing``."""

from zoracle.testing.problems import Bowls, Fenced, Linear

__all__ = ["Bowls", "Fenced", "Linear"]
