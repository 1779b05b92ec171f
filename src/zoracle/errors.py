"""Errors that a user can mend, each told in one line: what was given, what was expected, how to mend it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = [
    "BlackBoxError",
    "BudgetError",
    "ChangedTargetWarning",
    "CheckpointError",
    "DamagedWarning",
    "DivergenceWarning",
    "FailedCallWarning",
    "InputError",
    "MisclassifiedWarning",
    "MissingExtraError",
    "MuTooSmallWarning",
    "NoSignalWarning",
    "NonFiniteWarning",
    "WorkerError",
    "one_line",
    "require",
]


class InputError(ValueError):
    """Something the caller gave is unusable; the command line prints it as one line and exits with code 2."""


class BudgetError(InputError):
    """A call would spend more queries than the budget allows; nothing was evaluated."""


class BlackBoxError(InputError):
    """The black box raised, or returned something that is not a usable output."""


class CheckpointError(InputError):
    """A checkpoint is missing, truncated, foreign, or made for something else."""


class WorkerError(InputError):
    """A worker process ended before its work was done."""


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed."""


class DamagedWarning(UserWarning):
    """The end of a file was damaged and cut off; what it held is requested again."""


class ChangedTargetWarning(UserWarning):
    """A target does not answer a stored query as it did: it is another one now, or noisy."""


class MuTooSmallWarning(UserWarning):
    """The smoothing radius is too small for the floating-point type: differences would be rounding noise."""


class MisclassifiedWarning(UserWarning):
    """A target is wrong on most images before the attack."""


class FailedCallWarning(UserWarning):
    """A call of a user's function raised, and NaN was taken as its value, as the caller asked."""


class DivergenceWarning(UserWarning):
    """The loss of a training run has risen above where it began."""


class NoSignalWarning(UserWarning):
    """F does not differ by more than its noise anywhere near the start: a result means little."""


class RivalWarning(UserWarning):
    """A minimiser of another library failed in a comparison, and ends with what it had found."""


class NonFiniteWarning(UserWarning):
    """More than one in a hundred of f's values were NaN or infinite."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: name of the module, as in an import statement.
        extra: the extra of this package that installs it.

    Raises:
        MissingExtraError: the module is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        cause: BaseException | None = error
        while cause is not None:  # some modules turn Ctrl-C while they are imported into an error of their own
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise MissingExtraError(
            f"{module} is required but not installed; install it with: pip install 'zoracle[{extra}]'"
        ) from error


def printable(text: str) -> str:
    """A text without what a terminal obeys: control and escape characters become spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of its message, cut to a length that is fit to be shown."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a message of somebody else's making
        lines = []
    return f"{type(error).__name__}: {shortened(lines[0], 400)}" if lines else type(error).__name__


def failure(error: BaseException) -> str:
    """What code of others raised, in one line. Code that would end the program has failed like any other.

    Raises:
        KeyboardInterrupt: it was Ctrl-C.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    return one_line(error)


def shortened(text: str, length: int) -> str:
    """A text of at most so many characters: of a longer one the middle is left out."""
    if len(text) <= length:
        return text
    end = length // 3
    return f"{text[: length - end - 5]} ... {text[-end:]}"
