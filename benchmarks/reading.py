"""The reading side of the reader process: one epoll that holds every connection and counts event frames.

It does as little as it can for a chunk: one ``recv_into``, one ``count`` of how event frames begin, one search for a
ping. A chunk that does not end with a whole frame leaves its last bytes before the next one; they are one fewer than
the beginning has, so one that two chunks share is found, and none is found twice. A frame has arrived when its
beginning has; of the up to a hundred that come in a chunk, one has its end in the next. A few connections keep all that
they receive, to be parsed in the end.

Each connection sends something four times a second while it reads, as clients do that acknowledge: an ack where these
are measured, and a pong that nobody asked for elsewhere, to every server alike. After what a client has sent, Linux
delays its ACKs, and a write to it takes more of the sender's time: up to twice as much. A server whose clients are
silent would seem faster than one that hears of them.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import wire
from benchmarks.load import PATIENCE, Address

if TYPE_CHECKING:
    from collections.abc import Callable

CARRY = len(wire.EVENT) - 1
CHUNK = 1 << 20
PING = b"\x89\x04"
"""uvicorn's ping: four bytes of payload. The byte 0x89 is in no text here, for those are ASCII."""
PING_BYTES = 6
SEND_SECONDS = 0.25
KEPT = 3
CLOSING_BRACE = ord("}")
"""How every frame ends; what is searched for does not hold it."""
RESET_ON_CLOSE = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""``SO_LINGER`` on, with no time: 5,000 connections that close leave none in TIME_WAIT."""


class Client:
    """One connection."""

    __slots__ = ("carry", "count", "group", "is_open", "kept", "next_send", "socket")

    def __init__(self, group: Group, request: bytes, next_send: float) -> None:
        self.group = group
        self.carry = b""
        self.count = 0
        self.is_open = False
        self.kept: list[bytes] | None = [] if len(group.clients) < KEPT else None
        self.next_send = next_send
        self.socket = socket.create_connection(group.address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.socket.sendall(request)
        self.socket.setblocking(False)


@dataclass
class Group:
    """The connections to one server, and what has arrived on them.

    While ``recording``, the chunk at ``times[i]`` brought the frames ``firsts[i]`` to ``firsts[i] + counts[i] - 1`` of
    its connection.
    """

    address: Address
    requests: list[bytes]
    ready: bytes
    clients: list[Client] = field(default_factory=list)
    begun: float = 0.0
    opened: int = 0
    total: int = 0
    last: float = 0.0
    acks: bool = False
    recording: bool = False
    times: array[float] = field(default_factory=lambda: array("d"))
    firsts: array[int] = field(default_factory=lambda: array("L"))
    counts: array[int] = field(default_factory=lambda: array("L"))

    def begin(self, *, record: bool, acks: bool) -> None:
        """Count from zero."""
        self.total, self.recording, self.acks = 0, record, acks
        self.times, self.firsts, self.counts = array("d"), array("L"), array("L")
        for client in self.clients:
            client.count = 0


class Reading:
    """All connections. The subclass is called with what happens: ``on_open``, ``on_frames`` and ``on_lost``."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self._clients: dict[int, Client] = {}
        self._buffer = bytearray(CARRY + CHUNK)
        self._view = memoryview(self._buffer)[CARRY:]

    def on_open(self, group: Group, now: float) -> None:
        """One more connection of the group is open."""
        raise NotImplementedError

    def on_frames(self, group: Group) -> None:
        """Event frames have arrived."""
        raise NotImplementedError

    def on_lost(self, client: Client) -> None:
        """The server hung up."""
        raise NotImplementedError

    def watch(self, connection: socket.socket, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever the socket is readable."""
        self.handlers[connection.fileno()] = handler
        self.epoll.register(connection, select.EPOLLIN)

    def forget(self, connection: socket.socket) -> None:
        """Stop watching, and close."""
        number = connection.fileno()
        if self.handlers.pop(number, None) or self._clients.pop(number, None):
            self.epoll.unregister(number)
        connection.close()

    def connect(self, group: Group) -> None:
        """Open the next connection of a group."""
        number = len(group.clients)
        next_send = time.perf_counter() + SEND_SECONDS * number / len(group.requests)
        client = Client(group, group.requests[number], next_send)
        group.clients.append(client)
        self._clients[client.socket.fileno()] = client
        self.epoll.register(client.socket, select.EPOLLIN)

    def turn(self, seconds: float) -> None:
        """Wait so long, at most, and read what there is."""
        for number, _ in self.epoll.poll(seconds):
            if (client := self._clients.get(number)) is not None:
                self._read(client)
            elif (handler := self.handlers.get(number)) is not None:
                handler()

    def _read(self, client: Client) -> None:  # noqa: C901 - a call for each step would cost more than the step
        try:
            size = client.socket.recv_into(self._view)
        except BlockingIOError:
            return  # a turn within this turn has read it
        except ConnectionError:
            size = 0
        now = time.perf_counter()
        if not size:
            self.forget(client.socket)
            self.on_lost(client)
            return
        buffer, group = self._buffer, client.group
        start, end = CARRY, CARRY + size
        if client.carry:
            start -= len(client.carry)
            buffer[start:CARRY] = client.carry
        if client.kept is not None:
            client.kept.append(bytes(self._view[:size]))
        if found := buffer.count(wire.EVENT, start, end):
            if group.recording:
                group.times.append(now)
                group.firsts.append(client.count)
                group.counts.append(found)
            client.count += found
            group.total += found
            group.last = now
        if buffer.find(b"\x89", start, end) >= 0:
            self._answer_ping(client, start, end)
        if now >= client.next_send:
            self._send(client, now, start, end)
        client.carry = b"" if buffer[end - 1] == CLOSING_BRACE else bytes(buffer[max(start, end - CARRY) : end])
        if not client.is_open and buffer.find(group.ready, start, end) >= 0:
            client.is_open = True
            group.opened += 1
            self.on_open(group, now)
        if found:
            self.on_frames(group)

    def _answer_ping(self, client: Client, start: int, end: int) -> None:
        """Answer the last ping, if it ends in this chunk; one that ends in the carried bytes was answered before."""
        at = self._buffer.rfind(PING, start, end)
        if at >= 0 and CARRY < at + PING_BYTES <= end:
            client.socket.send(wire.pong(bytes(self._buffer[at + len(PING) : at + PING_BYTES])))

    def _send(self, client: Client, now: float, start: int, end: int) -> None:
        """Send a pong, or acknowledge the last event whose ``seq`` is in the chunk."""
        if not client.group.acks:
            client.next_send = now + SEND_SECONDS
            client.socket.send(wire.pong(b""))
            return
        at = self._buffer.rfind(wire.EVENT, start, end)
        comma = self._buffer.find(b",", at + len(wire.EVENT), end)
        if at >= 0 and comma > 0:
            client.next_send = now + SEND_SECONDS
            client.socket.send(wire.ack(int(self._buffer[at + len(wire.EVENT) : comma])))
