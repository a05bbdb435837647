"""Sources: hand-written HTTP/1.1 keep-alive clients that send prepared bytes.

They run in the process that calls. One epoll serves them all; it is waited for with ``select``, whose timeout counts
microseconds where epoll's counts milliseconds, so that an open loop sends on its schedule.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = tuple[str, int]

PATIENCE = 30.0
_SEQ = re.compile(rb'"seq":(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Source:
    """One keep-alive connection, which posts the same bytes again and again."""

    def __init__(self, address: Address, request: bytes) -> None:
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._received = b""
        self.due = 0.0

    def post(self) -> None:
        """Send the request."""
        self.socket.sendall(self._request)

    def answer(self) -> bytes | None:
        """Read, and return the body of the answer once it is complete.

        Raises:
            RuntimeError: it is no success.

        """
        data = self._received + self.socket.recv(1 << 18)
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or len(data) < end + int(_LENGTH.search(data, 0, end)[1]):  # type: ignore[index]
            if not data or data == self._received:
                raise RuntimeError("the server hung up")
            self._received = data
            return None
        self._received = b""
        if data[9:10] != b"2":
            raise RuntimeError(f"the server answered {data[:300]!r}")
        return data[end:]

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


@dataclass
class Load:
    """What sources did: ``answered`` requests in ``seconds``, of ``posted`` in all.

    ``due`` says when the POST of each event was due, in the order of their ``seq``, which begins with ``first_seq``.
    """

    begun: float = 0.0
    seconds: float = 0.0
    answered: int = 0
    posted: int = 0
    first_seq: int = 0
    due: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return self.answered / self.seconds


@contextmanager
def open_sources(address: Address, request: bytes, clients: int) -> Iterator[tuple[dict[int, Source], select.epoll]]:
    """Open so many connections, by the numbers of their sockets, and the epoll that watches them."""
    sources = {}
    with select.epoll() as epoll:
        try:
            for _ in range(clients):
                source = Source(address, request)
                sources[source.socket.fileno()] = source
                epoll.register(source.socket, select.EPOLLIN)
            yield sources, epoll
        finally:
            for source in sources.values():
                source.close()


def closed_loop(address: Address, request: bytes, clients: int, seconds: float) -> Load:
    """Let each of ``clients`` post, wait for the answer, and post again."""
    with open_sources(address, request, clients) as (sources, epoll):
        load = Load(begun=time.perf_counter(), posted=clients)
        deadline = load.begun + seconds
        for source in sources.values():
            source.post()
        waiting = clients
        while waiting:
            ready = epoll.poll(PATIENCE)
            if not ready:
                raise TimeoutError("the server does not answer")
            in_time = time.perf_counter() < deadline
            for number, _ in ready:
                source = sources[number]
                if source.answer() is None:
                    continue
                if in_time:
                    load.answered += 1
                    load.posted += 1
                    source.post()
                else:
                    waiting -= 1
        load.seconds = seconds
        return load


def open_loop(address: Address, request: bytes, clients: int, rate: float, seconds: float) -> Load:
    """Post at a fixed schedule, whatever the answers do; a POST that finds no client free is late, and counted so."""
    due_of: dict[int, float] = {}
    with open_sources(address, request, clients) as (sources, epoll):
        free = deque(sources.values())  # in turns: the server hangs up on one that idles for five seconds
        load = Load(begun=time.perf_counter() + 0.05)
        end = load.begun + seconds
        due = load.begun
        while due < end or len(free) < clients:
            now = time.perf_counter()
            if now > end + PATIENCE:
                raise TimeoutError("the posts are half a minute late")
            while due <= now and due < end and free:
                source = free.popleft()
                source.due = due
                source.post()
                load.posted += 1
                due = load.begun + load.posted / rate
            wait = due - now if free and due < end else PATIENCE
            if not select.select([epoll], [], [], max(0.0, wait))[0] and wait == PATIENCE:
                raise TimeoutError("the server does not answer")
            for number, _ in epoll.poll(0):
                source = sources[number]
                if (body := source.answer()) is not None:
                    load.answered += 1
                    due_of.update((int(seq), source.due) for seq in _SEQ.findall(body))
                    free.append(source)
        load.seconds = time.perf_counter() - load.begun
    load.first_seq = min(due_of, default=0)
    load.due = [due_of[seq] for seq in sorted(due_of)]
    if due_of and max(due_of) - load.first_seq + 1 != len(due_of):
        raise RuntimeError("the answers' seqs have a hole")
    return load
