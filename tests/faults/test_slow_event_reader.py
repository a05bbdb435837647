from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from tests.faults.load import UNLIMITED, Backend
from tests.faults.test_slow_reader import MB, highest_memory
from tests.harness import PATIENCE, eventually, token
from tests.reader import SMALL_BUFFER, SMALL_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Node, Process

READERS = 10
ALERTS = 400
POLLED_ALERTS = 40
"""They fill the answer to a poll."""
BODY = "x" * 16_000
MAY_GROW = 20 * MB
"""Far below what was published for the readers: 400 times 16 kB for each of 10."""


class Reader:
    """A request whose answer is read only on demand, over a socket with small buffers."""

    def __init__(self, node: Node, subject: str, query: str, accept: str) -> None:
        self.subject = subject
        self.data = b""
        address = urlsplit(node.base)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
        self._socket.connect((address.hostname, address.port))
        self._socket.settimeout(PATIENCE)
        head = (
            f"GET /v1/events?{query} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nAuthorization: Bearer {token(subject)}"
        )
        self._socket.sendall(f"{head}\r\n\r\n".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send more than the request."""
        self._socket.sendall(data)

    def read_until(self, mark: bytes) -> None:
        """Read until ``mark`` has come."""
        deadline = time.monotonic() + PATIENCE
        while mark not in self.data:
            assert time.monotonic() < deadline, self.data[-300:]
            self.data += self._socket.recv(4096)

    def read_to_end(self) -> None:
        """Read until the node hangs up."""
        try:
            while data := self._socket.recv(1 << 16):
                self.data += data
        except ConnectionResetError:
            pass
        self._socket.close()

    @property
    def body(self) -> bytes:
        """What came, without the sizes of the chunks and the head."""
        _, _, rest = self.data.partition(b"\r\n\r\n")
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            body, rest = body + rest[:length], rest[length + 2 :]
        return body

    @property
    def frames(self) -> list[dict[str, Any]]:
        """The frames that came entirely."""
        lines = self.body[: self.body.rfind(b"\n\n") + 1].split(b"\n")
        return [json.loads(line[len(b"data: ") :]) for line in lines if line.startswith(b"data: ")]


async def test_event_readers_that_stop_reading_cost_little_memory_and_learn_why_they_were_dropped(
    start: Callable[..., Process],
) -> None:
    node = start(**UNLIMITED, TOCSIN_SLOW_CONSUMER_SECONDS="2", TOCSIN_REPLAY_CACHE_BYTES=str(2 * MB))
    names = [f"reader {number}" for number in range(READERS)]
    stuck = [Reader(node, name, "after=latest", "text/event-stream") for name in names]
    for reader in stuck:
        await asyncio.to_thread(reader.read_until, b'"type":"caught_up"')
    before = highest_memory(node)
    await publish(node, ALERTS)
    assert await eventually(lambda: reasons(node, READERS)) == {("sse", 1013, "slow_consumer")}
    assert highest_memory(node) - before < MAY_GROW < ALERTS * len(BODY) * READERS / 3
    for reader in stuck:
        await asyncio.to_thread(reader.read_to_end)
        seqs = [frame["seq"] for frame in reader.frames if frame["type"] == "event"]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) < ALERTS / 5
        assert reader.frames[-1] == {"type": "close", "code": 1013, "reason": "slow_consumer"}
        claimed = await node.sql("SELECT seq FROM audit.deliveries WHERE recipient = $1", reader.subject)
        assert {row["seq"] for row in claimed} <= set(seqs)


async def test_an_answer_to_a_poll_that_is_not_read_counts_as_not_sent(start: Callable[..., Process]) -> None:
    node = start(**UNLIMITED, TOCSIN_SLOW_CONSUMER_SECONDS="1")
    await publish(node, POLLED_ALERTS)
    reader = Reader(node, "alice", "after=0", "application/json")
    assert await eventually(lambda: reasons(node, 1)) == {("longpoll", 1013, "slow_consumer")}
    assert await node.sql("SELECT FROM audit.deliveries") == []
    await asyncio.to_thread(reader.read_to_end)
    length = re.search(rb"content-length: (\d+)", reader.data)
    assert length
    assert len(reader.data.partition(b"\r\n\r\n")[2]) < int(length[1])


async def test_an_answer_to_a_poll_that_is_read_late_counts_once_all_of_it_has_gone(
    start: Callable[..., Process],
) -> None:
    node = start(**UNLIMITED)
    await publish(node, POLLED_ALERTS)
    with Reader(node, "alice", "after=0", "application/json") as reader:
        await asyncio.to_thread(reader.read_until, b'"events":[')
        assert await node.sql("SELECT FROM audit.deliveries") == []
        await asyncio.to_thread(reader.read_until, b'"closed":null}')
    answer = json.loads(reader.data.partition(b"\r\n\r\n")[2])
    seqs = [event["seq"] for event in answer["events"]]

    async def sent() -> bool:
        rows = await node.sql("SELECT seq FROM audit.deliveries WHERE sent_at IS NOT NULL AND received_at IS NULL")
        return sorted(row["seq"] for row in rows) == seqs

    await eventually(sent)


async def test_what_a_client_sends_after_its_request_does_not_disturb_the_stream(start: Callable[..., Process]) -> None:
    node = start(**UNLIMITED, TOCSIN_REQUEST_TIMEOUT_SECONDS="0.5", TOCSIN_HEARTBEAT_SECONDS="0.2")
    with Reader(node, "alice", "after=0", "text/event-stream") as reader:
        reader.send(b"GET /v1/events HTTP/1.1\r\nHost")
        for _ in range(6):  # well beyond the time that the rest of a request may take
            await asyncio.to_thread(reader.read_until, b'"type":"heartbeat"')
            reader.data = reader.data.replace(b'"type":"heartbeat"', b"", 1)
        assert b"HTTP/1.1 4" not in reader.data


async def publish(node: Process, alerts: int) -> None:
    todo = iter(range(alerts))

    async def worker() -> None:
        async with Backend(node) as backend:
            for number in todo:
                assert (await backend.post({"title": f"alert {number}", "body": BODY})).status == 201

    await asyncio.gather(*(worker() for _ in range(8)))


async def reasons(node: Process, count: int) -> set[tuple[Any, ...]] | None:
    query = "SELECT transport, close_code, close_reason FROM connections WHERE closed_at IS NOT NULL"
    rows = await node.sql(query)
    return {tuple(row) for row in rows} if len(rows) == count else None
