"""What got no answer: a wrong setting of this machine is said at once, and all else is tried again."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.server import serve
from websockets.typing import Subprotocol

from service.client import AsyncClient, Client, ClientError, Retry, Unreachable, UnreadableAnswer
from service.client.stream_state import SUBPROTOCOL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection

    from service.client import Notice

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


def no_notice(notice: Notice) -> None:
    raise AssertionError(notice)


async def stream_error(url: str) -> ClientError:
    """Return what a stream raises that has time left, and does not try again."""
    stream = AsyncClient(url, "t").stream(first_connection_seconds=3600, on_notice=no_notice)
    async with stream:
        with pytest.raises(ClientError) as raised:
            await anext(stream)
    return raised.value


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"SSH-2.0-OpenSSH_10.0\r\n",
        b"-ERR unknown command 'GET'\r\n",
        b"x" * 10_000,
    ],
)
async def test_a_handshake_that_another_server_answers_is_said_at_once(answer: bytes) -> None:
    async with server(answer, []) as address:
        error = await stream_error(f"http://{address}")
    assert type(error) is UnreadableAnswer
    assert str(error) == f"http://{address} answered the handshake, but not as a WebSocket where Tocsin says welcome"


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "501 Not Implemented"])
async def test_a_status_that_does_not_pass_is_said_at_once(status: str) -> None:
    async with server(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode(), []) as address:
        assert f"answered with HTTP status {status[:3]}" in str(await stream_error(f"http://{address}"))


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"HTTP/1.1 503 Service Unavailable\r\n\r\n"])
async def test_an_answer_that_is_cut_off_or_may_pass_is_asked_for_again(answer: bytes) -> None:
    async with server(answer, []) as address:
        _, stream, _, stream_of_threads = await outcomes(f"http://{address}")
    assert (type(stream), type(stream_of_threads)) == (Unreachable, Unreachable)


@pytest.mark.parametrize("frame", ["hello", '{"type":"hello"}', "[]", '{"type":"event","seq":1}'])
async def test_a_web_socket_of_another_server_is_said_at_once(frame: str) -> None:
    async def greet(connection: ServerConnection) -> None:
        await connection.send(frame)
        await connection.wait_closed()

    async with serve(greet, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as listening:
        error = await stream_error(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    assert "took a stream, but sent something else where Tocsin says welcome" in str(error)
