"""One hostile client floods an operation while another posts and streams: what the other one notices of it.

The node has its default limits, a log of some thousand alerts, and some hundred admins who were connected once. The
other client posts at a steady rate, and has a stream; its p99 from when a POST was due to its frame stands beside that
of quiet trials, before and after the flood. The hostile client is a process of its own, which keeps several requests
under way. It runs on the same machine, and takes a core of it: with two cores, a part of what is measured is that. How
much, the first row shows: there the flood goes to another server, which does nothing.
"""

from __future__ import annotations

import http.client
import multiprocessing
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING

import orjson
from websockets.sync.client import connect

from benchmarks import baselines, load, wire
from benchmarks.publish import BATCH, BATCH_PATH
from benchmarks.readers import Readers
from benchmarks.report import Row
from tests.harness import READ, WRITE, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

ALERTS, FILLERS = 4_000, 4
ADMINS = 300
RATE = 50.0
SECONDS = 4.0
SOURCES = 8
UNDER_WAY = 16
RATIO_MAX = 5.0
DEFAULT_LIMITS = {"TOCSIN_WRITE_LIMIT": "5000/second; 30000/minute"}
MALLORY = token("mallory", f"{READ} {WRITE} audit:read")
BEARER = {"Authorization": f"Bearer {MALLORY}"}
JSON = {"Content-Type": "application/json"}
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
HUGE_BATCH = b"[%b]" % b",".join([b'{"title":"Nothing happened","topic":"mallory"}'] * 1_000)
READ_OF_A_STREAM = 1 << 18


@dataclass(frozen=True)
class Flood:
    """Requests that are sent over and over. Of one that ``streams``, the beginning of the answer is read."""

    name: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    streams: bool = False

    def send(self, connection: http.client.HTTPConnection) -> None:
        """Send one request, and read its answer."""
        connection.request("GET" if self.body is None else "POST", self.path, self.body, self.headers)
        answer = connection.getresponse()
        answer.read(READ_OF_A_STREAM if self.streams else None)
        if self.streams or answer.will_close:
            connection.close()


NOTHING = "nothing of it, but of a server beside it"
FLOODS = (
    Flood(NOTHING, "/noop", {**BEARER, **JSON}, wire.alert_json()),
    Flood("anonymous junk paths", "/" + "eyJ" * 10_000),
    Flood("bad tokens", "/v1/alerts", {"Authorization": "Bearer " + "e30." * 2_000}),
    Flood("many topic parameters", "/v1/alerts?" + "&".join(f"topic=t{n}" for n in range(2_400)), BEARER),
    Flood("lists and searches", "/v1/alerts?q=acceptance&limit=200", BEARER),
    Flood("audit queries", "/v1/audit/unreceived?limit=1000", BEARER),
    Flood("reports", "/v1/audit/report", BEARER),
    Flood("replays from 0", "/v1/events?after=0", {**BEARER, "Accept": "text/event-stream"}, streams=True),
    Flood("handshakes", "/v1/ws?after=0", {**BEARER, **UPGRADE}, streams=True),
    Flood("huge batches", BATCH_PATH, {**BEARER, **JSON}, HUGE_BATCH),
)


def hostile(bench: Bench) -> list[Row]:
    """Flood one operation after the other, with a quiet trial before each of them and after the last."""
    with ExitStack() as stack:
        server = stack.enter_context(bench.node(variables=DEFAULT_LIMITS))
        beside = stack.enter_context(baselines.noop(bench))
        _fill(server, stack.enter_context(Readers()))
        _p99(server)
        quiet, flooded = [_p99(server)], []
        for flood in FLOODS:
            with flooding(beside if flood.name == NOTHING else server, flood):
                flooded.append(_p99(server))
            time.sleep(1)
            quiet.append(_p99(server))
    rows = []
    for number, flood in enumerate(FLOODS):
        before = statistics.mean(quiet[number : number + 2])
        ratio = flooded[number] / before
        rows.append(
            Row(
                f"flood: {flood.name}",
                f"p99 {flooded[number] * 1e3:.1f} ms",
                [f"{ratio:.1f} x quiet {before * 1e3:.1f} ms, {flooded[number] / flooded[0]:.1f} x the first flood"],
                [(f"<= {RATIO_MAX:.0f} x quiet", ratio <= RATIO_MAX)],
                data={"p99_seconds": flooded[number], "quiet_p99_seconds": quiet[number : number + 2]},
            )
        )
    return rows


def _fill(server: Server, readers: Readers) -> None:
    for number in range(FILLERS):
        request = wire.post(BATCH_PATH, wire.batch_json(BATCH), token(f"filler-{number}", WRITE))
        with load.open_sources(server.address, request, 1) as (sources, _):
            [source] = sources.values()
            for _ in range(ALERTS // FILLERS // BATCH):
                source.post()
                while source.answer() is None:
                    pass
    readers.open("admins", server.address, server.handshakes(ADMINS), server.ready)
    readers.close("admins")


def _p99(server: Server) -> float:
    """Post at a fixed schedule, and return the p99 of the seconds from when a POST was due to its frame."""
    bearer = {"Authorization": f"Bearer {token('victim', f'{READ} {WRITE}')}"}
    arrived: dict[str, float] = {}
    due: dict[str, float] = {}
    address = f"ws://{server.address[0]}:{server.address[1]}/v1/ws?after=latest&topic=payments.eu"
    with connect(address, additional_headers=bearer, proxy=None) as stream:

        def receive() -> None:
            for frame in map(orjson.loads, stream):
                if frame["type"] == "event":
                    arrived.setdefault(frame["alert"]["id"], time.perf_counter())

        threading.Thread(target=receive, daemon=True).start()

        def post(at: float) -> None:
            source = free.get()
            source.request("POST", server.post_path, wire.alert_json(), {**bearer, **JSON})
            due[orjson.loads(source.getresponse().read())["id"]] = at
            free.put(source)

        free: Queue[http.client.HTTPConnection] = Queue()
        for _ in range(SOURCES):
            free.put(http.client.HTTPConnection(*server.address, timeout=load.PATIENCE))
        begun = time.perf_counter()
        with ThreadPoolExecutor(SOURCES) as sources:
            for number in range(int(RATE * SECONDS)):
                at = begun + number / RATE
                time.sleep(max(0.0, at - time.perf_counter()))
                sources.submit(post, at)
        while len(arrived) < len(due):
            if time.perf_counter() - begun > SECONDS + load.PATIENCE:
                raise TimeoutError("frames are missing")
            time.sleep(0.01)
    return statistics.quantiles((arrived[alert] - due[alert] for alert in due), n=100)[-1]


@contextmanager
def flooding(server: Server, flood: Flood) -> Iterator[None]:
    """Send a flood from a process of its own until the end of the block."""
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=_flood, args=(server.address, flood, begun), daemon=True)
    process.start()
    try:
        if not begun.wait(load.PATIENCE):
            raise TimeoutError("the hostile client did not begin")
        yield
    finally:
        process.kill()
        process.join()


def _flood(address: load.Address, flood: Flood, begun: threading.Event) -> None:
    def send() -> None:
        while True:
            connection = http.client.HTTPConnection(*address, timeout=load.PATIENCE)
            with suppress(OSError, http.client.HTTPException):
                while True:
                    flood.send(connection)
            connection.close()

    for _ in range(UNDER_WAY):
        threading.Thread(target=send, daemon=True).start()
    begun.set()
    threading.Event().wait()
