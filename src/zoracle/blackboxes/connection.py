"""Requests over HTTP that outlive a bad network: concurrency, time limits, retries with back-off, a rate limit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from zoracle.blackboxes.attempts import ANSWERED, Attempt, Attempts
from zoracle.blackboxes.pacing import Clock, Pace, Policy, back_off, retry_after
from zoracle.blackboxes.reading import ACCEPTED, FEW, read_body
from zoracle.blackboxes.secrets import Secrets
from zoracle.blackboxes.v2_protocol import MalformedError, error_text
from zoracle.errors import BlackBoxError, InputError, require

T = TypeVar("T")

#: Statuses below 500 that say "later": a time-out, too early, too many requests.
_LATER = (408, 425, 429)
#: Seconds that a server may ask to wait; where it asks for more, the caller is told instead.
LONGEST_WAIT = 600.0

#: Statuses of requests that a server did not work on.
_TURNED_AWAY = (408, 425, 429, 503)


class Answer(NamedTuple):
    """What a server answered with a status of success."""

    body: bytes
    headers: Any
    """A mapping that takes names in any case."""


class RetryError(Exception):
    """A reason to ask again.

    Args:
        kind: how the attempt ended.
        text: the same in words.
        billed: whether the server may have worked on it.
        status: HTTP status, where there was one.
        wait: seconds that the server asks to wait.
    """

    def __init__(
        self, kind: str, text: str, *, billed: bool = True, status: int | None = None, wait: float = 0.0
    ) -> None:
        super().__init__(text)
        self.kind, self.text, self.billed, self.status, self.wait = kind, text, billed, status, wait


class Connection:
    """One server. Its event loop runs in a thread of its own, so that it can be used from anywhere, a notebook too.

    Args:
        policy: how requests are made.
        headers: sent with every request.
        secrets: keys, and what makes a text of the server fit to be shown.
        attempts: where requests are counted.
        requests_per_second: None for no limit.
        images_per_second: None for no limit.
        clock: the clock that measures waiting.
        secure: whether the server is asked over TLS.

    Raises:
        InputError: a setting is out of its range.
        MissingExtraError: httpx or tenacity is not installed.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        headers: dict[str, str],
        secrets: Secrets,
        attempts: Attempts,
        requests_per_second: float | None = None,
        images_per_second: float | None = None,
        clock: Clock | None = None,
        secure: bool = True,
    ) -> None:
        self._httpx = require("httpx", "http")
        self._tenacity = require("tenacity", "http")
        self.policy = policy.checked()
        self.attempts = attempts
        self.clock = clock or Clock()
        self._pace = Pace(self.clock, requests_per_second, images_per_second)
        self.secrets = secrets
        self._places = asyncio.Semaphore(policy.concurrency)
        self._draw = random.Random().random
        try:
            self._client = self._httpx.AsyncClient(
                headers={"Accept-Encoding": ACCEPTED, **headers},
                timeout=policy.timeout,
                limits=self._httpx.Limits(max_connections=policy.concurrency),
                follow_redirects=False,  # a key is for the server that was named
                verify=secure,  # certificates take time to load, and nobody needs them without TLS
            )
        except (ValueError, TypeError, OSError) as error:
            raise InputError(f"the connection cannot be made: {secrets.shown(str(error))}") from None
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(self._loop,), name="zoracle-http", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop, self._loop, thread, self._client)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine on the connection's loop; Ctrl-C ends the requests that it has in flight.

        Raises:
            BlackBoxError: the connection is closed.
        """
        if not self._stop.alive:
            raise BlackBoxError("the connection to the server is closed; open the target again")
        ended = threading.Event()

        async def whole() -> T:
            try:
                return await work()
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(whole(), self._loop)
        try:
            # Not one long wait: Windows would not notice Ctrl-C in it.
            while not concurrent.futures.wait([future], timeout=0.5).done:
                pass
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait(1.0)  # for its attempts to be counted
            raise

    def close(self) -> None:
        """Close connections and end the thread."""
        self._stop()

    async def send(
        self,
        method: str,
        url: str,
        read: Callable[[Answer, bool], T],
        *,
        images: int = 0,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        missing: Callable[[int], T] | None = None,
        limit: int = FEW,
    ) -> T:
        """Make a request until it is answered, or the attempts are used up.

        Args:
            method: of HTTP.
            url: where to.
            read: takes an answer, and whether it is the last attempt's; raises MalformedError or RetryError where
                another attempt is wanted.
            images: how many images the request holds; none for one about the server, which is not counted.
            content: the body.
            headers: sent with this request.
            missing: takes the status of an answer that says "no such thing", where the caller can do without it.
            limit: bytes that an answer may have; what is longer is malformed, and not read to its end.

        Raises:
            BlackBoxError: the server refused the request, or no attempt was answered.
        """
        number = self.attempts.next_request() if images else 0
        retrying = self._tenacity.AsyncRetrying(
            stop=self._tenacity.stop_after_attempt(self.policy.attempts),
            retry=self._tenacity.retry_if_exception_type(RetryError),
            wait=self._wait,
            sleep=self.clock.sleep,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    count = attempt.retry_state.attempt_number

                    async def request() -> tuple[T, int]:
                        return await self._once(method, url, content, headers, read, missing, limit, count)  # noqa: B023

                    return await self._counted(request, number, count, images)
        except RetryError as error:
            tried = f"{self.policy.attempts} attempt" + ("s" if self.policy.attempts > 1 else "")
            raise BlackBoxError(
                f"no usable answer from {url} in {tried}; the last one: {self.secrets.shown(error.text, 400)}"
            ) from None
        raise AssertionError("tenacity gave up without an error")

    def _wait(self, retry_state: Any) -> float:
        asked: float = retry_state.outcome.exception().wait
        policy = self.policy
        return max(asked, back_off(retry_state.attempt_number, policy.backoff, policy.max_backoff, self._draw))

    async def _counted(
        self, request: Callable[[], Awaitable[tuple[T, int]]], number: int, count: int, images: int
    ) -> T:
        """One attempt, in its turn, counted however it ends."""
        async with self._places:
            if images:
                await self._pace.turn(images)
            began = self.clock.now()
            kind, billed, status = "cancelled", True, None
            try:
                result, status = await request()
                kind = ANSWERED
                return result
            except RetryError as error:
                kind, billed, status = error.kind, error.billed, error.status
                if error.wait:
                    self._pace.hold(error.wait)
                raise
            except _RefusedError as error:
                kind, billed, status = "refused", False, error.status
                raise BlackBoxError(str(error)) from None
            except InputError:
                kind = "unusable"  # by what it is, not by accident: labels only, say
                raise
            finally:
                if images:
                    seconds = self.clock.now() - began
                    self.attempts.add(Attempt(number, count, images, kind, billed, seconds, status))

    async def _once(
        self,
        method: str,
        url: str,
        content: bytes | None,
        headers: dict[str, str] | None,
        read: Callable[[Answer, bool], T],
        missing: Callable[[int], T] | None,
        limit: int,
        count: int,
    ) -> tuple[T, int]:
        httpx = self._httpx
        status: int | None = None
        try:
            async with (
                asyncio.timeout(self.policy.timeout),
                self._client.stream(method, url, content=content, headers=headers) as response,
            ):
                status = response.status_code
                good = 200 <= status < 300
                body = await read_body(response, limit if good else FEW, cut=not good)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise RetryError("connection", _failure("it cannot be reached", error), billed=False) from None
        except (TimeoutError, httpx.TimeoutException):
            raise RetryError("timeout", f"no answer within {self.policy.timeout:g} s") from None
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
            raise RetryError("connection", _failure("the connection broke", error)) from None
        except MalformedError as error:
            raise RetryError("malformed", str(error), status=status) from None
        except (httpx.RequestError, httpx.InvalidURL, ValueError) as error:
            raise BlackBoxError(f"the request cannot be made: {self.secrets.shown(_failure('', error))}") from None
        if missing is not None and status in (404, 405, 501):
            return missing(status), status
        if status >= 500 or status in _LATER:
            wait = retry_after(response.headers.get("Retry-After"))
            if wait > LONGEST_WAIT:
                raise self._refused(url, status, body, f"; it asks to wait for {wait:.0f} s, continue then")
            billed = status not in _TURNED_AWAY
            text = error_text(body).strip()
            raise RetryError(
                "status", f"status {status}{f' ({text})' if text else ''}", billed=billed, status=status, wait=wait
            )
        if not good:
            raise self._refused(url, status, body, self._mend(status, response.headers))
        try:
            return read(Answer(body, response.headers), count >= self.policy.attempts), status
        except MalformedError as error:
            raise RetryError("malformed", str(error), status=status) from None

    def _mend(self, status: int, headers: Any) -> str:
        if status in (401, 403):
            return "; give a key by api_key_env=NAME of an environment variable"
        if 300 <= status < 400:
            there = self.secrets.shown(headers.get("Location", "another address"))
            return f"; it is at {there}, give that address"
        return ""

    def _refused(self, url: str, status: int, body: bytes, mend: str) -> _RefusedError:
        text = self.secrets.shown(error_text(body))
        return _RefusedError(f"{url} answered with status {status}{f' ({text})' if text else ''}{mend}", status)


class _RefusedError(Exception):
    """The server understood and said no: asking again, or soon, would not help."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def _failure(what: str, error: Exception) -> str:
    told = str(error) or type(error).__name__
    return f"{what} ({told})" if what else told


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: Any) -> None:
    """Close the connections on the loop that made them, and end the loop and its thread."""

    async def close() -> None:
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()
        loop.stop()

    if not thread.is_alive():
        return
    # Called on the loop's own thread where the last reference was dropped there: nobody can wait then.
    asyncio.run_coroutine_threadsafe(close(), loop)
    if threading.current_thread() is not thread:
        thread.join(5.0)  # a daemon: what does not end by then ends with the process
