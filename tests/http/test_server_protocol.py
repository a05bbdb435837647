"""What one client can make a node read, parse and hold, over raw sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Self

import pytest
import uvicorn

from service.http import server_protocol, slow_readers, sockets
from service.http.body_budget import UNCOUNTED_BYTES
from service.http.server_config import ServerConfig
from service.http.server_protocol import SLICE_BYTES, HttpServerProtocol
from service.http.sockets import FILES_RESERVED, IDLE_SOCKETS, Sockets, raise_file_limit, sockets_max
from service.http.tcp_progress import TcpProgress
from service.settings import ServerSettings, Settings
from tests.harness import PATIENCE, WRITE, eventually, serving, token
from tests.http.test_edge import KEY, WEBSOCKET, asked, chunked, exchange, head_of, port_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.types import Receive, Scope, Send

    from tests.harness import Node

MANY = 20_000
READ_BYTES = 256_000
"""What uvloop reads at once."""
BODY = b"x" * 100_000


class Protocol(HttpServerProtocol):
    """The protocol class, which notes how much it parsed in each turn of the event loop."""

    turn = 0
    completed: list[int]
    chunks: list[int]

    def on_message_complete(self) -> None:
        """Note the turn in which a request was complete."""
        super().on_message_complete()
        self.completed.append(Protocol.turn)

    def on_body(self, body: bytes) -> None:
        """Note the turn in which a chunk was."""
        super().on_body(body)
        self.chunks.append(Protocol.turn)


class Server:
    """A server in this event loop, whose application answers unless a test delays it."""

    def __init__(self) -> None:
        self.config = ServerConfig(
            self._answer, interface="asgi3", port=0, http=Protocol, log_config=None, proxy_headers=False, lifespan="off"
        )
        self.served: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._server = uvicorn.Server(self.config)
        Protocol.completed, Protocol.chunks = [], []

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server._serve())  # leaves the signals to the tests
        self._turning = asyncio.create_task(self._turn())
        await eventually(lambda: self._server.started)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.may_answer.set()
        self._turning.cancel()
        self._server.should_exit = self._server.force_exit = True
        for connection in self.connections:
            connection.transport.abort()
        await self._serving

    @property
    def connections(self) -> list[HttpServerProtocol]:
        """The open connections."""
        return list(self._server.server_state.connections)  # type: ignore[arg-type]

    @property
    def ports(self) -> set[int]:
        """The clients' ports of the open connections."""
        return {connection.client[1] for connection in self.connections if connection.client}

    async def connect(self) -> socket.socket:
        """Return a client's socket, which sends and receives what it can at once."""
        port = self._server.servers[0].sockets[0].getsockname()[1]
        opened = socket.socket()
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", port))
        return opened

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.served.append(scope["path"])
        await self.may_answer.wait()
        while scope["path"] != "/refused" and (await receive()).get("more_body"):
            pass
        body = BODY if scope["path"] == "/large" else scope["path"].encode() + b";"
        head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
        await send(head)
        await send({"type": "http.response.body", "body": body})

    async def _turn(self) -> None:
        while True:
            await asyncio.sleep(0)
            Protocol.turn += 1


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as running:
        yield running


def gets(count: int, path: str = "/{}") -> bytes:
    return b"".join(asked(path=path.format(number), close=False) for number in range(count))


