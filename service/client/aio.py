"""``AsyncClient``: the client for asyncio. What is sent and when is decided in ``posting.py`` and ``following.py``."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from service.client import websocket_options
from service.client.errors import StreamRefused, Unreachable
from service.client.post_retry import Call, Pause, Reply, Retry, posting, posting_batch
from service.client.stream_state import StreamState
from service.client.validation import authorization, checked_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable, Sequence
    from types import TracebackType
    from typing import Unpack

    from websockets.asyncio.client import ClientConnection

    from service.client.models import AlertFields, Event, NewAlert, Severity
    from service.client.post_retry import Outcome, Posted
    from service.client.stream_state import Notice

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]
Result = TypeVar("Result")


class AsyncClient:
    """Posts alerts to one service, and follows its stream. Safe for any number of tasks of one loop.

    ``token`` is text, or a callable (plain or async) that is asked for each request and each connection. Proxies and
    certificates of the environment are used unless ``trust_env`` is false.
    """

    def __init__(self, url: str, token: Token, *, retry: Retry | None = None, trust_env: bool = True) -> None:
        self._url = checked_url(url)
        self._token = token
        self._retry = retry or Retry()
        self._trust_env = trust_env
        self._http = httpx2.AsyncClient(base_url=self._url, trust_env=trust_env)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of the posts. Streams are closed by their own blocks."""
        await self._http.aclose()

    async def post(self, title: str, **fields: Unpack[AlertFields]) -> Posted:
        """Post one alert, and return where it stands in the log: it is committed.

        Raises:
            RequestRefused: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        return await self._drive(posting(title, fields, self._retry, refreshable=callable(self._token)))

    async def post_batch(self, alerts: Iterable[NewAlert]) -> list[Posted]:
        """Post any number of alerts, and return where each stands in the log, in order.

        Raises:
            BatchRefused: some were not stored; it says which, and where the others are.
            RequestRefused, Unreachable: none was stored, all for this reason.

        """
        return await self._drive(posting_batch(alerts, self._retry, refreshable=callable(self._token)))

    def stream(
        self,
        *,
        after: int | Literal["latest"] | None = None,
        topics: Sequence[str] = (),
        min_severity: Severity | None = None,
        first_connection_seconds: float | None = None,
        on_notice: Callable[[Notice], None] | None = None,
    ) -> AsyncStream:
        """Follow the events: ``async with client.stream() as events: async for event in events: …``.

        ``after`` is a cursor of an earlier stream; without it the service goes on after what this admin acknowledged
        last. ``on_notice`` is told of connections, drops and gaps; without it they are logged. A service that was
        reached once is awaited for ever; one that never was, for ``first_connection_seconds`` (None: for ever).
        """
        follower = StreamState(after, topics, min_severity, on_notice)
        return AsyncStream(
            follower, self._url, self._bearer, trust_env=self._trust_env, patience=first_connection_seconds
        )

    async def _bearer(self) -> str:
        token = self._token if isinstance(self._token, str) else self._token()
        return await token if inspect.isawaitable(token) else token

    async def _drive(self, steps: Generator[Call | Pause, Outcome, Result]) -> Result:
        outcome: Outcome = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = await self._send(step)
                step = steps.send(outcome)
        except StopIteration as done:
            result: Result = done.value
            return result

    async def _send(self, call: Call) -> Reply | Unreachable:
        headers = {**call.headers, "Authorization": authorization(await self._bearer())}
        try:
            async with asyncio.timeout(call.seconds):
                response = await self._http.post(call.path, content=call.content, headers=headers, timeout=call.seconds)
        except (httpx2.RequestError, TimeoutError) as error:
            return Unreachable(f"{self._url} did not answer: {str(error) or type(error).__name__}")
        return Reply(response.status_code, response.headers, response.content)


class AsyncStream:
    """The events, one after the other, over as many connections as it takes.

    An event is acknowledged when the next one is asked for, or when the block ends without an exception. ``cursor`` is
    where to resume in another process: hand it to ``stream(after=…)``.
    """

    def __init__(
        self,
        follower: StreamState,
        url: str,
        bearer: Callable[[], Awaitable[str]],
        *,
        trust_env: bool,
        patience: float | None,
    ) -> None:
        self._follower = follower
        self._url = url
        self._bearer = bearer
        self._trust_env = trust_env
        self._patience = patience
        self._socket: ClientConnection | None = None
        self._refused: tuple[str, str] | None = None
        self._token = ""
        self._started = time.monotonic()

    @property
    def cursor(self) -> int | None:
        """The last event that was given out, or further; None before the first connection."""
        return self._follower.cursor

    async def __aenter__(self) -> Self:
        self._started = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._socket is None:
            return
        if kind is None:
            self._follower.taken()
        with contextlib.suppress(ConnectionClosed):
            await self._ack()
        await self._socket.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """Return the next event, whenever it comes.

        Raises:
            StreamRefused: the service closed the stream for good.
            Unreachable: it was never reached in the time for it.

        """
        self._follower.taken()
        while True:
            if self._socket is None:
                await self._connect()
                continue
            try:
                event = self._follower.receive(await self._next_message(self._socket))
            except ConnectionClosed as error:
                await self._lost(*websocket_options.close_of(error))
            except TimeoutError:
                await self._lost(None, "server_silent")
            except ValueError:
                await self._lost(None, "unreadable_frame")
            else:
                if event is not None:
                    return event

    async def _next_message(self, socket: ClientConnection) -> str:
        """Return the next message, sending the ack that comes due meanwhile."""
        silent_at = time.monotonic() + self._follower.silence_seconds
        while True:
            due = self._follower.ack_in()
            if due == 0:
                await self._ack()
                continue
            try:
                async with asyncio.timeout(min(silent_at - time.monotonic(), due or self._follower.silence_seconds)):
                    return await socket.recv(decode=True)
            except TimeoutError:
                if time.monotonic() >= silent_at:
                    raise

    async def _ack(self) -> None:
        if self._socket is not None and (ack := self._follower.ack()) is not None:
            await self._socket.send(ack)

    async def _connect(self) -> None:
        self._token = await self._bearer()
        if self._refused is not None and self._refused[0] == self._token:
            raise StreamRefused(self._refused[1], 1008)
        address = self._follower.address(self._url)
        try:
            self._socket = await connect(address, **websocket_options.options(self._token, trust_env=self._trust_env))
        except websocket_options.FAILURES as error:
            reason = websocket_options.failed(error, self._url)
            waited = time.monotonic() - self._started
            left = websocket_options.patience_left(error, self._follower, self._url, waited, self._patience)
            await self._lost(None, reason, left)
        else:
            self._follower.opened()

    async def _lost(self, code: int | None, reason: str, longest: float = math.inf) -> None:
        if self._socket is not None:
            self._socket.transport.abort()
            self._socket = None
        comeback = self._follower.lost(code, reason)
        self._refused = (self._token, reason) if comeback.fresh_token else None
        await asyncio.sleep(min(comeback.pause_seconds, longest))
