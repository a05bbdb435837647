"""What is written to a WebSocket: frames directly, within the window, and pings and pongs.

Frames are encoded already. The write buffer's high mark is zero, so a write either reaches the
kernel at once or pauses the transport in the same call: "it went to the socket" is exact, which the
ledger relies on, and a connection never holds more than what was written last. Measured on two
cores, 250 bytes to 500 connections: ``await websocket.send_text`` to each 60,000 deliveries/s, this
144,000.

A client finds a ping, or the answer to its own, only once it has read everything before it. So no
more events are written than a window beyond what it has read (``ReadWindow``). What exceeds it is
held as references to its frames, and the stream waits as for a full socket. As the client reads,
whole frames follow, and the stream learns of each part. Pongs go ahead of what is held, as do
frames that the stream writes meanwhile, which hold no events. Whatever the window, a client gets
answers to its messages at the pace at which it sends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.http.tcp_progress import TcpProgress
from service.stream.frames import FrameBatch
from service.stream.transports.read_window import ReadWindow

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from service.stream.frames import Frame
    from service.stream.transports.interface import WindowListener

FIRST_ANSWER_SECONDS = 3
"""How long a client is waited for that has never answered a ping, before it is sent everything without."""

RETRY_SECONDS = 1
"""After this time it is asked again whether events may be sent."""

_PING = b"\x89\x04"
"""The header of a ping with four bytes (RFC 6455, section 5.2): its number tells its answer from another pong."""


class WindowedWebSocket(WebSocketsSansIOProtocol):
    """The writing side of a WebSocket.

    What a write looks up is in slots, as is what is dropped once a stream is open. What uvicorn keeps
    besides fits the thirty attributes whose names all instances share: one more, and each connection
    has a dictionary of its own, of 1.5 KiB.
    """

    __slots__ = (
        "_first_answer_timer",
        "_held",
        "_late_pong",
        "_pings",
        "_received",
        "_window",
        "close_sent",
        "conn",
        "listener",
        "loop",
        "queue",
        "request",
        "response",
        "scope",
        "transport",
        "writable",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.listener: WindowListener | None = None
        self._window = ReadWindow(self.loop.time())
        self._received = 0
        """Bytes that the client has sent."""
        self._pings = 0
        self._late_pong = b""
        self._held: Sequence[Frame] = ()
        """Frames that wait until the client has read what is before them."""
        self._first_answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with a write buffer that pauses as soon as it holds anything."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and drop what is held."""
        super().connection_lost(exc)
        self._held = ()
        if self._first_answer_timer is not None:
            self._first_answer_timer.cancel()

    @property
    def _is_over(self) -> bool:
        return self.close_sent or self.transport.is_closing()

    @property
    def _is_full(self) -> bool:
        """Whether the kernel has not taken everything."""
        return bool(self.transport.get_write_buffer_size()) or self.transport.is_closing()

    # What the stream uses.

    def write_frames(self, batch: FrameBatch) -> bool:
        """Write frames, and return whether the kernel took all of them; the client may have to read first."""
        transport, window = self.transport, self._window
        if self.close_sent or transport.is_closing():  # it may be gone before the stream begins
            return False
        data = batch.text_messages
        size = len(data)
        if size > window.room:
            if size < window.quarter:
                self._ping()  # this makes room for it
            if size > window.room and batch.frames[-1].type == "event":
                self._held = batch.frames
                self.loop.call_soon(self._go_on_writing)  # when the stream knows that it has to wait
                return False
        window.room -= size
        transport.write(data)
        return not (transport.get_write_buffer_size() or transport.is_closing())

    def taken_bytes(self) -> int:
        """Return how many bytes the client has read, and those that its side has taken from a full socket.

        What the client sends, such as acknowledgements, counts where its kernel has nothing left to take.
        """
        also = self._received if self.writable.is_set() else TcpProgress.of(self.transport).taken
        return self._window.read + also

    # What is held.

    def _go_on_writing(self) -> None:
        """Write of what is held as much as there is room for."""
        while self._held and self.writable.is_set() and not self._is_over and self.listener is not None:
            if not self.listener.may_send:
                self.loop.call_later(RETRY_SECONDS, self._go_on_writing)
                return
            if self._window.room <= 0:
                self._ping()
            if self._window.room <= 0:
                self._wait_for_first_answer()
                return
            self._write_part(self.listener)

    def _write_part(self, listener: WindowListener) -> None:
        """Write frames until there is no room, of which the last may exceed it, and tell the stream what has gone."""
        count = 0
        while self._window.room > 0 and count < len(self._held):
            self._window.room -= self._held[count].size
            count += 1
        part, self._held = self._held[:count], self._held[count:]
        self.transport.write(FrameBatch(*part).text_messages)
        if self._is_full:
            return
        if not self._held:
            listener.drained()
        elif (position := part[-1].position) is not None:
            listener.part_sent(position.seq)

    def _wait_for_first_answer(self) -> None:
        if not self._window.has_answered and self._first_answer_timer is None:
            self._first_answer_timer = self.loop.call_later(FIRST_ANSWER_SECONDS, self._go_on_without_answers)

    def _go_on_without_answers(self) -> None:
        if not self._window.has_answered:
            self._window.unbound()
            self._go_on_writing()

    def resume_writing(self) -> None:
        """Tell the stream that its socket has drained; a pong goes before what the stream writes next."""
        super().resume_writing()
        pong, self._late_pong = self._late_pong, b""
        if pong and not self.close_sent:
            self.transport.write(pong)
        if self._held:
            self._go_on_writing()
        elif self.listener is not None and self.writable.is_set():
            self.listener.drained()

    # Pings and pongs.

    def _ping(self) -> None:
        """Send a ping, unless one is in flight."""
        if self.pending_ping_payload is not None:
            return
        self._pings += 1
        self.pending_ping_payload = self._pings.to_bytes(4)
        self.ping_sent_at = self.loop.time()
        self._window.ping_sent(self.ping_sent_at)
        self.transport.write(_PING + self.pending_ping_payload)

    def handle_pong(self, event: Any) -> None:
        """Take the pong to our ping; any other counts."""
        if bytes(event.data) == self.pending_ping_payload:
            self._window.ping_answered(self.loop.time())
            super().handle_pong(event)
            self._go_on_writing()
        else:
            self._count_frame()

    def handle_ping(self) -> None:
        """Answer a ping, unless we have closed; where the socket is full, the last one once it drains.

        All pongs would pile up, and without any the client would take the service for dead.
        """
        self._count_frame()
        self._window.client_pinged(self.loop.time())
        if self.close_sent:
            self.conn.data_to_send()
        elif self.writable.is_set():
            super().handle_ping()
        else:
            self._late_pong = b"".join(self.conn.data_to_send())

    def _count_frame(self) -> None:
        if self.listener is not None and not self.close_sent:
            self.listener.count_frame()
