"""Learned zeroth-order optimization: minimise functions that you can only evaluate."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zoracle.api import attack, load, minimize
    from zoracle.api.solutions import AttackResult, Solution

__all__ = ["AttackResult", "Solution", "attack", "load", "minimize"]


def __getattr__(name: str) -> Any:
    # Loading torch takes seconds: `zoracle --version` should not.
    if name in __all__:
        from zoracle import api

        return getattr(api, name)
    raise AttributeError(f"module 'zoracle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
