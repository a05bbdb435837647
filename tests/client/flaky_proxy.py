"""A TCP proxy between a client and a node that fails as a test says, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.fixtures.tcp_proxy import stop_accepting

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fault(Enum):
    """What becomes of a connection."""

    NONE = auto()
    """It works."""
    REFUSED = auto()
    """It is cut before anything arrives."""
    ANSWER_LOST = auto()
    """The node has the request, and its answer is lost."""


def answer(status: str, *headers: str) -> bytes:
    """Return what a gateway in between answers."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/html", "Content-Length: 0", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


class FlakyProxy:
    """Forwards to the node at ``target``. ``faults`` are those of the next connections; later ones work.

    ``connected_at`` has the time of each connection, on the monotonic clock.
    """

    def __init__(self, target: str) -> None:
        self.faults: list[Fault | bytes] = []
        self.connected_at: list[float] = []
        self._target = urlsplit(target)
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="flaky-proxy")

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self.connected_at)

    @property
    def base(self) -> str:
        """The address that a client is given."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Cut every connection that is open."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    async def _cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _stop(self) -> None:
        assert self._server is not None
        await stop_accepting(self._server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._cut()

    @contextmanager
    def running(self) -> Iterator[FlakyProxy]:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), self._loop).result()
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected_at.append(time.monotonic())
        fault = self.faults.pop(0) if self.faults else Fault.NONE
        try:
            with suppress(OSError):
                if isinstance(fault, bytes):
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(fault)
                    await writer.drain()
                    await asyncio.sleep(0.05)  # its body may still be on the way: a reset would overtake the answer
                elif fault is not Fault.REFUSED:
                    await self._pass_on(reader, writer, answers=fault is Fault.NONE)
        finally:
            self._writers.discard(writer)
            if isinstance(fault, bytes):
                writer.close()
            else:
                writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        from_node, to_node = await asyncio.open_connection(self._target.hostname, self._target.port)
        up = asyncio.create_task(_copy(reader, to_node))
        try:
            if answers:
                await _copy(from_node, writer)
            else:
                await from_node.readuntil(b"\r\n\r\n")
        finally:
            up.cancel()
            to_node.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
