"""What got no answer: a wrong setting of this machine is said at once, and all else is tried again."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.server import serve
from websockets.typing import Subprotocol

from service.client import AsyncClient, Client, ClientError, Retry, Unreachable
from service.client.stream_state import SUBPROTOCOL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection

SOON = Retry(total_seconds=0.01)


@asynccontextmanager
async def server(answer: bytes, asked: list[bytes]) -> AsyncIterator[str]:
    """Answer everything with ``answer``, and yield the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(65536))
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def outcomes(url: str) -> list[ClientError]:
    """Return what a post and a stream raise, of both clients."""
    errors = []
    async with AsyncClient(url, "t", retry=SOON) as client:
        with pytest.raises(ClientError) as raised:
            await client.post("x")
        errors.append(raised.value)
        async with client.stream(first_connection_seconds=0) as stream:
            with pytest.raises(ClientError) as raised:
                await anext(stream)
        errors.append(raised.value)
    errors += await asyncio.to_thread(outcomes_of_threads, url)
    return errors


def outcomes_of_threads(url: str) -> list[ClientError]:
    errors = []
    with Client(url, "t", retry=SOON) as client:
        with pytest.raises(ClientError) as raised:
            client.post("x")
        errors.append(raised.value)
        with client.stream(first_connection_seconds=0) as stream, pytest.raises(ClientError) as raised:
            next(stream)
        errors.append(raised.value)
    return errors


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know no names, and have no proxies."""
    look_up = socket.getaddrinfo

    def known(host: str | bytes | None, *rest: object, **options: object) -> object:
        if host in {"127.0.0.1", b"127.0.0.1"}:
            return look_up(host, *rest, **options)  # type: ignore[arg-type] # passed on
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", known)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "proxy", ["hunter2", "http://hunter2:80", "http://a..hunter2", "http://hunter2@" + "a" * 70, "http://hunter2:70000"]
)
@pytest.mark.parametrize(("variable", "scheme"), [("HTTP_PROXY", "http"), ("HTTPS_PROXY", "https")])
async def test_a_proxy_that_is_none_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str, proxy: str
) -> None:
    monkeypatch.setenv(variable.lower(), proxy)
    try:
        found = await outcomes(f"{scheme}://127.0.0.1:9")
    except ClientError as of_constructor:
        found = [of_constructor]
    for error in found:
        assert type(error) is ClientError
        assert "the proxy of the environment cannot be used: correct HTTP_PROXY" in str(error)
        assert "hunter2" not in str(error)


async def test_a_service_whose_name_is_not_known_may_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://nonsense")
    monkeypatch.setenv("no_proxy", "tocsin.example")
    assert {type(error) for error in await outcomes("http://tocsin.example")} == {Unreachable}


async def test_a_proxy_that_refuses_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    async with server(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", asked) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        for error in await outcomes("https://tocsin.example"):
            assert type(error) is ClientError
            assert "refused to connect, with HTTP status 407: correct HTTPS_PROXY" in str(error)
    assert len(asked) == 4


async def test_a_proxy_that_cannot_connect_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", []) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        assert {type(error) for error in await outcomes("https://tocsin.example")} == {Unreachable}


async def test_tls_for_a_server_without_it_is_said_at_once() -> None:
    asked: list[bytes] = []
    async with server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", asked) as address:
        for error in await outcomes(f"https://{address}"):
            assert "does not answer with TLS: it may have to begin with http://" in str(error)
    assert len(asked) == 4


async def test_a_web_socket_of_another_server_is_given_up_with_the_first_connection() -> None:
    async def echo(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()

    async with serve(echo, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with AsyncClient(url, "t") as client, client.stream(first_connection_seconds=0) as stream:
            with pytest.raises(ClientError, match="took a stream, but sent something else"):
                await anext(stream)
