"""The addresses that ``tocsin serve`` listens on, of both protocols on one port."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx2
import pytest

from service.cli.serve import _addresses, _listeners
from service.errors import CommandFailed
from service.settings import ServerSettings
from tests.harness import PLAIN, READ, token
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process

LOOPBACKS = ("127.0.0.1", "[::1]")


def require_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        missing("the machine has no IPv6")


def port_free_in_both_protocols() -> int:
    while True:
        with socket.create_server(("::", 0), family=socket.AF_INET6) as found:
            port: int = found.getsockname()[1]
            with suppress(OSError), socket.create_server(("0.0.0.0", port)):
                return port


@pytest.mark.unit
@pytest.mark.parametrize(
    ("hosts", "listens"),
    [
        ("::", ["::", "0.0.0.0"]),
        ("0.0.0.0, ::", ["0.0.0.0", "::"]),
        ("[::1],127.0.0.1,::1", ["::1", "127.0.0.1"]),
    ],
)
def test_each_address_is_listened_on_once_and_two_colons_are_both_protocols(hosts: str, listens: list[str]) -> None:
    assert _addresses(ServerSettings(host=hosts, port=7)) == [(host, 7) for host in listens]


@pytest.mark.parametrize(("hosts", "workers"), [("::", ()), ("127.0.0.1, [::1]", ("--workers", "2"))])
def test_both_protocols_are_served_on_one_port(
    start: Callable[..., Process], hosts: str, workers: tuple[str, ...]
) -> None:
    require_ipv6()
    port = port_free_in_both_protocols()
    node = start(port, workers, TOCSIN_HOST=hosts)
    headers = {"Authorization": f"Bearer {token('alice', READ)}"}
    for _ in range(4):
        for loopback in LOOPBACKS:
            answer = httpx2.get(f"http://{loopback}:{port}/v1/alerts", headers=headers, **PLAIN)
            assert answer.status_code == 200
    records = [line for line in node.log.read_text().splitlines() if "/v1/alerts" in line]
    assert records
    assert not any("::ffff:" in line for line in records)


def test_an_address_that_is_taken_is_named() -> None:
    require_ipv6()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(CommandFailed, match=rf"cannot listen on \[::1\]:{port} \("),
            _listeners(ServerSettings(host="127.0.0.1,::1", port=port)),
        ):
            pass
