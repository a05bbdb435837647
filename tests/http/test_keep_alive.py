from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import FastAPI

from service.cli.serve import server_config
from service.settings import ServerSettings, Settings
from tests.harness import PATIENCE, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Node, Process

USUAL_PAUSE_SECONDS = 60
"""After which nginx and the load balancers of the large providers close a connection to a server."""


@contextmanager
def kept(node: Node) -> Iterator[socket.socket]:
    """Open a connection that has made a request, and is kept for another."""
    address = urlsplit(node.base)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while not data.endswith(b"}"):
            data += connection.recv(4096)
        assert data.startswith(b"HTTP/1.1 200 ")
        yield connection


def test_a_connection_is_kept_for_longer_than_clients_and_proxies_keep_it() -> None:
    assert server_config(Settings(), FastAPI()).timeout_keep_alive > USUAL_PAUSE_SECONDS


def test_a_connection_is_kept_for_as_long_as_the_setting_says(database_url: str) -> None:
    settings = Settings(server=ServerSettings(keep_alive_seconds=0.2))
    with serving(database_url, settings) as node, kept(node) as connection:
        assert connection.recv(1) == b""


async def test_a_node_that_stops_waits_for_no_connection_that_is_kept(start: Callable[..., Process]) -> None:
    node = start()
    with ExitStack() as stack:
        connections = [stack.enter_context(kept(node)) for _ in range(20)]
        assert await asyncio.to_thread(node.stop) == 0
        assert [connection.recv(1) for connection in connections] == [b""] * 20
