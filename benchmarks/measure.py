"""The first figures of the path, on the machine at hand: ``python benchmarks/measure.py``.

Starts a node in a process of its own, with durable storage, limits, heartbeats and the ledger on, and its clients in
this one. Machines are shared and noisy: these are orders of magnitude, not promises.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

import asyncpg
import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from service.database.embedded import embedded_postgres
from service.database.engine import parse_url
from service.database.migrate import migrate
from tests.harness import READ, WRITE, Process, start_process, token, with_database

BODY = {"title": "Card acceptance below 80 %", "topic": "payments.eu", "severity": "error", "body": "x" * 20}
LIMITS = {
    "TOCSIN_WRITE_LIMIT": "1000000/second",
    "TOCSIN_CONNECTIONS_PER_RECIPIENT": "10000",
    "TOCSIN_ACCESS_LOG": "false",
    "TOCSIN_LOG_LEVEL": "warning",
}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Poster:
    """A keep-alive connection that POSTs, written by hand so that the client is not the bottleneck."""

    def __init__(self, node: Process) -> None:
        self.host, self.port = node.base.removeprefix("http://").split(":")
        self.bearer = token("bench", WRITE)

    async def open(self) -> Poster:
        self.reader, self.writer = await asyncio.open_connection(self.host, int(self.port))
        return self

    async def post(self, alert: dict[str, str]) -> None:
        body = json.dumps(alert).encode()
        head = (
            f"POST /v1/alerts HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.bearer}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        self.writer.write(head + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 201"), answer
        length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        await self.reader.readexactly(length)


async def keep_alive_posts(node: Process, clients: int, seconds: float) -> float:
    """Alerts/s of single POSTs over keep-alive connections."""
    done, deadline = 0, time.monotonic() + seconds

    async def post() -> None:
        nonlocal done
        poster = await Poster(node).open()
        while time.monotonic() < deadline:
            await poster.post(BODY)
            done += 1
        poster.writer.close()

    await asyncio.gather(*(post() for _ in range(clients)))
    return done / seconds


class Reader(asyncio.Protocol):
    """A stream that counts event frames and notes when they came, without parsing more than it must."""

    def __init__(self, request: bytes, arrived: list[tuple[bytes, float]] | None) -> None:
        self.request, self.arrived = request, arrived
        self.events = 0
        self.live = asyncio.get_running_loop().create_future()
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self.live.done() and b'"caught_up"' in data:
            self.live.set_result(None)
        self.events += data.count(b'{"type":"event"')
        if self.arrived is not None:
            now = time.perf_counter()
            for part in (self.tail + data).split(b'"title":"t-')[1:]:
                self.arrived.append((part[:8], now))


async def readers(node: Process, count: int, arrived: list[tuple[bytes, float]] | None = None) -> list[Reader]:
    host, port = node.base.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    made = []
    for number in range(count):
        request = (
            f"GET /v1/ws?after=latest HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {token(f'admin-{number}', READ)}\r\n\r\n"
        ).encode()
        _, reader = await loop.create_connection(lambda request=request: Reader(request, arrived), host, int(port))
        made.append(reader)
        if number % 200 == 199:
            await made[-1].live
    await asyncio.gather(*(reader.live for reader in made))
    return made


async def latency(node: Process, connections: int, rate: float, seconds: float) -> tuple[float, float, int]:
    """POST to frame, in seconds, at a fixed schedule: a POST that is sent late counts from when it was due."""
    arrived: list[tuple[bytes, float]] = []
    streams = await readers(node, connections, arrived)
    due: dict[bytes, float] = {}
    free: asyncio.Queue[Poster] = asyncio.Queue()
    for _ in range(64):
        free.put_nowait(await Poster(node).open())

    async def post(name: bytes) -> None:
        poster = await free.get()
        await poster.post({**BODY, "title": f"t-{name.decode()}"})
        free.put_nowait(poster)

    begin = time.perf_counter() + 0.2
    posts = []
    for number in range(int(rate * seconds)):
        at = begin + number / rate
        await asyncio.sleep(max(0, at - time.perf_counter()))
        name = b"%08d" % number
        due[name] = at
        posts.append(asyncio.create_task(post(name)))
    await asyncio.gather(*posts)
    deadline = time.monotonic() + 10
    while sum(r.events for r in streams) < len(due) * connections and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    latencies = [at - due[name] for name, at in arrived]
    for reader in streams:
        reader.transport.close()
    return percentile(latencies, 0.5), percentile(latencies, 0.99), len(latencies)


async def deliveries(node: Process, connections: int, seconds: float) -> float:
    """Deliveries/s of single POSTs to every connection, as fast as 16 posters go."""
    streams = await readers(node, connections)
    started = time.perf_counter()
    await keep_alive_posts(node, 16, seconds)
    posted = (await node.sql("SELECT max(seq) - $1 AS posted FROM events", 0))[0]["posted"]
    before = -1
    while (now := sum(r.events for r in streams)) != before:
        before = now
        await asyncio.sleep(0.25)
    took = time.perf_counter() - started - 0.25
    for reader in streams:
        reader.transport.close()
    assert posted
    return before / took


async def idle_memory(node: Process, connections: int) -> float:
    """Bytes of the server's resident memory for each idle connection."""
    server = psutil.Process(node.process.pid)
    before = server.memory_info().rss
    streams = await readers(node, connections)
    await asyncio.sleep(2)
    used = server.memory_info().rss - before
    for reader in streams:
        reader.transport.close()
    return used / connections


async def fresh(server_url: str, folder: Path) -> Process:
    name = f"bench_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(server_url)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "bench"')
    await admin.close()
    return start_process(with_database(server_url, name), folder, **LIMITS)


async def prepare(server_url: str) -> None:
    admin = await asyncpg.connect(server_url)
    await admin.execute('CREATE DATABASE "bench"')
    await admin.close()


async def main(server_url: str, folder: Path) -> None:
    node = await fresh(server_url, folder)
    rates = [await keep_alive_posts(node, 64, 5) for _ in range(3)]
    print(f"single POSTs, 64 keep-alive clients        {statistics.median(rates):,.0f} alerts/s")
    node.stop()
    node = await fresh(server_url, folder)
    p50, p99, count = await latency(node, 200, 300, 10)
    print(
        f"POST to frame, 200 connections, 300/s       p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms ({count:,} frames)"
    )
    node.stop()
    node = await fresh(server_url, folder)
    print(f"fan-out of single POSTs to 500 connections  {await deliveries(node, 500, 5):,.0f} deliveries/s")
    node.stop()
    node = await fresh(server_url, folder)
    print(
        f"idle connection, 5,000 open                 {await idle_memory(node, 5000) / 1024:.1f} KiB of server memory"
    )
    node.stop()


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-bench-", ignore_cleanup_errors=True) as name,
        embedded_postgres(Path(name)) as url,
    ):
        address = url.render_as_string(hide_password=False)
        asyncio.run(prepare(address))
        migrate(parse_url(with_database(address, "bench")))
        uvloop.run(main(address, Path(name)))
