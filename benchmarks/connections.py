"""Thousands of connections: what an idle one costs, and what it takes when all come back at once."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import baselines, load, wire
from benchmarks.cpu import Cpu, resident_bytes, shares
from benchmarks.publish import BATCH, BATCH_PATH
from benchmarks.readers import Readers
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

CONNECTIONS = 5_000
WARM_UP = 500
AT_ONCE = 200
MISSED = 100
TRIALS = 3
READS_MAX = 20
KIB_MAX = 24
SETTLE_SECONDS = 1.0


def connections(bench: Bench) -> list[Row]:
    """Clients that resume, clients that only connect, and the tutorial's; the latter two are also the idle ones."""
    with ExitStack() as stack:
        ours = stack.enter_context(bench.node())
        bare = stack.enter_context(bench.node(name="bare"))
        tutorial = stack.enter_context(baselines.tutorial(bench))
        readers = stack.enter_context(Readers())
        head = _post_some(ours)
        resumed: list[float] = []
        handshakes: list[float] = []
        cpus: list[Cpu] = []
        reads = 0.0
        theirs, theirs_kib = _come_and_stay(readers, tutorial)
        kib = 0.0
        for trial in range(TRIALS):
            before = ours.metric("tocsin_log_reads_total")
            requests = ours.handshakes(CONNECTIONS, f"after={head - MISSED}")
            with bench.cpu(ours, readers.pid) as cpu:
                resumed.append(_come(readers, ours, requests))
            cpus.append(cpu)
            if (each := readers.verify(ours.name)) != MISSED:
                raise RuntimeError(f"each client missed {MISSED} events and was sent {each}")
            reads = max(reads, ours.metric("tocsin_log_reads_total") - before)
            _go(readers, ours)
            if trial == 0:
                seconds, kib = _come_and_stay(readers, bare)
            else:
                seconds = _come(readers, bare, bare.handshakes(CONNECTIONS))
                _go(readers, bare)
            handshakes.append(seconds)
    ratio = median_ratio(resumed, handshakes)
    return [
        Row(
            f"idle connection, {CONNECTIONS:,} open",
            f"{kib:.1f} KiB of the server's memory",
            [
                f"{kib / theirs_kib:.2f} x (a) {theirs_kib:.1f} KiB",
                f"after {WARM_UP} that came and went, growth that comes once is not in it",
            ],
            [(f"<= {KIB_MAX} KiB", kib <= KIB_MAX)],
            data={"kib": {"tocsin": kib, "tutorial": theirs_kib}},
        ),
        Row(
            f"reconnect storm, {CONNECTIONS:,} x {MISSED} events",
            f"{statistics.median(resumed):.2f} s, {reads:.0f} reads of the log",
            [
                f"{ratio:.2f} x bare handshakes {statistics.median(handshakes):.2f} s",
                f"handshakes of (a) {theirs:.2f} s; {AT_ONCE} at once everywhere",
            ],
            [("<= 1.5 x bare", ratio <= 1.5), (f"<= {READS_MAX} reads", reads <= READS_MAX)],
            shares(cpus),
            data={"seconds": {"resumed": resumed, "bare": handshakes, "tutorial": theirs}, "reads": reads},
        ),
    ]


def _post_some(node: Server) -> int:
    """Post what will be missed, and as much before it; return the last seq."""
    request = node.post(wire.batch_json(BATCH), BATCH_PATH)
    posted = load.open_loop(node.address, request, 1, 10, 2 * MISSED / BATCH / 10)
    return posted.first_seq + len(posted.due) - 1


def _come_and_stay(readers: Readers, server: Server) -> tuple[float, float]:
    """Return the seconds that bare handshakes take, and the KiB that a connection then holds of the server's memory.

    Some hundreds come and go before, so that growth that comes once is not counted. They leave memory behind that the
    first of those who stay use again, so it is the others among whom the growth is divided.
    """
    _come(readers, server, server.handshakes(WARM_UP))
    time.sleep(SETTLE_SECONDS)
    _go(readers, server)
    before = resident_bytes(server.pid)
    seconds = _come(readers, server, server.handshakes(CONNECTIONS))
    time.sleep(SETTLE_SECONDS)  # the ledger has written the last of them, and what that took is free again
    kib = (resident_bytes(server.pid) - before) / (CONNECTIONS - WARM_UP) / 1024
    _go(readers, server)
    return seconds, kib


def _come(readers: Readers, server: Server, requests: list[bytes]) -> float:
    """Return the seconds from the first connect until all have what they asked for."""
    return readers.open(server.name, server.address, requests, server.ready, AT_ONCE)


def _go(readers: Readers, server: Server) -> None:
    """Hang up, and wait until a node has noticed."""
    readers.close(server.name)
    deadline = time.monotonic() + 10
    while server.database and server.metric("tocsin_connections") and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