async def send_all(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


async def flood(client: socket.socket, data: bytes) -> None:
    """Send until the server takes no more."""
    refused = 0
    while data and refused < 25:
        try:
            data = data[client.send(data) :]
            refused = 0
        except BlockingIOError:
            refused += 1
            await asyncio.sleep(0.01)


async def read_until(client: socket.socket, end: bytes) -> bytes:
    answer = b""
    async with asyncio.timeout(PATIENCE):
        while not answer.endswith(end):
            chunk = await asyncio.get_running_loop().sock_recv(client, 65536)
            assert chunk, answer[-200:]
            answer += chunk
    return answer


async def read_all(client: socket.socket) -> bytes:
    answer = b""
    async with asyncio.timeout(PATIENCE):
        while chunk := await asyncio.get_running_loop().sock_recv(client, 65536):
            answer += chunk
    return answer


# Pipelining.


async def test_requests_behind_one_that_is_answered_are_neither_parsed_nor_read(server: Server) -> None:
    server.may_answer.clear()
    with await server.connect() as client:
        await flood(client, gets(MANY))
        await eventually(lambda: server.served)
        [connection] = server.connections
        assert server.served == ["/0"]
        assert len(Protocol.completed) == 1
        assert not connection.pipeline
        assert connection.flow.read_paused
        assert 0 < server.config.sockets.waiting_bytes <= READ_BYTES
    server.may_answer.set()
    await eventually(lambda: not server.connections)
    assert server.config.sockets.waiting_bytes == 0


async def test_pipelined_requests_are_answered_in_order_one_a_turn(server: Server) -> None:
    with await server.connect() as client:
        await send_all(client, gets(200) + gets(1, "/last"))
        answers = await read_until(client, b"/last;")
    paths = [part.rpartition(b"\r\n")[2].decode() for part in answers.split(b";")[:-1]]
    assert paths == [f"/{number}" for number in range(200)] + ["/last"] == server.served
    assert len(set(Protocol.completed)) == len(Protocol.completed) == 201


async def test_pipelined_bodies_are_answered_in_order(server: Server) -> None:
    known = [asked("Content-Length: 8", method="POST", path="/known", close=False) + b"\r\n\r\n\r\n\r\n"]
    of_chunks = [asked("Transfer-Encoding: chunked", method="POST", path="/c", close=False) + chunked(b"x\r\n\r\ny")]
    large = asked("Content-Length: 300000", method="POST", path="/body", close=False) + b"x" * 300_000
    with await server.connect() as client:
        sending = asyncio.create_task(send_all(client, b"".join((known + of_chunks) * 10) + large + gets(1, "/last")))
        await read_until(client, b"/last;")
        await sending
    assert server.served == ["/known", "/c"] * 10 + ["/body", "/last"]


async def test_a_request_may_arrive_byte_by_byte(server: Server) -> None:
    with await server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = asked("Content-Length: 4", method="POST", path="/a", close=False) + b"\r\n\r\n" + gets(1, "/last")
        for byte in data:
            await send_all(client, bytes([byte]))
            await asyncio.sleep(0)
        await read_until(client, b"/last;")
    assert server.served == ["/a", "/last"]


async def test_a_client_that_does_not_read_its_answers_is_not_served_further(server: Server) -> None:
    server.config.request_timeout = 0.5
    with await server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await flood(client, gets(MANY, "/large"))
        await eventually(lambda: server.connections and server.connections[0].flow.write_paused)
        assert len(server.served) < 200
        assert len(Protocol.completed) == len(server.served)
        await eventually(lambda: not server.connections)  # twice the timeout


async def test_a_client_that_reads_late_is_served(server: Server) -> None:
    with await server.connect() as client:
        sending = asyncio.create_task(send_all(client, gets(200, "/large") + gets(1, "/last")))
        await eventually(lambda: server.connections and server.connections[0].flow.write_paused)
        answers = await read_until(client, b"/last;")
        await sending
    assert answers.count(BODY) == 200


async def test_a_body_of_many_chunks_is_parsed_in_many_turns(server: Server) -> None:
    body = b"1\r\nx\r\n" * MANY + b"0\r\n\r\n"
    with await server.connect() as client:
        sending = asyncio.create_task(
            send_all(client, asked("Transfer-Encoding: chunked", method="POST", path="/c", close=False) + body)
        )
        await read_until(client, b"/c;")
        await sending
    most = max(Protocol.chunks.count(turn) for turn in set(Protocol.chunks))
    assert len(Protocol.chunks) == MANY
    assert most <= 2 * SLICE_BYTES / 6


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_a_body_that_nobody_reads_is_dropped_and_the_next_request_served(server: Server, framing: str) -> None:
    body = b"x" * 1_000_000 if "Length" in framing else chunked(b"x" * 1_000_000)
    request = asked(framing, method="POST", path="/refused", close=False) + body
    server.may_answer.clear()
    with await server.connect() as client:
        sending = asyncio.create_task(send_all(client, request + gets(1, "/last")))
        await eventually(lambda: server.connections and server.connections[0].flow.read_paused)
        server.may_answer.set()
        await read_until(client, b"/last;")
        await sending


async def test_a_body_that_nobody_reads_holds_a_connection_no_longer_than_others(server: Server) -> None:
    server.config.timeout_keep_alive = 0.3  # type: ignore[assignment] # a fraction will do
    server.config.request_timeout = 0.15
    head = asked("Content-Length: 3000000", method="POST", path="/refused", close=False)
    for sent in (b"", b"x", b"x" * 2_999_999, b"x" * 3_000_000):
        with await server.connect() as client:
            await send_all(client, head)
            await read_until(client, b"/refused;")
            await send_all(client, sent)
            await eventually(lambda: not server.connections)


async def test_a_body_that_is_much_too_large_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_protocol, "DROPPED_MAX_BYTES", 2_000_000)
    head = asked("Content-Length: 40000000", method="POST", path="/refused", close=False)
    with await server.connect() as client:
        await send_all(client, head)
        await read_until(client, b"/refused;")
        with pytest.raises(OSError, match=r"reset|pipe"):
            await send_all(client, b"x" * 40_000_000)


