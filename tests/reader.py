"""A client of the stream that reads from its socket only on demand."""

from __future__ import annotations

import json
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.contract import checked_frame
from tests.harness import PATIENCE, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Node

SMALL_BUFFER = 4096
SMALL_SEGMENT = 536
PONG = b"\x8a"
"""How a pong begins (RFC 6455, section 5.2)."""


class Reader:
    """A stream over a blocking socket. With ``small`` buffers little fits between the node and the client.

    Without ``answers`` it leaves pings unanswered, against the RFC.
    """

    def __init__(self, node: Node, subject: str, *, small: bool = False, answers: bool = True, **query: Any) -> None:
        self.subject = subject
        self._answers = answers
        self.frames: list[dict[str, Any]] = []
        self.bytes_read = 0
        self.ended = False
        self._socket = socket.socket()
        if small:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
        address = urlsplit(node.base)
        self._socket.connect((address.hostname, address.port))
        self._socket.settimeout(0.05)
        bearer = Subprotocol(f"bearer.{token(subject)}")
        self._protocol = ClientProtocol(
            parse_uri(f"{node.ws}?{urlencode(query)}"), subprotocols=[Subprotocol("tocsin.v1"), bearer], max_size=None
        )
        self._protocol.send_request(self._protocol.connect())
        self._send()
        self.read_until(lambda: bool(self.frames) or self.ended)

    @property
    def id(self) -> str:
        """The connection's id in the ledger."""
        return str(self.frames[0]["connection"])

    @property
    def after(self) -> int:
        """The cursor that the stream started from."""
        return int(self.frames[0]["after"])

    @property
    def seqs(self) -> list[int]:
        """The events that were read, in the order in which they came."""
        return [frame["seq"] for frame in self.frames if frame["type"] == "event"]

    @property
    def cursor(self) -> int:
        """From where the client would resume."""
        return self.seqs[-1] if self.seqs else self.after

    @property
    def close(self) -> tuple[int | None, str | None]:
        """The code and the reason of the close frame, if one was read."""
        return self._protocol.close_code, self._protocol.close_reason

    def read_until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Read until ``condition`` is true."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"it did not come: {self.frames[-3:]}"
            self._read()

    def read_to_end(self) -> None:
        """Read until the connection ends."""
        self.read_until(lambda: self.ended)
        self._socket.close()

    def ack(self, seq: int) -> None:
        """Acknowledge everything up to ``seq``."""
        self._protocol.send_text(json.dumps({"type": "ack", "seq": seq}).encode())
        self._send()

    def say_goodbye(self) -> None:
        """Close with a close frame, and read to the end."""
        self._protocol.send_close(1000)
        self._send()
        self.read_to_end()

    def hang_up(self) -> None:
        """Send no more, and read to the end."""
        self._socket.shutdown(socket.SHUT_WR)
        self.read_to_end()

    def vanish(self) -> None:
        """End at once and unread, as a process that is killed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def bytes_taken_by_the_kernel(self) -> int:
        """Return how many bytes the node has handed to its socket: read, not yet read, and not yet delivered."""
        mine, theirs = self._socket.getsockname()[1], self._socket.getpeername()[1]
        count = self.bytes_read
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            ports = tuple(int(end.partition(":")[2], 16) for end in fields[1:3])
            unsent, unread = (int(queue, 16) for queue in fields[4].split(":"))
            if ports == (mine, theirs):
                count += unread
            elif ports == (theirs, mine):
                count += unsent
        return count

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            self.bytes_read += len(data)
            self._protocol.receive_data(data)
        else:
            self.ended = True
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.frames.append(checked_frame(json.loads(bytes(event.data))))
        if not self.ended:
            self._send()

    def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data[:1] == PONG and not self._answers:
                continue
            if data:
                with suppress(BrokenPipeError, ConnectionResetError):  # the client, or the node, has hung up
                    self._socket.sendall(data)
            elif self._protocol.state is State.CLOSED:
                self._socket.shutdown(socket.SHUT_WR)
