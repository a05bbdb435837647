"""What must not grow: the cost of a delivery, of a replayed event, and of an append.

The first with the connections, the second with the number of events, the third with the log.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import baselines, load, publish, wire
from benchmarks.cpu import Cpu, shares
from benchmarks.fanout import open_streams, strict_rounds
from benchmarks.fill import fill
from benchmarks.readers import Readers
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

CONNECTIONS = (100, 1_000, 5_000)
REPLAYED = (100, 1_000, 10_000)
TRIALS = 3
SECONDS = 1.0
LONG_LOG = 5_000_000
TOLERANCE = 1.2


def delivery(bench: Bench) -> list[Row]:
    """CPU of the server for a delivery, at 100, 1,000 and 5,000 connections; that of the POST itself is taken off.

    Beside it the bare send loop: it has the growth that is the kernel's, whose sockets leave the caches as ours do.
    """
    cost: dict[int, list[float]] = {connections: [] for connections in CONNECTIONS}
    kernel: dict[int, list[float]] = {connections: [] for connections in CONNECTIONS}
    cpus: list[Cpu] = []
    with ExitStack() as stack:
        readers = stack.enter_context(Readers())
        nodes = {count: stack.enter_context(bench.node(name=f"tocsin {count}")) for count in CONNECTIONS}
        loops = {count: stack.enter_context(baselines.send_loop(bench, f"send_loop {count}")) for count in CONNECTIONS}
        alone = _cpu_of_a_post(bench, nodes[CONNECTIONS[0]])
        for count in CONNECTIONS:
            for server in (nodes[count], loops[count]):
                if server is not None:
                    open_streams(readers, server, count)
        for _ in range(TRIALS):
            for count in CONNECTIONS:
                event, cpu = _rounds(bench, readers, nodes[count])
                cost[count].append((event - alone) / count)
                cpus.append(cpu)
                if (loop := loops[count]) is not None:
                    kernel[count].append(_rounds(bench, readers, loop)[0] / count)
        for node in nodes.values():
            readers.verify(node.name)
    figures, theirs = (
        {count: statistics.median(trials) for count, trials in measured.items() if trials}
        for measured in (cost, kernel)
    )
    spread = _spread(figures)
    against = [_microseconds(figures)]
    if theirs:
        against.append(f"(b) {_spread(theirs):.2f} x: {_microseconds(theirs)}")
    return [
        Row(
            "cost of a delivery, 100 to 5,000 connections",
            f"{spread:.2f} x between the least and the most",
            against,
            [(f"<= {TOLERANCE} x", spread <= TOLERANCE)],
            shares(cpus),
            data={"cpu_seconds_a_delivery": cost, "cpu_seconds_a_post": alone, "cpu_seconds_a_bare_send": kernel},
        )
    ]


def _rounds(bench: Bench, readers: Readers, server: Server) -> tuple[float, Cpu]:
    """Return the server's CPU seconds for an event, and the trial."""
    with bench.cpu(server, readers.pid) as cpu:
        rounds, _ = strict_rounds(readers, server, SECONDS)
    return cpu.used["server"] / rounds, cpu


def _spread(figures: dict[int, float]) -> float:
    return max(figures.values()) / min(figures.values())


def _microseconds(figures: dict[int, float]) -> str:
    return ", ".join(f"{count:,}: {seconds * 1e6:.2f} us" for count, seconds in figures.items())


def _cpu_of_a_post(bench: Bench, node: Server) -> float:
    load.closed_loop(node.address, node.post(), 1, 0.3)
    with bench.cpu(node) as cpu:
        posted = load.closed_loop(node.address, node.post(), 1, SECONDS)
    return cpu.used["server"] / posted.posted


def replay(bench: Bench) -> list[Row]:
    """Time of a replayed event, where a client asks for 100, 1,000 and 10,000 that are not in memory."""
    with bench.node() as node:
        request = node.post(wire.batch_json(publish.BATCH), publish.BATCH_PATH)
        posted = load.open_loop(node.address, request, 1, 50, REPLAYED[-1] / publish.BATCH / 50)
        head = posted.first_seq + len(posted.due) - 1
    taken: dict[int, list[float]] = {events: [] for events in (0, *REPLAYED)}
    with bench.node(node.database) as node, Readers() as readers:
        for _ in range(2 * TRIALS):
            for events, seconds in taken.items():
                seconds.append(_resume(readers, node, head, events))
    handshake = statistics.median(taken[0])
    each = {events: (statistics.median(taken[events]) - handshake) / events for events in REPLAYED}
    growth = each[REPLAYED[-1]] / each[REPLAYED[1]]
    return [
        Row(
            f"replay of {REPLAYED[-1]:,} events from the log",
            f"{each[REPLAYED[-1]] * 1e6:.1f} us an event",
            [", ".join(f"{events:,}: {seconds * 1e6:.1f} us" for events, seconds in each.items())],
            [(f"<= {TOLERANCE} x that of {REPLAYED[1]:,}", growth <= TOLERANCE)],
            data={"seconds": taken},
        )
    ]


def _resume(readers: Readers, node: Server, head: int, events: int) -> float:
    seconds = readers.open("resume", node.address, node.handshakes(1, f"after={head - events}"), node.ready)
    if (sent := readers.verify("resume")) != events:
        raise RuntimeError(f"{events} events were missed and {sent} sent")
    readers.close("resume")
    return seconds


def long_log(bench: Bench) -> list[Row]:
    """Single POSTs on an empty log and on one of five million events."""
    with bench.node() as first:
        load.closed_loop(first.address, first.post(), 1, 0.0)
    began = time.perf_counter()
    asyncio.run(fill(first.database, LONG_LOG))
    filled = time.perf_counter() - began
    with ExitStack() as stack:
        nodes = {
            name: stack.enter_context(bench.node(url)) for name, url in (("empty", None), ("long", first.database))
        }
        rates: dict[str, list[float]] = {name: [] for name in nodes}
        cpus: list[Cpu] = []
        for node in nodes.values():
            publish.rate(node, 0.3)
        for _ in range(TRIALS):
            for name, node in nodes.items():
                with bench.cpu(node) as cpu:
                    rates[name].append(publish.rate(node, 2.0))
                cpus.append(cpu)
    ratio = median_ratio(rates["long"], rates["empty"])
    return [
        Row(
            f"single POSTs on a log of {LONG_LOG:,} events",
            f"{statistics.median(rates['long']):,.0f} alerts/s",
            [f"{ratio:.2f} x empty log {statistics.median(rates['empty']):,.0f}", f"filled by SQL in {filled:.0f} s"],
            [(">= 0.8 x empty", ratio >= 0.8)],
            shares(cpus),
            data={"alerts_per_second": rates, "fill_seconds": filled},
        )
    ]
