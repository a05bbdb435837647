"""Sockets of simulated clients, and the three transports read from them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import httptools
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.faults.history import FRAME_MAX, Unread, now
from tests.reader import SMALL_BUFFER, SMALL_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Collection

HOST = "127.0.0.1"
AT_ONCE = 1 << 16


class End(NamedTuple):
    """One end of a connection as the kernel sees it: how many bytes the other end has not confirmed yet."""

    unsent: int
    is_open: bool


LOOKS = 3
CLOSED_END = End(0, is_open=False)
_ESTABLISHED, _CLOSE_WAIT = "01", "08"


def find_ends(ports: Collection[tuple[int, int]]) -> dict[tuple[int, int], End]:
    """Return ends by their (own, other) port, from /proc/net/tcp (proc(5)); an end that is not listed is closed.

    The kernel's list passes over some where others come and go meanwhile, so one that is missing is looked for again.
    """
    found: dict[tuple[int, int], End] = {}
    for _ in range(LOOKS):
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, own, other, state, queues, *_ = line.split()
            unsent = int(queues.partition(":")[0], 16)
            found[_port(own), _port(other)] = End(unsent, state in (_ESTABLISHED, _CLOSE_WAIT))
        if found.keys() >= set(ports):
            break
    return {port: found.get(port, CLOSED_END) for port in ports}


def _port(end: str) -> int:
    return int(end.partition(":")[2], 16)


class ClientSocket:
    """A connection to a node. With ``small`` buffers little fits between the node and the client."""

    def __init__(self, port: int, *, small: bool = False) -> None:
        self.port = port
        self.is_open = False
        self.is_torn = False
        """Whether a reset ended it, which discards what the other end's kernel had yet to send."""
        self._on_its_way = 0
        self._was_open = True
        self._wrote_at = now()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if small:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)

    async def open(self) -> None:
        """Connect."""
        await asyncio.get_running_loop().sock_connect(self._socket, (HOST, self.port))
        self.is_open = True

    @property
    def ends(self) -> tuple[int, int]:
        """The ports of the node's end and of this one."""
        return self.port, self._socket.getsockname()[1]

    async def read(self) -> bytes:
        """Return the next bytes; none at the end, also after a reset."""
        loop = asyncio.get_running_loop()
        while True:
            # Not sock_recv(), which forgets what it has read when it is cancelled at that moment.
            readable = asyncio.Event()
            loop.add_reader(self._socket, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(self._socket)
            try:
                return self._socket.recv(AT_ONCE)
            except BlockingIOError:
                continue
            except OSError:
                self.is_torn = True
                return b""

    async def write(self, data: bytes) -> None:
        """Write. A closed other end answers with a reset, which is noticed when reading."""
        if not data:
            return
        at, end = now(), find_ends([self.ends])[self.ends]
        try:
            await self.send(data)
        except OSError:
            self.is_torn = True  # said only once: reading goes on to the end of what is here, as if it were the end
        else:
            # The first that is written after the node's end was closed is what is answered with a reset.
            if self._was_open:
                self._wrote_at, self._on_its_way = at, end.unsent
            self._was_open = end.is_open

    async def send(self, data: bytes) -> None:
        """Write."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    def torn(self) -> Unread:
        """Return what a reset may have discarded: it arrived after the last write from here."""
        return Unread(self._on_its_way, self._wrote_at, now())

    def hang_up(self) -> None:
        """Half-close: nothing more is sent from here."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> tuple[bytes, Unread]:
        """Reset the connection. Return what had arrived, and what may have been in flight."""
        since, size = now(), find_ends([self.ends])[self.ends].unsent
        parts: list[bytes] = []
        try:
            while part := self._socket.recv(AT_ONCE):
                parts.append(part)
        except BlockingIOError:
            pass
        except OSError:
            self.is_torn = True
        self.abort()
        return b"".join(parts), self.torn() if self.is_torn else Unread(size, since, now())

    def abort(self) -> None:
        """Close with a reset, which leaves nothing behind in either kernel."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close."""
        self.is_open = False
        self._socket.close()


class Dialect(Protocol):
    """How a stream is read."""

    closed: tuple[int, str] | None
    """The code and reason of the close frame that came."""

    def request(self) -> bytes:
        """Return what opens the stream."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, and return the frames that are complete."""

    def to_send(self) -> bytes:
        """Return what is to be answered by itself."""

    @property
    def partial(self) -> int:
        """How many bytes have come of what is not complete."""


class OverWebSocket:
    """A WebSocket."""

    closed: tuple[int, str] | None = None

    def __init__(self, path: str, token: str, agent: str) -> None:
        subprotocols = [Subprotocol("tocsin.v1"), Subprotocol(f"bearer.{token}")]
        self._protocol = ClientProtocol(parse_uri(f"ws://{HOST}{path}"), subprotocols=subprotocols, max_size=None)
        self._agent = agent

    def request(self) -> bytes:
        handshake = self._protocol.connect()
        handshake.headers["User-Agent"] = self._agent
        self._protocol.send_request(handshake)
        return self.to_send()

    def feed(self, data: bytes) -> list[bytes]:
        self._protocol.receive_data(data)
        received = self._protocol.events_received()
        if self._protocol.close_rcvd is not None:
            self.closed = self._protocol.close_rcvd.code, self._protocol.close_rcvd.reason
        return [bytes(one.data) for one in received if isinstance(one, Frame) and one.opcode is Opcode.TEXT]

    def to_send(self) -> bytes:
        return b"".join(self._protocol.data_to_send())

    def say(self, frame: dict[str, Any]) -> bytes:
        """Return the bytes of a text message."""
        self._protocol.send_text(json.dumps(frame).encode())
        return self.to_send()

    def goodbye(self) -> None:
        """Close; the close frame is then to be sent."""
        self._protocol.send_close(1000)

    @property
    def partial(self) -> int:
        return len(self._protocol.reader.buffer) + FRAME_MAX


class OverEvents:
    """Server-sent events."""

    closed: tuple[int, str] | None = None

    def __init__(self, path: str, token: str, agent: str, last_id: str | None = None) -> None:
        self._head = get(path, token, agent, "text/event-stream", {"Last-Event-ID": last_id} if last_id else {})
        self._parser = httptools.HttpResponseParser(self)
        self._buffer = b""

    def on_body(self, data: bytes) -> None:
        self._buffer += data

    def request(self) -> bytes:
        return self._head

    def feed(self, data: bytes) -> list[bytes]:
        self._parser.feed_data(data)
        if self._parser.get_status_code() != 200:
            return []
        *messages, self._buffer = self._buffer.split(b"\n\n")
        found = [line[6:] for message in messages for line in message.split(b"\n") if line.startswith(b"data: ")]
        for payload in found:
            if payload.startswith(b'{"type":"close",'):
                frame = json.loads(payload)
                self.closed = frame["code"], frame["reason"]
        return found

    def to_send(self) -> bytes:
        return b""

    @property
    def partial(self) -> int:
        return len(self._buffer) + FRAME_MAX


class Answer:
    """An answer that ends."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.is_complete = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_complete = True

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._parser.feed_data(data)

    @property
    def status(self) -> int:
        """The status."""
        return int(self._parser.get_status_code())

    def json(self) -> Any:
        """Return the document."""
        return json.loads(self.body)


def get(path: str, token: str, agent: str, accept: str, more: dict[str, str]) -> bytes:
    """Return the bytes of a GET."""
    return _request("GET", path, {"Authorization": f"Bearer {token}", "User-Agent": agent, "Accept": accept, **more})


def post(path: str, token: str, document: Any, **more: str) -> bytes:
    """Return the bytes of a POST."""
    body = json.dumps(document)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **more}
    return _request("POST", path, {**headers, "Content-Length": str(len(body))}) + body.encode()


def _request(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: tocsin", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def ask(port: int, request: bytes, patience: float = 10) -> Answer | None:
    """Send a request and return the answer, or None where none came."""
    sock, answer = ClientSocket(port), Answer()
    try:
        async with asyncio.timeout(patience):
            await sock.open()
            await sock.send(request)
            while not answer.is_complete and (data := await sock.read()):
                answer.feed(data)
    except (OSError, TimeoutError):
        return None
    finally:
        sock.abort()
    return answer if answer.is_complete else None