async def test_what_waits_on_all_connections_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "WAITING_MAX_BYTES", 600_000)
    server.may_answer.clear()
    clients = [await server.connect() for _ in range(6)]
    for client in clients:
        await flood(client, gets(MANY))
    await eventually(lambda: len(server.served) == 6)
    assert server.config.sockets.waiting_bytes <= 600_000
    assert len(server.connections) < 6
    for client in clients:
        client.close()


# Clients that read slowly.


class Taken:
    """What a client has taken, as the kernel says it: ever more, until it stops."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stops_at: int) -> None:
        self.asked = 0
        self._stops_at = stops_at
        monkeypatch.setattr(slow_readers, "TcpProgress", self)

    def of(self, _transport: object) -> TcpProgress:
        self.asked += 1
        return TcpProgress(min(self.asked, self._stops_at), 1000, waits=True, in_flight=False)


async def test_a_client_that_takes_nothing_of_an_answer_is_hung_up_and_one_that_takes_anything_is_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.config.request_timeout = 0.01
    taken = Taken(monkeypatch, stops_at=20)
    with await server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await flood(client, gets(MANY, "/large"))
        await eventually(lambda: server.connections and server.connections[0].flow.write_paused)
        await eventually(lambda: not server.connections)
    assert taken.asked > 20


async def test_whoever_waits_until_an_answer_is_read_waits_as_long_as_anything_is_taken(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with await server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await flood(client, gets(MANY, "/large"))
        await eventually(lambda: server.connections and server.connections[0].flow.write_paused)
        taken = Taken(monkeypatch, stops_at=20)
        with pytest.raises(TimeoutError):
            await server.connections[0].flushed(0.001)
    assert taken.asked > 20


# Clients that end their side, and read on.


@pytest.mark.parametrize("path", ["/a", "/large"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_ends_its_side_is_answered_and_then_hung_up(server: Server, method: str, path: str) -> None:
    server.may_answer.clear()
    with await server.connect() as client:
        await send_all(client, asked("Content-Length: 4", method=method, path=path, close=False) + b"body")
        client.shutdown(socket.SHUT_WR)
        await eventually(lambda: server.served == [path] and server.connections[0]._is_half_closed)
        server.may_answer.set()
        answer = await read_all(client)
    assert answer.endswith(BODY if path == "/large" else b"/a;")
    await eventually(lambda: not server.connections)


async def test_pipelined_requests_before_the_end_are_answered(server: Server) -> None:
    with await server.connect() as client:
        await send_all(client, gets(5) + gets(1, "/last"))
        client.shutdown(socket.SHUT_WR)
        answer = await read_all(client)
    assert (answer.count(b"HTTP/1.1 200"), answer[-6:]) == (6, b"/last;")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        asked("Content-Length: 4", method="POST", path="/a", close=False) + b"bod",
        asked("Transfer-Encoding: chunked", method="POST", path="/a", close=False) + b"1\r\nx\r\n",
    ],
)
async def test_a_client_that_ends_its_side_within_a_request_is_hung_up_at_once(server: Server, sent: bytes) -> None:
    with await server.connect() as client:
        await eventually(lambda: server.connections)
        await send_all(client, sent)
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b""


async def test_a_client_that_ends_its_side_after_an_answer_is_hung_up_at_once(server: Server) -> None:
    with await server.connect() as client:
        await send_all(client, gets(1, "/a"))
        await read_until(client, b"/a;")
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b""


async def test_a_read_for_a_client_that_ended_its_side_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_readers, "HALF_CLOSED_READ_SECONDS", 0.05)
    server.may_answer.clear()
    with await server.connect() as client:
        await send_all(client, gets(1, "/a"))
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b""
    await eventually(lambda: not server.connections)


async def test_a_client_that_ends_its_side_and_does_not_read_holds_a_connection_for_a_time(server: Server) -> None:
    server.config.request_timeout = 0.2
    with await server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await send_all(client, gets(100, "/large"))
        client.shutdown(socket.SHUT_WR)
        await eventually(lambda: server.served)
        await eventually(lambda: not server.connections)


# Sockets.


async def test_the_connection_that_is_idle_for_longest_makes_room(server: Server) -> None:
    server.config.sockets = Sockets(4)
    server.may_answer.clear()
    with await server.connect() as busy, await server.connect() as longest, await server.connect() as used:
        await send_all(busy, gets(1, "/busy"))
        await eventually(lambda: server.served == ["/busy"])
        ports = [opened.getsockname()[1] for opened in (busy, longest, used)]
        silent = [await server.connect() for _ in range(2)]
        ports += [opened.getsockname()[1] for opened in silent]
        await eventually(lambda: server.ports == {*ports} - {ports[1]})
        server.may_answer.set()
        await read_until(busy, b"/busy;")  # it is the last in the order now
        with await server.connect() as newest:
            await send_all(newest, gets(1, "/newest"))
            await read_until(newest, b"/newest;")
        assert ports[2] not in server.ports
        await send_all(busy, gets(1, "/again"))
        await read_until(busy, b"/again;")
        for opened in silent:
            opened.close()


async def test_a_flood_of_silent_connections_stays_within_the_bound(server: Server) -> None:
    server.config.sockets = Sockets(20)
    flood = [await server.connect() for _ in range(200)]
    await eventually(lambda: len(server.connections) <= 20)
    with await server.connect() as client:
        await send_all(client, gets(1, "/served"))
        await read_until(client, b"/served;")
    for opened in flood:
        opened.close()


@pytest.mark.parametrize(
    ("files", "streams", "expected"),
    [
        (1024, 20_000, 1024 - FILES_RESERVED),
        (100, 20_000, 50),
        (100_000, 20_000, 20_000 + IDLE_SOCKETS),
        (-1, 20_000, 20_000 + IDLE_SOCKETS),
    ],
)
def test_fewer_sockets_are_accepted_than_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch, files: int, streams: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: (files, files))
    assert sockets_max(streams) == expected


def test_a_node_may_open_as_many_files_as_its_hard_limit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _limit, pair: limits.append(pair))
    raise_file_limit()
    assert limits == [(4096, 4096)]


# Bodies.

LARGE = 100_000


@pytest.fixture(scope="module")
def small_budget(shared_url: str) -> Iterator[Node]:
    """A node on which one subject may hold one large body and a bit."""
    server = ServerSettings(request_max_bytes=LARGE, batch_max_bytes=LARGE, bodies_max_bytes=2 * LARGE + 2)
    with serving(shared_url, Settings(server=server)) as running:
        yield running


def batch(subject: str, body: bytes, length: int | None = None, *, close: bool = True) -> bytes:
    return (
        asked(
            f"Authorization: Bearer {token(subject, WRITE)}",
            "Content-Type: application/json",
            f"Content-Length: {len(body) if length is None else length}",
            method="POST",
            path="/v1/alerts/batch",
            close=close,
        )
        + body
    )


@contextmanager
def holding(node: Node, subject: str, size: int) -> Iterator[socket.socket]:
    """Send all but the last byte of a body."""
    with closing(socket.create_connection(("127.0.0.1", port_of(node)), timeout=PATIENCE)) as opened:
        opened.sendall(batch(subject, b" " * (size - 1), size))
        yield opened


def post(node: Node, subject: str, *, close: bool = True) -> bytes:
    body = b'[{"title":"Stored"}%b]' % (b" " * UNCOUNTED_BYTES)
    return exchange(port_of(node), batch(subject, body, close=close))


async def test_a_subject_holds_its_share_of_bytes_and_the_others_are_served(small_budget: Node) -> None:
    node = small_budget
    with holding(node, "hoarder", LARGE) as first:
        await eventually(lambda: post(node, "hoarder").startswith(b"HTTP/1.1 503"))
        refused = post(node, "hoarder", close=False)  # the node hangs up, although it was not asked to
        status, headers = head_of(refused)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert b'"overloaded"' in refused
        assert post(node, "another").startswith(b"HTTP/1.1 200")
        first.sendall(b" ")
        assert first.recv(65536).startswith(b"HTTP/1.1 400")  # it is no JSON
    await eventually(lambda: post(node, "hoarder").startswith(b"HTTP/1.1 200"))


async def test_all_subjects_together_hold_as_many_bytes_as_the_setting_says(small_budget: Node) -> None:
    node = small_budget
    with holding(node, "one", LARGE), holding(node, "two", LARGE):
        await eventually(lambda: post(node, "three").startswith(b"HTTP/1.1 503"))
    await eventually(lambda: post(node, "three").startswith(b"HTTP/1.1 200"))


# What is no HTTP.

JSON = ("Content-Type: application/json", f"Authorization: Bearer {token('billing', WRITE)}")
NO_HTTP = {
    "a method that is none": b"FOO / HTTP/1.1\r\nHost: node\r\n\r\n",
    "two lengths": asked("Content-Length: 4", "Transfer-Encoding: chunked", method="POST"),
    "a huge length": asked(f"Content-Length: {'9' * 30}", method="POST"),
    "no length": asked("Content-Length: x", method="POST"),
    "NUL in a header": asked("X-Nul: a\0b"),
    "a bad chunk": asked("Transfer-Encoding: chunked", *JSON, method="POST", path="/v1/alerts/batch") + b"zz\r\n",
    "a bad target": asked(path="http://["),
    "no path": asked(method="CONNECT", path="node:1"),
    "bare line feeds": b"GET / HTTP/1.1\nHost: node\n\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a WebSocket with a bad key": asked(*WEBSOCKET, "Sec-WebSocket-Key: bad", path="/v1/ws", close=False),
    "a WebSocket of another version": asked(
        "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", KEY, path="/v1/ws", close=False
    ),
    "a WebSocket by POST": asked(*WEBSOCKET, KEY, method="POST", path="/v1/ws", close=False),
}


@pytest.mark.parametrize("case", NO_HTTP)
@pytest.mark.parametrize("before", [b"", asked(path="/healthz", close=False)], ids=["first", "second"])
def test_what_is_no_http_gets_a_problem_document(
    lenient: Node, case: str, before: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "uvicorn.error"):
        answer = exchange(port_of(lenient), before + NO_HTTP[case])
    if before:
        first, separator, answer = answer.partition(b'{"status":"ok"}')
        assert head_of(first)[0] == 200
        assert separator
    status, headers = head_of(answer)
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "malformed_request"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("path", ["/nothing", "/v1/alerts", "/console/main.js"])
def test_a_handshake_elsewhere_gets_a_problem_document(lenient: Node, path: str) -> None:
    answer = exchange(port_of(lenient), asked(*WEBSOCKET, KEY, path=path, close=False))
    status, headers = head_of(answer)
    assert (status, headers["content-type"], headers["connection"]) == (404, "application/problem+json", "close")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "not_found"


def test_another_upgrade_is_ignored_without_a_warning(lenient: Node, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = asked("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", path="/healthz", close=False)
    answers = exchange(port_of(lenient), upgrade + asked(path="/healthz"))
    assert answers.count(b"HTTP/1.1 200") == 2
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
