"""What the other end of a TCP connection has taken, as the kernel knows it.

A process sees its own buffer only. What the kernel has accepted may wait there, for a client that
reads slowly, as may what has arrived in the client's own kernel. ``TCP_INFO`` (Linux 4.19, tcp(7))
counts the bytes that were written and those that the other end's kernel has confirmed. That of a
client which reads confirms more; that of one which does not, confirms no more than fits in its
buffer.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio

_BYTES_ACKED = struct.Struct("@120xQ")
_NOT_SENT = struct.Struct("@144xI")
_SENT_AND_RETRANSMITTED = struct.Struct("@200xQQ")
_SIZE = _SENT_AND_RETRANSMITTED.size


class TcpProgress(NamedTuple):
    """Bytes of a connection since it was opened; all zero where the system does not count them."""

    taken: int
    """Confirmed by the other end's kernel."""
    written: int
    """Written by this process, whether they have left its buffer or not."""
    waits: bool
    """Whether any of it is not confirmed yet."""
    in_flight: bool
    """Whether any of that was sent to the other end, which had room for it."""

    @classmethod
    def of(cls, transport: asyncio.Transport) -> TcpProgress:
        """Ask the kernel."""
        buffered = transport.get_write_buffer_size()
        info = b""
        if hasattr(socket, "TCP_INFO") and not transport.is_closing():
            sock = transport.get_extra_info("socket")
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        if len(info) < _SIZE:
            return cls(0, 0, waits=buffered > 0, in_flight=False)
        [taken], [not_sent] = _BYTES_ACKED.unpack_from(info), _NOT_SENT.unpack_from(info)
        sent, again = _SENT_AND_RETRANSMITTED.unpack_from(info)
        unsent = not_sent + buffered
        in_flight = sent - again > taken
        return cls(taken, sent - again + unsent, waits=in_flight or unsent > 0, in_flight=in_flight)
