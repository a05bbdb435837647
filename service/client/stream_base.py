"""Following a stream over as many connections as it takes: what both streams share, without I/O.

The logic is written once, as coroutines. ``AsyncStream`` awaits them; ``Stream`` runs them with I/O
that blocks, so that they never suspend (``sync.run``). ``StreamState`` says what the frames mean.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)
from websockets.typing import Subprotocol

from service.client.errors import ClientError, StreamRejected, Unreachable, UnreadableAnswer
from service.client.failures import failure
from service.client.post_retry import TRANSIENT
from service.client.stream_state import MESSAGE_MAX_BYTES, SUBPROTOCOL
from service.client.validation import UNUSABLE_PROXY, authorization

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from service.client.models import AlertEvent
    from service.client.stream_state import StreamState

OPEN_SECONDS = 10
CLOSE_SECONDS = 2
CONNECT_FAILURES = (OSError, InvalidHandshake, InvalidURI)
"""What connecting raises; a time-out is an ``OSError``."""
_PASSING = (TRANSIENT | set(range(500, 600))) - {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED}
"""The statuses of a handshake after which another may succeed."""


class StreamBase(ABC):
    """A stream to the service at ``url``; ``bearer`` returns the token for the next connection.

    ``first_connection_seconds`` bounds the attempts until the service is reached for the first
    time; None: no limit.
    """

    def __init__(
        self,
        state: StreamState,
        url: str,
        first_connection_seconds: float | None,
        bearer: Callable[[], Awaitable[str]],
        *,
        trust_env: bool,
    ) -> None:
        self._state = state
        self._url = url
        self._give_up_at = math.inf if first_connection_seconds is None else time.monotonic() + first_connection_seconds
        self._bearer = bearer
        self._trust_env = trust_env
        self._connected = False
        self._token = ""
        self._refused: tuple[str, str] | None = None
        """The token that the service refused last, and why."""

    @property
    def cursor(self) -> str | None:
        """Where the last event that was returned is, or further; None before the first connection."""
        return self._state.cursor

    @abstractmethod
    async def _sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    async def _open(self, address: str, token: str) -> None:
        """Open a connection; raises ``CONNECT_FAILURES``."""

    @abstractmethod
    async def _receive(self, seconds: float) -> str | bytes:
        """Return the next message; raises ``TimeoutError`` and ``ConnectionClosed``."""

    @abstractmethod
    async def _send(self, text: str) -> None:
        """Send a message; raises ``ConnectionClosed``."""

    @abstractmethod
    async def _close(self, *, abruptly: bool) -> None:
        """Close the connection; ``abruptly`` because it seems to be dead."""

    async def _next_event(self) -> AlertEvent:
        """Note that the last event was processed, and wait for the next.

        Raises:
            StreamRejected: the service closed the stream for good.
            Unreachable: the first connection was not made in time.
            UnreadableAnswer: what answered the first connection is not the service.

        """
        self._state.processed()
        while True:
            if not self._connected:
                await self._connect()
                continue
            try:
                event = self._state.receive(await self._next_message())
            except ConnectionClosed as error:
                frame = error.rcvd or error.sent
                await (self._reconnect(frame.code, frame.reason) if frame else self._reconnect(None, ""))
            except TimeoutError:
                if not self._state.connected_once and time.monotonic() >= self._give_up_at:
                    raise _not_tocsin(self._url, "took a stream, but was silent") from None
                await self._reconnect(None, "server_silent")
            except ValueError:
                if not self._state.connected_once:
                    raise _not_tocsin(self._url, "took a stream, but sent something else") from None
                await self._reconnect(None, "unreadable_frame")
            else:
                if event is not None:
                    return event

    async def _finish(self, *, processed: bool) -> None:
        """Send the last ack and close; ``processed``: the last event is acknowledged too."""
        if not self._connected:
            return
        if processed:
            self._state.processed()
        try:
            await self._ack()
            await self._send_seen()
        except ConnectionClosed:
            return
        await self._close(abruptly=False)

    async def _next_message(self) -> str | bytes:
        """Return the next message, and send acks that become due meanwhile."""
        await self._send_seen()
        silent_at = time.monotonic() + self._state.silence_seconds
        while True:
            due = self._state.ack_in()
            if due == 0:
                await self._ack()
                continue
            left = max(0.0, silent_at - time.monotonic())
            try:
                return await self._receive(min(left, due or left))
            except TimeoutError:
                if time.monotonic() >= silent_at:
                    raise

    async def _ack(self) -> None:
        if (ack := self._state.ack()) is not None:
            await self._send(ack)

    async def _report_seen(self, alerts: Iterable[str]) -> None:
        """Report alerts that a person saw, on this connection or the next."""
        self._state.saw(alerts)
        if self._connected:
            with suppress(ConnectionClosed):
                await self._send_seen()

    async def _send_seen(self) -> None:
        while alerts := self._state.take_seen():
            await self._send(json.dumps({"type": "seen", "alerts": alerts}))

    async def _connect(self) -> None:
        self._token = await self._bearer()
        if self._refused is not None and self._refused[0] == self._token:
            raise StreamRejected(self._refused[1], 1008)
        try:
            await self._open(self._state.address(self._url), self._token)
        except (InvalidProxy, ValueError):
            raise ClientError(UNUSABLE_PROXY) from None
        except CONNECT_FAILURES as error:
            reason = self._reason(error)
            left = math.inf if self._state.connected_once else self._give_up_at - time.monotonic()
            if left <= 0:
                raise Unreachable(f"{self._url} cannot be reached: {str(error) or type(error).__name__}") from None
            await self._reconnect(None, reason, left)
        else:
            self._connected = True
            self._state.opened()

    def _reason(self, error: Exception) -> str:
        """Return why an attempt to connect failed, if another may succeed.

        Raises:
            ClientError: none will.

        """
        if isinstance(error, InvalidURI):
            raise ClientError(f"{self._url} is no address of a stream") from error
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if status not in _PASSING:
                raise StreamRejected(f"{self._url} answered with HTTP status {status}") from error
            return f"http_{status}"
        if not self._state.connected_once and _is_other_protocol(error):  # later it may be a proxy's answer
            raise _not_tocsin(self._url, "answered the handshake, but not as a WebSocket") from error
        failed = failure(error, self._url, trust_env=self._trust_env, protocol="ws")
        if not isinstance(failed, Unreachable):
            raise failed from error
        return "unreachable"

    async def _reconnect(self, code: int | None, reason: str, pause_max: float = math.inf) -> None:
        """Abandon the connection, and pause before the next."""
        if self._connected:
            self._connected = False
            await self._close(abruptly=True)
        reconnect = self._state.lost(code, reason)
        self._refused = (self._token, reason) if reconnect.fresh_token else None
        await self._sleep(min(reconnect.pause_seconds, pause_max))


def connect_options(token: str, *, trust_env: bool) -> dict[str, Any]:
    """Return the options of a connection, for both clients of ``websockets``."""
    return {
        "subprotocols": [Subprotocol(SUBPROTOCOL)],
        "additional_headers": {"Authorization": authorization(token)},
        "compression": None,
        "open_timeout": OPEN_SECONDS,
        "close_timeout": CLOSE_SECONDS,
        # The service pings, and its heartbeats show that it is alive. Pings of ours would time out, and end a healthy
        # connection, while a slow loop body leaves messages unread.
        "ping_interval": None,
        "max_size": MESSAGE_MAX_BYTES,
        "proxy": True if trust_env else None,
    }


def _is_other_protocol(error: Exception) -> bool:
    """Return whether a handshake got an answer that no service gives: other HTTP than 1.1, or no HTTP at all."""
    is_cut_off = isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError)
    return isinstance(error, InvalidHandshake) and not isinstance(error, ProxyError) and not is_cut_off


def _not_tocsin(url: str, did: str) -> UnreadableAnswer:
    return UnreadableAnswer(f"{url} {did} where Tocsin says welcome")
