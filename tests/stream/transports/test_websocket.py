from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from service.settings import Settings, StreamSettings
from service.stream.transports import websocket
from tests.harness import PATIENCE, Node, Process, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from service.stream.frames import FrameBatch

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
)


class RawClient:
    """A client that sends the given bytes and answers nothing by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def upgrade(self, subject: str, after: int | str = "latest") -> None:
        """Open a stream, and read the answer up to the first frame."""
        header = f"Authorization: Bearer {token(subject)}\r\n"
        await self.send(UPGRADE.format(path=f"/v1/ws?after={after}", more=header).encode())
        assert (await self.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")

    async def rest(self) -> bytes:
        """Return what the server sends until it hangs up."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(-1)

    async def rest_of_the_kernel(self) -> bytes | None:
        """Return what the kernel still has of a server that hung up; None if it has given up first.

        It keeps what nobody reads for about fifty seconds (tcp_orphan_retries), then resets.
        """
        with suppress(ConnectionResetError):
            return await self.rest()
        return None

    async def close_frame(self) -> Close:
        """Return the first close frame that the server sends."""
        data = b""
        async with asyncio.timeout(PATIENCE):
            while not any(frame.opcode is Opcode.CLOSE for frame in parse(data)):
                more = await self.reader.read(65536)
                assert more, "it hung up without a close frame"
                data += more
        return next(Close.parse(frame.data) for frame in parse(data) if frame.opcode is Opcode.CLOSE)

    async def frames(self) -> list[Frame]:
        """Return the frames that the server sends until it hangs up."""
        return parse(await self.rest())


def parse(data: bytes) -> list[Frame]:
    client = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN, max_size=None)
    client.receive_data(data)
    assert client.parser_exc is None
    return [event for event in client.events_received() if isinstance(event, Frame)]


@asynccontextmanager
async def raw(node: Node, receive_buffer: int | None = None) -> AsyncIterator[RawClient]:
    address = urlsplit(node.base)
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


def masked(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=True)


async def closed_row(node: Node, subject: str) -> tuple[int, str]:
    query = "SELECT close_code, close_reason FROM connections WHERE recipient = $1 AND closed_at IS NOT NULL"
    [row] = await eventually(lambda: node.sql(query, subject))
    return row["close_code"], row["close_reason"]


# Messages that no client should send.

TEXT, BINARY, CONT, PING, CLOSE = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.CLOSE
TOO_BIG = b"x" * (16 * 1024 + 1)

