"""``AsyncClient``: the client for asyncio; the logic is in ``post_retry`` and ``stream_base``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self, TypeVar

import httpx2
from websockets.asyncio.client import connect

from service.client.errors import Unreachable
from service.client.failures import failure
from service.client.post_retry import Reply, Retry, RetryingPost
from service.client.stream_base import StreamBase, connect_options
from service.client.stream_state import StreamState
from service.client.validation import authorization, checked_url, usable_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from types import TracebackType
    from typing import Unpack

    from websockets.asyncio.client import ClientConnection

    from service.client.models import Activation, AlertEvent, AlertFields, NewAlert, Severity
    from service.client.post_retry import Call, Posted
    from service.client.stream_state import Notice

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]
T = TypeVar("T")


class AsyncClient:
    """Posts alerts to one service and follows its stream. Any tasks of one loop may share it.

    ``token`` is text, or a callable (plain or async) that is asked for each request and each
    connection. Proxies and certificates of the environment are used unless ``trust_env`` is false.
    """

    def __init__(self, url: str, token: Token, *, retry: Retry | None = None, trust_env: bool = True) -> None:
        self._url = checked_url(url)
        self._token = token
        self._retry = retry or Retry()
        self._trust_env = trust_env
        with usable_environment(trust_env=trust_env):
            self._http = httpx2.AsyncClient(base_url=self._url, trust_env=trust_env)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of the posts. Streams are closed by their own blocks."""
        await self._http.aclose()

    async def post(self, /, title: str, **fields: Unpack[AlertFields]) -> Posted:
        """Post one alert, and return where it stands in the log: it is committed.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        return await self._new_post().post(title, fields)

    async def post_batch(self, alerts: Iterable[NewAlert]) -> list[Posted]:
        """Post any number of alerts, and return where each stands in the log, in order.

        Raises:
            BatchRefused: some were not stored; it says which, and where the others are.
            ErrorResponse, Unreachable: none was stored, all for this reason.

        """
        return await self._new_post().post_batch(alerts)

    async def resolve(self, dedup_key: str, *, topic: str | None = None) -> int:
        """Resolve what this source posted with a key, and return how many alerts that were.

        Without a ``topic``, in every topic. It may be done any number of times.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        return await self._new_post().resolve(dedup_key, topic)

    async def deactivate(self, recipient: str, *, reason: str | None = None, unknown: bool = False) -> Activation:
        """Deactivate a recipient who leaves; the token needs the scope ``admin``.

        From then on no token of theirs is accepted, and nobody waits for them. ``unknown``: also a
        name that left no trace at the service.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        fields = {"reason": reason, "unknown": unknown}
        return await self._new_post().change_recipient(recipient, "deactivate", fields)

    async def reactivate(self, recipient: str, *, reason: str | None = None) -> Activation:
        """Reactivate a recipient: tokens that are issued from then on are accepted.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        return await self._new_post().change_recipient(recipient, "reactivate", {"reason": reason})

    def stream(  # noqa: PLR0913 - the options of a stream
        self,
        *,
        after: int | str | None = None,
        topics: Sequence[str] = (),
        min_severity: Severity | None = None,
        consumer: str | None = None,
        first_connection_seconds: float | None = None,
        on_notice: Callable[[Notice], None] | None = None,
    ) -> AsyncStream:
        """Follow the events: ``async with …stream() as events: async for event in events: …``.

        ``after`` is the cursor of an earlier stream, or a seq, which the service cannot check, or
        ``latest``; without it the service continues where ``consumer`` does, a name of this program's own, or
        where this filter does: after what was acknowledged there last. Two programs that use the same filter need a
        name each.
        ``on_notice`` is called with connections, drops, gaps and resets; without it they are
        logged. Once the service was reached, the stream reconnects without a limit; before, for
        ``first_connection_seconds`` (None: without a limit), unless something else answers.
        """
        state = StreamState(after, topics, min_severity, on_notice, consumer=consumer)
        return AsyncStream(state, self._url, first_connection_seconds, self._bearer, trust_env=self._trust_env)

    async def _bearer(self) -> str:
        token = self._token if isinstance(self._token, str) else self._token()
        return await token if inspect.isawaitable(token) else token

    def _new_post(self) -> RetryingPost:
        return RetryingPost(self._retry, self._send, asyncio.sleep, refreshable=callable(self._token))

    async def _send(self, call: Call) -> Reply | Unreachable:
        headers = httpx2.Headers({**call.headers, "Authorization": authorization(await self._bearer())}, "utf-8")
        try:
            async with asyncio.timeout(call.seconds):
                response = await self._http.post(call.path, content=call.content, headers=headers, timeout=call.seconds)
        except (httpx2.RequestError, TimeoutError, UnicodeError) as error:
            failed = failure(error, self._url, trust_env=self._trust_env)
            if isinstance(failed, Unreachable):
                return failed
            raise failed from None
        return Reply(response.status_code, response.headers, response.content)


class AsyncStream(StreamBase):
    """The events, one after the other, over as many connections as it takes.

    An event is acknowledged when the next one is asked for, or when the block ends without an
    exception. ``cursor`` is where another process resumes with ``stream(after=…)``.
    """

    _socket: ClientConnection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._finish(processed=kind is None)

    def __aiter__(self) -> AsyncIterator[AlertEvent]:
        return self

    async def __anext__(self) -> AlertEvent:
        """Return the next event, whenever it comes. It may be cancelled, and called again.

        Raises:
            StreamRejected: the service closed the stream for good.
            Unreachable: the first connection was not made in time.

        """
        return await self._next_event()

    async def seen(self, alerts: Iterable[str]) -> None:
        """Report alerts, by their ids, that a person saw: each was in view for a second.

        The first time is kept as ``seen_at`` in the ledger. It acknowledges nothing. Without a
        connection, they are reported on the next.

        Raises:
            ValueError: one is no id of an alert.

        """
        await self._report_seen(alerts)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _open(self, address: str, token: str) -> None:
        self._socket = await connect(address, **connect_options(token, trust_env=self._trust_env))

    async def _receive(self, seconds: float) -> str | bytes:
        async with asyncio.timeout(seconds):
            return await self._socket.recv()

    async def _send(self, text: str) -> None:
        await self._socket.send(text)

    async def _close(self, *, abruptly: bool) -> None:
        if abruptly:
            self._socket.transport.abort()
        else:
            await self._socket.close()
