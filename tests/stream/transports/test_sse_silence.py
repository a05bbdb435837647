"""Whether the client of a stream of server-sent events is alive, which answers no pings, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from service.settings import Settings, StreamSettings
from service.stream.transports import http_endpoint
from tests.harness import PATIENCE, READ, serving, token

if TYPE_CHECKING:
    from tests.harness import Node

pytestmark = pytest.mark.long  # it lasts eight times as long as a silence may

ALERTS = 8
BODY = "x" * 16_000
SILENCE = StreamSettings(ping_interval_seconds=0.5, ping_timeout_seconds=0.5, slow_consumer_seconds=1)


async def test_a_client_with_a_small_buffer_that_reads_slowly_is_sent_everything(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window of its kernel is hardly ever open; what it takes is the only sign of life."""
    monkeypatch.setattr(http_endpoint, "CLOSE_SECONDS", 0)
    with serving(shared_url, Settings(stream=SILENCE)) as node:
        await node.post_all([{"body": BODY}] * ALERTS)
        data = await asyncio.to_thread(read_slowly, node)
        assert data.count(b'"kind":"alert.created"') == ALERTS


def read_slowly(node: Node) -> bytes:
    """Read a stream until it has caught up, some 16 kB a second."""
    address = urlsplit(node.base)
    data = b""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.settimeout(PATIENCE)
        client.connect((address.hostname, address.port))
        head = f"Host: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token('alice', READ)}"
        client.sendall(f"GET /v1/events?after=0 HTTP/1.1\r\n{head}\r\n\r\n".encode())
        while b'"type":"caught_up"' not in data:
            time.sleep(0.25)
            chunk = client.recv(4096)
            assert chunk, data[-200:]
            data += chunk
    return data
