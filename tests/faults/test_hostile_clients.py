"""Clients that mean harm: none may stop the node, nor make it hold more than its bounds."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.stream.transports.websocket import FRAGMENTS_MAX
from tests.harness import BODY, PATIENCE, READ, Node, Process, eventually, start_process, token
from tests.reader import SMALL_BUFFER, SMALL_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
REQUESTS = 20
PING, TEXT, CONTINUATION, CLOSE = 9, 1, 0, 8


def resident(process: Process) -> int:
    """Return the resident memory of a node in bytes."""
    pages = int(Path(f"/proc/{process.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def dial(node: Node, *, small: bool = False) -> socket.socket:
    """Connect. With ``small`` buffers little fits between the node and the client."""
    client = socket.socket()
    if small:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
    client.settimeout(PATIENCE)
    host, port = node.base.removeprefix("http://").split(":")
    client.connect((host, int(port)))
    return client


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a masked frame, with a mask of zeros (RFC 6455, section 5.2)."""
    size = struct.pack("!B", 0x80 | len(payload)) if len(payload) < 126 else struct.pack("!BH", 0xFE, len(payload))
    return bytes([(0x80 if fin else 0) | opcode]) + size + bytes(4) + payload


@pytest.fixture(scope="module")
def process(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One node, which outlives all that is done to it here."""
    folder = tmp_path_factory.mktemp("node")
    node = start_process(shared_url, folder, TOCSIN_REQUEST_TIMEOUT_SECONDS="1", TOCSIN_READ_LIMIT="10000/second")
    yield node
    node.end()


@pytest.fixture
def mallory() -> str:
    """Return the name of a client of the test's own."""
    return f"mallory {uuid.uuid4()}"


@pytest.fixture
def stream(process: Process, mallory: str) -> Iterator[socket.socket]:
    """A stream opened by hand, which reads no further than the answer to its handshake."""
    opened = dial(process)
    opened.sendall(
        b"GET /v1/ws?after=latest HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Authorization: Bearer %b\r\n\r\n" % token(mallory, READ).encode()
    )
    assert opened.recv(12) == b"HTTP/1.1 101"
    with opened:
        yield opened


def pour(into: socket.socket, data: bytes, at_most: int) -> int:
    """Send ``data`` over and over until the other side hangs up, takes no more for a second, or has ``at_most``."""
    sent = 0
    into.settimeout(1)
    with contextlib.suppress(OSError):
        while sent < at_most:
            sent += into.send(data)
    return sent


async def closed(node: Process, name: str) -> tuple[int, str]:
    """Return how the stream of a client was closed, once the ledger has it."""
    query = "SELECT close_code, close_reason FROM connections WHERE recipient = $1 AND closed_at IS NOT NULL"
    rows = await eventually(lambda: node.sql(query, name))
    return rows[0]["close_code"], rows[0]["close_reason"]


async def serves(node: Process) -> None:
    """Say that the node still stores and delivers."""
    async with await node.live("alice") as stream:
        posted = await node.post()
        assert (await stream.next_of("event"))["seq"] == posted["seq"]


@pytest.mark.parametrize("reason", [b"a\0b", b"line\nbreak \xe2\x80\xae", b""])
async def test_whatever_reason_a_client_closes_with_the_ledger_is_written(
    process: Process, stream: socket.socket, mallory: str, reason: bytes
) -> None:
    stream.sendall(frame(CLOSE, struct.pack("!H", 1000) + reason))
    code, text = await closed(process, mallory)
    assert code == 1000
    assert text.isprintable()
    await serves(process)


async def test_trailers_without_end_are_cut_off(process: Process) -> None:
    before = resident(process)
    with dial(process) as request:
        request.sendall(b"POST /v1/alerts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        sent = pour(request, b"a: b\r\n" * 10_000, at_most=100 * MIB)
    assert sent < 20 * MIB
    assert resident(process) - before < 20 * MIB
    await serves(process)


async def test_pings_of_a_client_that_does_not_read_cost_no_memory(process: Process, stream: socket.socket) -> None:
    before = resident(process)
    pour(stream, frame(PING, b"p" * 125) * 1000, at_most=30 * MIB)
    assert resident(process) - before < 20 * MIB
    await serves(process)


async def test_a_message_of_too_many_fragments_closes_the_stream(
    process: Process, stream: socket.socket, mallory: str
) -> None:
    stream.sendall(frame(TEXT, b"{", fin=False) + frame(CONTINUATION, fin=False) * (FRAGMENTS_MAX + 1))
    assert await closed(process, mallory) == (1009, "message_too_big")


async def test_an_answer_that_nobody_reads_is_dropped(process: Process) -> None:
    for _ in range(20):
        await process.post(body="x" * 16_000)
    request = b"GET /v1/alerts?limit=200 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(dial(process, small=True)) for _ in range(REQUESTS)]
        for client in clients:
            client.sendall(request % token("mallory", READ).encode())
        await eventually(lambda: len(established(process)) >= REQUESTS)
        await eventually(lambda: not established(process))
        assert all(received(client) < 20 * 16_000 for client in clients)
    await serves(process)


def received(client: socket.socket) -> int:
    """Read to the end, and return how much came."""
    size = 0
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            size += len(data)
    return size


def established(process: Process) -> list[str]:
    """Return the sockets of a node that have a client."""
    port = int(process.base.rpartition(":")[2])
    rows = [line.split() for line in Path(f"/proc/{process.process.pid}/net/tcp").read_text().splitlines()[1:]]
    return [row[2] for row in rows if int(row[1].split(":")[1], 16) == port and row[3] == "01"]


@pytest.mark.long
@pytest.mark.unlinked
async def test_a_sparse_replay_of_a_long_log_gets_on(start: Callable[..., Process]) -> None:
    process = start()
    await process.sql(
        """
        INSERT INTO events (seq, id, alert_id, kind, topic, severity, actor, occurred_at, body)
        SELECT n, n, gen_random_uuid(), 'alert.created', CASE WHEN n % 100000 = 0 THEN 'rare' ELSE 'common' END, 'info',
               'billing', now(), CASE WHEN n % 100000 = 0 THEN $1::json ELSE '{}' END
        FROM generate_series(1, 400000) AS n
        """,
        json.dumps(BODY),
    )
    await process.sql("INSERT INTO log_chain VALUES (400000, 1, 400000, now(), '')")
    await process.post(topic="rare")  # it wakes the fan-out, whose position moves past what was put in by hand
    async with await process.stream("alice", after=0, topic="rare") as stream:
        begun = time.monotonic()
        seqs = [event["seq"] for event in await stream.events(5, patience=60)]
    assert seqs == [100_000, 200_000, 300_000, 400_000, 400_001]
    assert time.monotonic() - begun < 60