BROKEN: dict[str, tuple[bytes, int, str | None]] = {
    "binary": (masked(BINARY, b"{}"), 1003, "binary_message"),
    "binary in fragments": (masked(BINARY, b"{", fin=False) + masked(CONT, b"}"), 1003, "binary_message"),
    "text that is no UTF-8": (masked(TEXT, b'{"type":"\xff"}'), 1007, "invalid_utf8"),
    "a character cut off": (masked(TEXT, b"\xc3"), 1007, "invalid_utf8"),
    "a surrogate": (masked(TEXT, b"\xed\xa0\x80"), 1007, "invalid_utf8"),
    "fragments that are no UTF-8": (masked(TEXT, b"\xc3", fin=False) + masked(CONT, b"\x28"), 1007, "invalid_utf8"),
    "a reason that is no UTF-8": (masked(CLOSE, b"\x03\xe8\xff"), 1007, None),
    "too big": (masked(TEXT, TOO_BIG), 1009, "message_too_big"),
    "too big in fragments": (
        masked(TEXT, TOO_BIG[:9000], fin=False) + masked(CONT, TOO_BIG[:9000]),
        1009,
        "message_too_big",
    ),
    "announced as too big": (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"mask", 1009, "message_too_big"),
    "not masked": (Frame(TEXT, b"{}").serialize(mask=False), 1002, None),
    "compressed": (b"\xc1\x80mask", 1002, None),
    "an unknown opcode": (b"\x83\x80mask", 1002, None),
    "a ping in fragments": (b"\x09\x80mask", 1002, None),
    "a ping that is too long": (b"\x89\xfe\x00\x7emask" + b"x" * 126, 1002, None),
    "a continuation of nothing": (masked(CONT, b"{}"), 1002, None),
    "a message inside another": (masked(TEXT, b"{", fin=False) + masked(TEXT, b"}"), 1002, None),
    "a close code that is reserved": (masked(CLOSE, b"\x03\xed"), 1002, None),
    "a close code of one byte": (masked(CLOSE, b"\x03"), 1002, None),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_message_that_breaks_the_rules_closes_the_stream_with_its_code(
    shared: Node, subject: str, case: str
) -> None:
    data, code, reason = BROKEN[case]
    async with raw(shared) as client:
        await client.upgrade(subject)
        await client.send(data)
        close = await client.close_frame()
    assert (close.code, reason) == (code, close.reason if reason else None)
    row = await closed_row(shared, subject)
    assert (row[0], reason) == (code, row[1] if reason else None)


async def test_a_message_of_the_largest_size_and_one_in_fragments_are_taken(shared: Node, subject: str) -> None:
    whole = b'{"type":"ping","data":"' + b"x" * (16 * 1024 - 25) + b'"}'
    parts = (
        masked(TEXT, b'{"type":"ping","data":"\xc3', fin=False)
        + masked(PING, b"between")
        + masked(CONT, b"\xa9", fin=False)
        + masked(CONT, b'"}')
    )
    async with raw(shared) as client:
        await client.upgrade(subject)
        await client.send(masked(TEXT, whole) + parts)
        data = await client.reader.readuntil(b'{"type":"pong","data":"\xc3\xa9"}')
        await client.send(masked(CLOSE, b"\x03\xe8"))
        assert await client.frames() == [Frame(CLOSE, b"\x03\xe8")]
    messages = [bytes(frame.data) for frame in parse(data) if frame.opcode is TEXT]
    assert [len(message) for message in messages if message.startswith(b'{"type":"pong"')] == [len(whole), 27]
    assert Frame(Opcode.PONG, b"between") in parse(data)
    assert await closed_row(shared, subject) == (1000, "client")


@pytest.mark.parametrize("message", [b"\xff", b'{"type":"ping"}'])
async def test_a_client_that_closes_in_the_same_breath_is_answered(shared: Node, subject: str, message: bytes) -> None:
    async with raw(shared) as client:
        await client.upgrade(subject)
        await client.reader.readuntil(b'{"type":"caught_up","seq":')
        await client.send(masked(TEXT, message) + masked(CLOSE, b"\x0f\xa1bye"))
        assert (await client.rest()).endswith(bytes(Frame(CLOSE, b"\x0f\xa1bye").serialize(mask=False)))
    assert await closed_row(shared, subject) == (4001, "bye")


async def test_an_ack_just_before_the_close_counts(shared: Node, subject: str) -> None:
    async with raw(shared) as client:
        await client.upgrade(subject, after=0)
        seq = (await shared.post())["seq"]
        await client.reader.readuntil(b'{"type":"event","seq":%d,' % seq)
        await client.send(masked(TEXT, b'{"type":"ack","seq":%d}' % seq) + masked(CLOSE, b"\x03\xe8"))
        await client.rest()
    await eventually(lambda: shared.sql("SELECT FROM resume_points WHERE recipient = $1 AND seq = $2", subject, seq))


async def test_nothing_follows_the_answer_of_a_refused_handshake_but_the_close(shared: Node) -> None:
    async with raw(shared) as client:
        await client.send(UPGRADE.format(path="/v1/ws", more="").encode())
        await client.reader.readuntil(b"\r\n\r\n")
        await client.send(masked(TEXT, b'{"type":"ping"}') + masked(CLOSE, b"\x03\xf0"))
        assert await client.rest() == b"\x88\x0f\x03\xf0token_missing"


# Handshakes that never become one.

HUNG_UP = {
    "a line of more than 8 KiB": UPGRADE.format(path="/v1/ws?x=" + "x" * 8192, more=""),
    "a header of more than 8 KiB": UPGRADE.format(path="/v1/ws", more=f"X-Long: {'x' * 8192}\r\n"),
    "more than 128 headers": UPGRADE.format(path="/v1/ws", more="".join(f"X-{n}: 1\r\n" for n in range(129))),
    "no key": UPGRADE.format(path="/v1/ws", more="").replace("Sec-WebSocket-Key", "X-Key"),
    "a key that is no base64": UPGRADE.format(path="/v1/ws", more="").replace("dGhlIHNhbXBsZSBub25jZQ==", "?"),
    "an old version": UPGRADE.format(path="/v1/ws", more="").replace("Version: 13", "Version: 8"),
    "another method": UPGRADE.format(path="/v1/ws", more="").replace("GET", "POST", 1),
    "another path": UPGRADE.format(path="/v1/wss", more=""),
    "a path of REST": UPGRADE.format(path="/v1/alerts", more=""),
    "a file of the console": UPGRADE.format(path="/console/main.js", more=""),
    "a path that is no ASCII": UPGRADE.format(path="/v1/ws?x=é", more=""),
    "no HTTP": "\x16\x03\x01\x02\x00\r\n\r\n",
}


@pytest.mark.parametrize("case", HUNG_UP)
async def test_what_is_no_handshake_gets_an_http_answer_and_is_hung_up_on(shared: Node, case: str) -> None:
    async with raw(shared) as client:
        await client.send(HUNG_UP[case].encode())
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"connection: close\r\n" in answer.lower()


@pytest.mark.parametrize("case", list(HUNG_UP)[:3])
async def test_a_handshake_that_is_too_large_is_answered_so(shared: Node, case: str) -> None:
    async with raw(shared) as client:
        await client.send(HUNG_UP[case].encode())
        assert (await client.rest()).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


async def test_a_handshake_just_within_the_limits_is_taken(shared: Node) -> None:
    path = "/v1/ws?x=" + "x" * (8192 - len("GET /v1/ws?x= HTTP/1.1\r\n"))
    more = "".join(f"X-{n}: 1\r\n" for n in range(128 - 5))
    async with raw(shared) as client:
        await client.send(UPGRADE.format(path=path, more=more).encode())
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 101 ")


# Liveness, and the end of a node.


@pytest.fixture(scope="module")
def impatient(shared_url: str) -> Iterator[Node]:
    with serving(
        shared_url, Settings(stream=StreamSettings(ping_interval_seconds=0.1, ping_timeout_seconds=1))
    ) as running:
        yield running


async def test_a_client_that_answers_no_ping_is_closed(impatient: Node, subject: str) -> None:
    async with raw(impatient) as client:
        await client.upgrade(subject)
        frames = await client.frames()
    assert PING in [frame.opcode for frame in frames]
    assert Close.parse(frames[-1].data) == Close(1011, "heartbeat_timeout")
    assert await closed_row(impatient, subject) == (1011, "heartbeat_timeout")


async def test_a_client_that_answers_with_another_payload_has_not_answered(impatient: Node, subject: str) -> None:
    async with raw(impatient) as client:
        await client.upgrade(subject)
        await client.send(masked(Opcode.PONG, b"guess"))
        assert Close.parse((await client.frames())[-1].data) == Close(1011, "heartbeat_timeout")


async def test_a_client_that_answers_pings_stays(impatient: Node, subject: str) -> None:
    async with await impatient.live(subject) as stream, raw(impatient) as silent:
        await silent.upgrade(subject)
        await silent.frames()
        await impatient.post()
        await stream.next_of("event")


async def test_a_node_that_is_stopped_closes_its_streams_and_says_why(
    start: Callable[..., Process], subject: str
) -> None:
    process = start()
    async with await process.live(subject) as stream, await process.live("busy") as busy:
        alert = await process.post()
        await stream.next_of("event")
        await stream.ack(alert["seq"])
        await stream.send({"type": "ping"})
        await stream.next_of("pong")  # so the node has read the ack
        assert await asyncio.to_thread(process.stop) == 0
        assert await stream.closed() == (1012, "shutting_down")
        assert await busy.closed() == (1012, "shutting_down")
    assert await closed_row(process, subject) == (1012, "shutting_down")
    [row] = await process.sql(
        "SELECT c.sent_seq, p.seq FROM connections c JOIN resume_points p USING (recipient) WHERE recipient = $1",
        subject,
    )
    assert tuple(row) == (alert["seq"], alert["seq"])
    assert await process.sql("SELECT FROM nodes WHERE ended_at IS NULL") == []
    assert "Traceback" not in process.log.read_text()


# Clients that do not read.

LEAVE: dict[str, list[bytes]] = {
    "close": [masked(CLOSE, b"\x03\xe8")],
    "break the rules": [Frame(TEXT, b"{}").serialize(mask=False)],
    "send no more": [],
    "are closed, and answer": [masked(TEXT, b"junk"), masked(CLOSE, b"\x03\xf0")],
}


def is_released(client: RawClient) -> bool:
    """Say whether no process holds the server's end of a connection any longer."""
    own, server = client.writer.get_extra_info("sockname")[1], client.writer.get_extra_info("peername")[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *_, inode = line.split()[:10]
        if (int(local.split(":")[1], 16), int(remote.split(":")[1], 16)) == (server, own):
            return inode == "0"
    return True


async def is_lagging(node: Node, subject: str) -> bool:
    query = "SELECT FROM connections WHERE recipient = $1 AND sent_seq < 160 AND closed_at IS NULL"
    return bool(await node.sql(query, subject))


async def leave(node: Node, subject: str, client: RawClient, messages: list[bytes]) -> None:
    """Leave without having read, and read only then what the kernel still has."""
    await eventually(partial(is_lagging, node, subject))
    assert not is_released(client)
    for message in messages:
        await client.send(message)
        await closed_row(node, subject)
    if not messages:
        client.writer.write_eof()
    await eventually(partial(is_released, client))
    await closed_row(node, subject)
    [row] = await node.sql("SELECT after_seq, sent_seq FROM connections WHERE recipient = $1", subject)
    if (rest := await client.rest_of_the_kernel()) is None:
        return
    messages = [bytes(frame.data) for frame in parse(rest) if frame.opcode is TEXT]
    seqs = [json.loads(message)["seq"] for message in messages if message.startswith(b'{"type":"event",')]
    assert seqs == list(range(1, len(seqs) + 1))
    assert row["after_seq"] < row["sent_seq"] <= seqs[-1] < 160


async def test_a_client_that_does_not_read_holds_no_socket_for_ever_and_the_ledger_claims_no_more_than_it_took(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_SECONDS", 0.5)
    async with AsyncExitStack() as stack:
        for when in ("before", "after"):
            clients = [await stack.enter_async_context(raw(node, receive_buffer=4096)) for _ in LEAVE]
            for name, client in zip(LEAVE, clients, strict=True):
                await client.upgrade(f"{name} {when}", after=0)
            if when == "before":
                await node.post_all([{"body": "x" * 16_000, "attributes": {"y": "y" * 8_000}}] * 220)
            await asyncio.gather(
                *(
                    leave(node, f"{name} {when}", client, LEAVE[name])
                    for name, client in zip(LEAVE, clients, strict=True)
                )
            )


async def test_an_event_is_not_sent_to_a_connection_that_was_reset_a_moment_before(
    node: Node, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = websocket.WebSocketTransport.write_frames

    def write_after_reset(self: websocket.WebSocketTransport, batch: FrameBatch) -> bool:
        if batch.frames[0].type == "event":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        return write(self, batch)

    monkeypatch.setattr(websocket.WebSocketTransport, "write_frames", write_after_reset)
    address = urlsplit(node.base)
    with socket.create_connection((address.hostname, address.port), PATIENCE) as client:
        header = f"Authorization: Bearer {token(subject)}\r\n"
        client.sendall(UPGRADE.format(path="/v1/ws?after=latest", more=header).encode())
        while b'"type":"caught_up"' not in client.recv(65536):
            pass
        alert = await node.post()
    assert await closed_row(node, subject) == (1006, "connection_lost")
    [row] = await node.sql("SELECT sent_seq FROM connections WHERE recipient = $1", subject)
    assert row["sent_seq"] == alert["seq"] - 1


async def test_a_client_that_is_gone_before_its_stream_begins_is_not_kept(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, lose = threading.Event(), websocket.WebSocketTransport.connection_lost

    def connection_lost(self: websocket.WebSocketTransport, exc: Exception | None) -> None:
        lose(self, exc)
        gone.set()

    monkeypatch.setattr(websocket.WebSocketTransport, "connection_lost", connection_lost)
    holder = await asyncpg.connect(node.database_url)
    async with holder.transaction():
        await holder.execute("LOCK TABLE recipients IN EXCLUSIVE MODE")  # where the handshake asks for the cursor
        stream = await node.stream("alice")
        stream.connection.transport.abort()
        assert await asyncio.to_thread(gone.wait, PATIENCE)
    await holder.close()
    assert await closed_row(node, "alice") == (1006, "connection_lost")
