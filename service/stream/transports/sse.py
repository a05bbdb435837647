"""Server-sent events: the stream as the answer to a GET, for where WebSockets are blocked.

The messages are the frames of the WebSocket, byte for byte, each as the ``data`` of an unnamed
event, so that a page reads both the same way. Those that move the cursor have an ``id``: the
cursor, a dot and the connection. Sent back as ``Last-Event-ID`` it says where to go on, and
acknowledges on the connection that it came by; a cursor alone could not, because the admin may have had several
connections. An answer has no close code, so the last message is a ``close`` frame.

FastAPI's own server-sent events (``fastapi.sse``) are used for their media type only. There a
generator yields into a queue, and what it yielded is encoded for each client; the ledger has to
know that the bytes went to the socket, and what a group is sent is encoded once
(``docs/decisions/0015-sse-on-the-socket.md``).
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi.sse import EventSourceResponse
from starlette.responses import Response

from service.errors import CloseReason
from service.events.position import CURSOR_MAX, CURSOR_PATTERN
from service.http.edge import is_head
from service.http.server_protocol import HttpServerProtocol
from service.http.tcp_progress import TcpProgress
from service.stream import frames
from service.stream.frames import FrameBatch
from service.stream.transports.websocket import CLOSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from starlette.types import Receive, Scope, Send

    from service.stream.transports.interface import StreamListener

MEDIA_TYPE = EventSourceResponse.media_type
HEADERS = {
    "Connection": "close",
    "X-Accel-Buffering": "no",  # nginx would collect the answer first
}

EVENT_ID_MAX = CURSOR_MAX + 37
"""Characters of an ``id``: the cursor, a dot, and the connection."""
_EVENT_ID = re.compile(rf"({CURSOR_PATTERN})(?:\.([0-9a-f-]{{36}}))?")


def read_event_id(text: str) -> tuple[str, UUID | None] | None:
    """Return the text of the cursor, and the connection, of a ``Last-Event-ID``; None: not an id."""
    match = _EVENT_ID.fullmatch(text)
    try:
        return (match[1], UUID(match[3]) if match[3] else None) if match else None
    except ValueError:
        return None


class SseTransport:
    """One answer."""

    def __init__(self, http: HttpServerProtocol) -> None:
        self._http = http
        self._connection = b""
        self._listener: StreamListener | None = None
        self._is_over = False
        self._silence_timer: asyncio.TimerHandle | None = None
        self.over = asyncio.Event()
        """Set when nothing more will be written."""

    def begin(self, connection: UUID, silence_seconds: float) -> None:
        """Take over the socket. A peer that confirms nothing of what it is sent for ``silence_seconds`` is gone."""
        self._connection = str(connection).encode()
        self._http.attach(self, streams=True)
        self._check_silence(silence_seconds, taken_before=-1)

    def _check_silence(self, seconds: float, taken_before: int) -> None:
        """Abort if nothing of what is in flight was confirmed, for there are no pings.

        ``TCP_USER_TIMEOUT`` also counts while the peer has no room, however much it has confirmed (tcp(7)).
        The kernel of a process that reads nothing confirms until its buffer is full, and says no less
        room before (Linux 6.18): so such a client is not noticed while it is sent only heartbeats.
        """
        progress = TcpProgress.of(self._http.transport)
        if progress.in_flight and progress.taken == taken_before:
            self.end(CloseReason.HEARTBEAT_TIMEOUT)
            self._http.transport.abort()
        else:
            self._silence_timer = self._http.loop.call_later(seconds, self._check_silence, seconds, progress.taken)

    # What the connection uses.

    def attach(self, listener: StreamListener) -> None:
        """Report the fate of the socket to ``listener``."""
        self._listener = listener
        if self._is_over:
            self.disconnected()

    def write_frames(self, batch: FrameBatch) -> bool:
        """Write frames as events, and return whether the kernel took all of them."""
        return not self._is_over and self._http.write_chunk(self._connection.join(batch.event_stream))

    def taken_bytes(self) -> int:
        """Return how many bytes the client's side has confirmed."""
        return TcpProgress.of(self._http.transport).taken

    def close_stream(self, reason: CloseReason, _hint: str | None = None, /) -> bool:
        """Write a ``close`` frame, and return whether the stream was open.

        The client has ``CLOSE_SECONDS`` to read it.
        """
        if self._is_over:
            return False
        self._http.write_chunk(b"".join(FrameBatch(frames.close(reason.code, reason.reason)).event_stream))
        self._http.abort_after(CLOSE_SECONDS)
        self._finish()
        return True

    def _finish(self) -> None:
        self._is_over = True
        self.over.set()
        if self._silence_timer is not None:
            self._silence_timer.cancel()

    # What the socket reports.

    def drained(self) -> None:
        """The socket was full and has taken everything."""
        if self._listener is not None:
            self._listener.drained()

    def disconnected(self) -> None:
        """The socket is gone."""
        self._finish()
        if self._listener is not None:
            self._listener.disconnected(1006, "")

    def shut_down(self) -> None:
        """The server stops."""
        self.end(CloseReason.SHUTTING_DOWN)

    def end(self, reason: CloseReason) -> None:
        """Close from the server's side."""
        if self.close_stream(reason) and self._listener is not None:
            self._listener.disconnected(reason.code, reason.reason)


class SseResponse(Response):
    """An answer that lasts as long as its stream.

    ``reserved`` is entered first, and may refuse the request. It yields what opens the stream once
    the head is sent.
    """

    media_type = MEDIA_TYPE

    def __init__(self, reserved: AbstractAsyncContextManager[Callable[[SseTransport], None]]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._reserved = reserved

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send the head, open the stream on the socket, and end when the stream is over; of a HEAD at once."""
        if is_head(scope):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        transport = SseTransport(HttpServerProtocol.of(scope))
        async with self._reserved as open_on:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            open_on(transport)
        await transport.over.wait()
        await send({"type": "http.response.body", "body": b""})
