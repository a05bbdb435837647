"""The two sides between a connection and the transport that carries it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from service.errors import CloseReason
    from service.stream.frames import FrameBatch


class StreamTransport(Protocol):
    """What a connection asks of a WebSocket, an SSE answer or a client's long polls."""

    def attach(self, listener: WindowListener) -> None:
        """Report messages, and the fate of the socket, to ``listener`` from here on."""

    def write_frames(self, batch: FrameBatch) -> bool:
        """Write frames, and return whether the kernel took all of them, so that more can follow.

        What it did not take may wait here until the client has read more.
        """

    def taken_bytes(self) -> int:
        """Return how many bytes the client's side has taken in all, 0 where nobody counts them.

        A client that is at work makes it change.
        """

    def close_stream(self, reason: CloseReason, hint: str | None = None, /) -> bool:
        """Send the client the reason, and return whether there was anything to close.

        A ``hint`` for people says what was wrong with a message; only a WebSocket has messages.
        """


class StreamListener(Protocol):
    """What a transport reports of an open stream."""

    def receive(self, text: str | None) -> None:
        """Take a message; None stands for a binary one."""

    def count_frame(self) -> None:
        """Count a frame of a WebSocket that is not a message: a ping, a pong that answers none, a fragment."""

    def drained(self) -> None:
        """The socket was full and has taken everything."""

    def disconnected(self, code: int, reason: str) -> None:
        """The stream is over (RFC 6455, section 7.1.5). Of several calls the first is right."""


class WindowListener(StreamListener, Protocol):
    """What a transport asks and reports, besides, that holds what the client has yet to make room for."""

    @property
    def may_send(self) -> bool:
        """Whether events may be written now."""

    def part_sent(self, seq: int) -> None:
        """The socket has taken events up to ``seq``, and not yet all that was written."""
