"""Server-sent events: the stream as the answer to a GET, for where WebSockets are blocked.

The messages are the frames of the WebSocket, byte for byte, each as the ``data`` of an unnamed event, so that a page
reads both the same way. Those that move the cursor have an ``id``: the seq, a dot and the connection. Sent back as
``Last-Event-ID`` it says where to go on, and acknowledges on the very connection that it came by; a number alone could
not, for the admin may have had several. An answer has no close code, so the last message is a ``close`` frame.

FastAPI's own server-sent events (``fastapi.sse``) are used for their media type only. There a generator yields into a
queue, and what it yielded is encoded for each client; the ledger has to know that the bytes went to the socket, and
what a group is sent is encoded once (``docs/decisions/0015-sse-on-the-socket.md``).
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi.sse import EventSourceResponse
from starlette.responses import Response

from service.errors import CloseReason
from service.http.server_protocol import HttpServerProtocol
from service.stream import frames
from service.stream.transports.websocket import CLOSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from service.stream.transports.websocket import Stream

MEDIA_TYPE = EventSourceResponse.media_type
HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "X-Accel-Buffering": "no",  # nginx would collect the answer first
}

_CURSOR = re.compile(rb'\{"type":"(?:event|caught_up|heartbeat)","seq":(\d+)')
_EVENT_ID = re.compile(r"(\d{1,19})(?:\.([0-9a-f-]{36}))?", re.ASCII)


def read_event_id(text: str) -> tuple[str, UUID | None] | None:
    """Return the digits of the seq and the connection of a ``Last-Event-ID``, or None where it is not one of ours."""
    match = _EVENT_ID.fullmatch(text)
    try:
        return (match[1], UUID(match[2]) if match[2] else None) if match else None
    except ValueError:
        return None


class Encoder:
    """Turns prepared frames into server-sent events, once for a whole group of connections.

    What is encoded are pieces with a gap wherever the id of the connection belongs: ``connection.join(pieces)``.
    """

    def __init__(self) -> None:
        self._data = b""
        self._pieces: list[bytes] = []

    def pieces(self, data: bytes) -> list[bytes]:
        """Return the pieces; the hub gives each connection of a group the same ``data``."""
        if data is not self._data:
            self._data, self._pieces = data, _encode(data)
        return self._pieces


def _encode(data: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    open_piece = b""
    for payload in frames.payloads(data):
        if cursor := _CURSOR.match(payload):
            pieces.append(b"%bid: %b." % (open_piece, cursor[1]))
            open_piece = b"\n"
        open_piece += b"data: %b\n\n" % payload
    return [*pieces, open_piece]


class SseTransport:
    """One answer."""

    def __init__(self, http: HttpServerProtocol, encoder: Encoder) -> None:
        self._http = http
        self._encoder = encoder
        self._connection = b""
        self._stream: Stream | None = None
        self._is_over = False
        self.over = asyncio.Event()
        """Set when no more is to come."""

    def begin(self, connection: UUID, silence_seconds: float) -> None:
        """Take the socket. A peer that confirms no bytes for ``silence_seconds`` counts as gone: there are no pings."""
        self._connection = str(connection).encode()
        self._http.attach(self, streams=True)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock = self._http.transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_seconds * 1000))

    # What the connection uses.

    def attach(self, stream: Stream) -> None:
        """Tell ``stream`` what becomes of the socket."""
        self._stream = stream
        if self._is_over:
            self.disconnected()

    def write_frames(self, data: bytes) -> bool:
        """Write prepared frames as events, and say whether the kernel took all of them."""
        return not self._is_over and self._http.write_chunk(self._connection.join(self._encoder.pieces(data)))

    def close_stream(self, code: int, reason: str) -> bool:
        """Write why, and give the client ``CLOSE_SECONDS`` to read it."""
        if self._is_over:
            return False
        self._http.write_chunk(b"".join(_encode(frames.close(code, reason))))
        self._http.abort_after(CLOSE_SECONDS)
        self._is_over = True
        self.over.set()
        return True

    # What the socket tells.

    def drained(self) -> None:
        """The socket was full and has taken everything."""
        if self._stream is not None:
            self._stream.drained()

    def disconnected(self) -> None:
        """The socket is gone."""
        self._is_over = True
        self.over.set()
        if self._stream is not None:
            self._stream.disconnected(1006, "")

    def shut_down(self) -> None:
        """The server stops."""
        self.end(CloseReason.SHUTTING_DOWN)

    def end(self, reason: CloseReason) -> None:
        """Close from our side."""
        if self.close_stream(reason.code, reason.reason) and self._stream is not None:
            self._stream.disconnected(reason.code, reason.reason)


class SseResponse(Response):
    """An answer that lasts. ``begin`` is called once it has begun, and opens the stream on it."""

    media_type = MEDIA_TYPE

    def __init__(self, begin: Callable[[SseTransport], None], encoder: Encoder) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._begin = begin
        self._encoder = encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send the head, let the connection write to the socket, and end when it is over."""
        transport = SseTransport(HttpServerProtocol.of(scope), self._encoder)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._begin(transport)
        await transport.over.wait()
        await send({"type": "http.response.body", "body": b""})
