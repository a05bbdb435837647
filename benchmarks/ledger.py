"""What the ledger costs, in speed and in rows."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import load
from benchmarks.cpu import Cpu, shares
from benchmarks.fanout import CONNECTIONS, SOURCES
from benchmarks.nodes import sql
from benchmarks.readers import Readers
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

TRIALS = 21
"""Many and short: how many events leave together differs from trial to trial by more than the ledger costs."""
SECONDS = 0.7
EVENTS_A_SECOND = 200.0
_TABLES = ("dispatches", "receipts", "connections")


def ledger(bench: Bench) -> list[Row]:
    """Fan-out with acks, with the ledger and without; rows at 50 and 500 connections."""
    with ExitStack() as stack:
        nodes = {
            "with": stack.enter_context(bench.node()),
            "without": stack.enter_context(bench.node(module="benchmarks.peers.without_ledger")),
        }
        readers = stack.enter_context(Readers())
        rates: dict[str, list[float]] = {name: [] for name in nodes}
        cpus: list[Cpu] = []
        for name, node in nodes.items():
            readers.open(name, node.address, node.handshakes(CONNECTIONS), node.ready)
        for _ in range(TRIALS):
            for name, node in nodes.items():
                with bench.cpu(node, readers.pid) as cpu:
                    rates[name].append(acknowledged(readers, name, node))
                if name == "with":
                    cpus.append(cpu)
        receipts = {name: sql(node.database, "SELECT count(*) FROM receipts")[0][0] for name, node in nodes.items()}
        for name in nodes:
            readers.verify(name)
    if not receipts["with"] or receipts["without"]:
        raise RuntimeError(f"receipts: {receipts}")
    ratio = median_ratio(rates["with"], rates["without"])
    few, many = (rows_written(bench, connections) for connections in (CONNECTIONS // 10, CONNECTIONS))
    growth = many / few
    return [
        Row(
            f"ledger: fan-out to {CONNECTIONS} that acknowledge",
            f"{statistics.median(rates['with']):,.0f} deliveries/s",
            [f"{ratio:.2f} x without the ledger {statistics.median(rates['without']):,.0f}"],
            [(">= 0.95 x without", ratio >= 0.95)],
            shares(cpus),
            data={"deliveries_per_second": rates, "receipts": receipts},
        ),
        Row(
            "ledger: rows for 10 x the deliveries",
            f"{many:,} rows",
            [f"{growth:.2f} x {few:,} rows for {CONNECTIONS // 10} connections"],
            [("flat: <= 1.2 x", growth <= 1.2)],
            data={"rows": {CONNECTIONS // 10: few, CONNECTIONS: many}},
        ),
    ]


def acknowledged(readers: Readers, name: str, node: Server) -> float:
    """Return deliveries/s of 16 sources to clients that acknowledge four times a second."""
    readers.begin(name, acks=True)
    posted = load.closed_loop(node.address, node.post(), SOURCES, SECONDS)
    last = readers.wait(name, posted.posted)
    return posted.posted * CONNECTIONS / (last - posted.begun)


def rows_written(bench: Bench, connections: int) -> int:
    """Return the rows that the ledger writes for 200 events to so many connections, once those are open.

    Rows that were updated count as well: what is counted are rows whose last transaction is a later one.
    """
    with bench.node() as node, Readers() as readers:
        readers.open("rows", node.address, node.handshakes(connections), node.ready)
        _await(node, f"SELECT count(*) = {connections} FROM connections WHERE sent_seq IS NULL")
        before = sql(node.database, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")[0][0]
        readers.begin("rows")
        posted = load.open_loop(node.address, node.post(), SOURCES, EVENTS_A_SECOND, 1.0)
        readers.wait("rows", posted.posted)
        _await(node, f"SELECT min(sent_seq) >= {posted.posted} FROM nodes")
        counts = " + ".join(f"(SELECT count(*) FROM {table} WHERE xmin::text::bigint >= {before})" for table in _TABLES)
        return int(sql(node.database, f"SELECT {counts}")[0][0])


def _await(node: Server, condition: str) -> None:
    deadline = time.monotonic() + 10
    while not sql(node.database, condition)[0][0]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not become true: {condition}")
        time.sleep(0.05)
