"""How fast alerts are taken in: single POSTs, and batches."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import baselines, load, wire
from benchmarks.cpu import Cpu, shares
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

CLIENTS = 64
TRIALS = 3
SECONDS = 1.5
BATCH = 100
BATCH_PATH = "/v1/alerts/batch"
BATCH_SOURCES = 16


def single(bench: Bench) -> list[Row]:
    """Single POSTs, against one transaction a request and against a POST that does nothing."""
    with ExitStack() as stack:
        ours = stack.enter_context(bench.node())
        stored = stack.enter_context(baselines.one_transaction(bench))
        noop = stack.enter_context(baselines.noop(bench))
        rates: dict[str, list[float]] = {server.name: [] for server in (ours, stored, noop)}
        cpus: list[Cpu] = []
        for server in (ours, stored, noop):
            rate(server, 0.3)
        for _ in range(TRIALS):
            for server in (ours, stored, noop):
                with bench.cpu(server) as cpu:
                    rates[server.name].append(rate(server, SECONDS))
                if server is ours:
                    cpus.append(cpu)
    figure, c, nothing = (sorted(rates[server.name])[TRIALS // 2] for server in (ours, stored, noop))
    over_c, over_noop = (median_ratio(rates[ours.name], rates[server.name]) for server in (stored, noop))
    return [
        Row(
            f"single POSTs, {CLIENTS} keep-alive clients",
            f"{figure:,.0f} alerts/s",
            [f"{over_c:.2f} x (c) {c:,.0f}", f"{over_noop:.2f} x (noop) {nothing:,.0f}"],
            [(">= 3.5 x (c)", over_c >= 3.5), (">= 0.4 x (noop)", over_noop >= 0.4)],
            shares(cpus),
            data={"alerts_per_second": rates},
        )
    ]


def rate(server: Server, seconds: float) -> float:
    """Return the alerts a second of single POSTs."""
    return load.closed_loop(server.address, server.post(), CLIENTS, seconds).rate


def batches(bench: Bench) -> list[Row]:
    """Batches of 100."""
    with bench.node() as ours:
        request = ours.post(wire.batch_json(BATCH), BATCH_PATH)
        load.closed_loop(ours.address, request, BATCH_SOURCES, 0.3)
        rates: list[float] = []
        cpus: list[Cpu] = []
        for _ in range(TRIALS):
            with bench.cpu(ours) as cpu:
                rates.append(BATCH * load.closed_loop(ours.address, request, BATCH_SOURCES, SECONDS).rate)
            cpus.append(cpu)
    figure = sorted(rates)[TRIALS // 2]
    return [
        Row(
            f"batches of {BATCH}, {BATCH_SOURCES} sources",
            f"{figure:,.0f} alerts/s",
            [],
            [(">= 30,000/s", figure >= 30_000)],
            shares(cpus),
            data={"alerts_per_second": rates},
        )
    ]
