"""User errors and warnings, each one line: what was given, what was expected, how to fix it."""

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
    "UnknownSettingError",
    "WorkerError",
    "one_line",
    "require",
]


class InputError(ValueError):
    """An argument or file is unusable; the command line prints the message as one line and exits with code 2."""


class UnknownSettingError(InputError):
    """An optimizer has no setting of that name."""

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


class BudgetError(InputError):
    """A call would spend more queries than the budget allows; nothing was evaluated."""


class BlackBoxError(InputError):
    """The black box raised, or returned something that is not a usable output."""


class CheckpointError(InputError):
    """A checkpoint is missing, truncated, of another format, or made for something else."""


class WorkerError(InputError):
    """A worker process ended before its work was done."""


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed."""


class DamagedWarning(UserWarning):
    """The damaged end of a file was cut off; the lost values are requested again."""


class ChangedTargetWarning(UserWarning):
    """A target gives another answer to a stored query: it has changed, or is noisy."""


class MuTooSmallWarning(UserWarning):
    """The smoothing radius is too small for the floating-point type: differences would be rounding noise."""


class MisclassifiedWarning(UserWarning):
    """The target misclassifies most images before the attack."""


class FailedCallWarning(UserWarning):
    """A call of the user's function raised, and its value is NaN, as requested."""


class DivergenceWarning(UserWarning):
    """The loss of a training has risen above its initial value."""


class NoSignalWarning(UserWarning):
    """Near the start f does not vary by more than its noise: the result means little."""


class RivalWarning(UserWarning):
    """A minimiser of another library failed in a comparison; its best point so far counts."""


class NonFiniteWarning(UserWarning):
    """More than 1 % of the values of f were NaN or infinite."""


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
    """A text with control and escape characters replaced by spaces."""
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
