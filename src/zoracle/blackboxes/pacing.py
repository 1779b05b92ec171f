"""How requests are made: limits, rates and waiting, on a clock that tests can replace."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from zoracle.errors import InputError


class Policy(NamedTuple):
    """How requests are made."""

    timeout: float = 30.0
    """Seconds that one attempt may take, all in all."""
    attempts: int = 6
    """Attempts of one request at most."""
    backoff: float = 0.25
    """Seconds before the second attempt, at most; twice as long before each further one."""
    max_backoff: float = 30.0
    """Seconds between two attempts at most, where the server asks for no longer wait."""
    concurrency: int = 4
    """Requests in flight at most."""

    def checked(self) -> Policy:
        """Itself.

        Raises:
            InputError: a number is out of its range.
        """
        for name in ("attempts", "concurrency"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise InputError(f"{name} is {value!r}; expected an integer of at least 1")
        if not (isinstance(self.timeout, int | float) and 0 < self.timeout < math.inf):
            raise InputError(f"timeout is {self.timeout!r}; expected a positive number of seconds")
        for name in ("backoff", "max_backoff"):
            if not (isinstance(value := getattr(self, name), int | float) and 0 <= value < math.inf):
                raise InputError(f"{name} is {value!r}; expected seconds, at least 0")
        return self


class Clock:
    """Time as the network sees it."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Pace:
    """Lets requests go no faster than a rate; those that come too early wait for their turn, in order.

    Each request moves the earliest time of the next by 1 / requests_per_second, and by its images /
    images_per_second, whichever is later. It is used from one event loop.

    Args:
        clock: where the time comes from.
        requests_per_second: None for no limit.
        images_per_second: None for no limit.

    Raises:
        InputError: a rate is not positive.
    """

    def __init__(
        self, clock: Clock, requests_per_second: float | None = None, images_per_second: float | None = None
    ) -> None:
        for name, rate in (("requests_per_second", requests_per_second), ("images_per_second", images_per_second)):
            if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
                raise InputError(f"{name} is {rate!r}; expected a positive number, or None for no limit")
        self.clock = clock
        self._request = 0.0 if requests_per_second is None else 1 / requests_per_second
        self._image = 0.0 if images_per_second is None else 1 / images_per_second
        self._next = self._held = -math.inf

    async def turn(self, images: int) -> None:
        """Wait until a request with this many images may go."""
        while True:
            now = self.clock.now()
            start = max(now, self._next)
            self._next = start + max(self._request, images * self._image)
            if start > now:
                await self.clock.sleep(start - now)
            if start >= self._held:
                return
            # The server asked everybody to wait while this one did: it lines up again.

    def hold(self, seconds: float) -> None:
        """Let no request go for this long: the server said so."""
        self._held = max(self._held, self.clock.now() + seconds)
        self._next = max(self._next, self._held)


def back_off(attempt: int, first: float, longest: float, draw: Callable[[], float]) -> float:
    """Seconds to wait after a failed attempt: first * 2^(attempt - 1), at most longest, times a draw in [0.5, 1].

    Args:
        attempt: 1 for the first.
        first: seconds.
        longest: seconds.
        draw: uniform in [0, 1); when to ask again is the one thing here that need not be the same twice.
    """
    return min(longest, first * 2.0 ** min(attempt - 1, 60)) * (0.5 + 0.5 * draw())


def retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 where there is none that can be read."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
