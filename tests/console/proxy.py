"""A proxy between a browser and a node, such as stands in many an office: it knows no WebSockets."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

_UPGRADE = re.compile(rb"^upgrade: *websocket\r$", re.IGNORECASE | re.MULTILINE)
_CONNECTION = re.compile(rb"^connection:.*\r\n", re.IGNORECASE | re.MULTILINE)
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Listens at ``base``. One that ``holds_streams_back`` passes on the head of a stream and no more."""

    def __init__(self, target: str) -> None:
        self.blocks_websockets = True
        self.holds_streams_back = False
        self._target = urlsplit(target)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.base = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request."""
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                is_upgrade = _UPGRADE.search(head) is not None
                if is_upgrade and self.blocks_websockets:
                    writer.write(REFUSAL)
                    await writer.drain()
                    return
                if not is_upgrade:
                    head = _CONNECTION.sub(b"", head).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
                await self._pass_on(head, reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_node, to_node = await asyncio.open_connection(self._target.hostname, self._target.port)
        to_node.write(head)
        upstream = asyncio.create_task(_copy(reader, to_node))
        try:
            answer = await from_node.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if self.holds_streams_back and b"text/event-stream" in answer:
                gone = asyncio.create_task(upstream_ends(upstream))
                rest = asyncio.create_task(from_node.read())
                await asyncio.wait({gone, rest}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                rest.cancel()
            else:
                await _copy(from_node, writer)
        finally:
            upstream.cancel()
            to_node.transport.abort()


async def upstream_ends(upstream: asyncio.Task[None]) -> None:
    """Wait until the browser sends no more."""
    await asyncio.wait({upstream})


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
