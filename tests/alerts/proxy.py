"""A proxy between a node and PostgreSQL that cuts a connection at a chosen moment."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Cut(Enum):
    """When the connection that carries the marked message is cut."""

    LOST = auto()
    """The message never reaches PostgreSQL."""
    SENT = auto()
    """PostgreSQL has the message, and does not learn that the node's end is closed."""
    ANSWERED = auto()
    """PostgreSQL has answered, and the answer is lost."""
    BY_HAND = auto()
    """PostgreSQL has the message; ``cut_now`` says when the node's end goes."""
    HELD = auto()
    """The node's end is cut; PostgreSQL gets the message when ``deliver`` says so, as behind a pooler that is busy."""


class Proxy:
    """Listens on a Unix socket in ``folder``, as PostgreSQL would, and passes on to ``target``.

    The first connection that sends the marker is cut, or, where there is more than one, the first
    that sends them one after the other, in messages of their own. While ``is_open`` is false,
    nobody can connect. While ``ends_pass`` is not set, the node does not learn that PostgreSQL hung
    up.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.is_open = True
        self.ends_pass = asyncio.Event()
        self.ends_pass.set()
        self._target = target
        self._markers: list[bytes] = []
        self._cut = Cut.LOST
        self._marked: asyncio.StreamWriter | None = None
        self._delivered = asyncio.Event()
        self._held_answer = asyncio.Event()
        self._held_bytes = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._connected, self.folder / ".s.PGSQL.5432")

    async def stop(self) -> None:
        """Hang up on everybody."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_at(self, *markers: str, cut: Cut) -> None:
        """Cut the connection that sends ``markers``, once, at the last of them."""
        self._markers, self._cut, self._marked = [marker.encode() for marker in markers], cut, None

    @property
    def has_cut(self) -> bool:
        """Whether the markers were met."""
        return self._marked is not None and not self._markers

    def cut_now(self) -> None:
        """Cut the node's end of the marked connection."""
        assert self._marked is not None
        self._marked.transport.abort()

    async def deliver(self) -> bytes:
        """Send the message that was held to PostgreSQL, and return its answer."""
        self._delivered.set()
        await self._held_answer.wait()
        return self._held_bytes

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._to_server(reader, server_writer, writer))
                group.create_task(self._to_node(server_reader, writer))
        finally:
            writer.transport.abort()
            server_writer.transport.abort()

    async def _to_server(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, node: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._markers and self._markers[0] in data and self._marked in (None, node):
                    self._marked = node
                    if len(self._markers) > 1:
                        del self._markers[0]
                        server.write(data)
                        continue
                    self._markers = []
                    if self._cut is Cut.LOST:
                        node.transport.abort()
                        break
                    if self._cut is Cut.HELD:
                        node.transport.abort()
                        await self._delivered.wait()
                    server.write(data)
                    if self._cut in (Cut.SENT, Cut.HELD):
                        node.transport.abort()
                        return  # the server's end stays
                else:
                    server.write(data)
        if self._marked is not node or self._markers or self._cut is Cut.LOST:
            server.close()

    async def _to_node(self, server: asyncio.StreamReader, node: asyncio.StreamWriter) -> None:
        while data := await server.read(1 << 16):
            is_cut = self._marked is node and self.has_cut
            if is_cut and self._cut is Cut.HELD:
                self._held_bytes += data
                self._held_answer.set()
            elif is_cut and self._cut is Cut.ANSWERED:
                node.transport.abort()
            else:
                node.write(data)
        await self.ends_pass.wait()
        node.close()


@asynccontextmanager
async def proxy_to(database_url: str) -> AsyncIterator[Proxy]:
    """Listen in front of the server of a database."""
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(Path(folder), Path(str(make_url(database_url).query["host"]), ".s.PGSQL.5432"))
        await proxy.start()
        yield proxy
        await proxy.stop()
