from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, cast

import pytest

from service.http.tcp_progress import TcpProgress
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE = b"x" * 16_000_000
SMALL_BUFFER = 4096


@pytest.fixture
async def connected() -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """A connection to a client that reads on demand only, and has little room."""
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), "127.0.0.1", 0)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, server.sockets[0].getsockname())
    transport = cast("asyncio.Transport", (await accepted).transport)
    yield transport, client
    transport.abort()
    client.close()
    server.close()


async def test_what_was_written_is_taken_at_once_by_a_client_with_room(
    connected: tuple[asyncio.Transport, socket.socket],
) -> None:
    transport, _ = connected
    assert TcpProgress.of(transport) == TcpProgress(0, 0, waits=False, in_flight=False)
    transport.write(b"x" * 100)
    await eventually(lambda: TcpProgress.of(transport) == TcpProgress(100, 100, waits=False, in_flight=False))


async def test_a_client_that_reads_takes_more_and_one_that_does_not_takes_nothing(
    connected: tuple[asyncio.Transport, socket.socket],
) -> None:
    transport, client = connected
    transport.write(LARGE)
    full = await eventually(lambda: settled(transport))
    assert full.written == len(LARGE)
    assert 0 < full.taken < len(LARGE)
    assert full.waits
    assert not full.in_flight
    assert transport.get_write_buffer_size()
    for _ in range(20):
        await asyncio.get_running_loop().sock_recv(client, SMALL_BUFFER)
    assert (await eventually(lambda: more(transport, full.taken))).written == len(LARGE)


def settled(transport: asyncio.Transport) -> TcpProgress | None:
    progress = TcpProgress.of(transport)
    return progress if progress.taken and not progress.in_flight else None


def more(transport: asyncio.Transport, than: int) -> TcpProgress | None:
    progress = TcpProgress.of(transport)
    return progress if progress.taken > than else None


async def test_of_a_connection_that_is_closed_nothing_is_asked(
    connected: tuple[asyncio.Transport, socket.socket],
) -> None:
    transport, _ = connected
    transport.write(b"x")
    transport.close()
    assert TcpProgress.of(transport) == TcpProgress(0, 0, waits=False, in_flight=False)


async def test_where_the_kernel_does_not_count_only_our_buffer_is_seen(
    connected: tuple[asyncio.Transport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, _ = connected
    monkeypatch.delattr(socket, "TCP_INFO")
    transport.write(b"x")
    assert TcpProgress.of(transport) == TcpProgress(0, 0, waits=False, in_flight=False)
    transport.write(LARGE)
    assert TcpProgress.of(transport) == TcpProgress(0, 0, waits=True, in_flight=False)
