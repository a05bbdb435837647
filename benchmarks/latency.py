"""From POST to frame: at a steady low rate, and at the rate of a storm of alerts."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import baselines, load, wire
from benchmarks.cpu import Cpu, shares
from benchmarks.fanout import CONNECTIONS, open_streams, together
from benchmarks.peers.nchan import NOT_INSTALLED
from benchmarks.publish import BATCH, BATCH_PATH
from benchmarks.readers import Readers
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

END_TO_END_SECONDS = 10.0
BATCH_CLIENTS = 8
STEADY_CONNECTIONS = 200
STEADY_RATE = 300.0
STEADY_TRIALS = 4
STEADY_SECONDS = 2.0
BEHIND_SECONDS = 0.2


def end_to_end(bench: Bench) -> list[Row]:
    """Batches at a fixed schedule to 500 connections, against nchan as fast as it goes."""
    with ExitStack() as stack:
        ours = stack.enter_context(bench.node())
        nchan = stack.enter_context(baselines.nchan(bench))
        readers = stack.enter_context(Readers())
        peer: list[float] = []
        for server in filter(None, (ours, nchan)):
            open_streams(readers, server, CONNECTIONS)
        if nchan is not None:
            peer.append(together(readers, nchan))
        with bench.cpu(ours, readers.pid) as cpu:
            reached, posted = offer_batches(readers, ours, bench.offered, END_TO_END_SECONDS)
        latency = readers.latencies(ours.name, posted.due)
        readers.verify(ours.name)
        if nchan is not None:
            peer += [together(readers, nchan) for _ in range(2)]
    p50, p99 = latency["p50"] * 1e3, latency["p99"] * 1e3
    row = Row(
        f"end to end: batches of {BATCH} to {CONNECTIONS}",
        f"{reached:,.0f} deliveries/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms",
        [f"offered {bench.offered:,.0f}/s for {END_TO_END_SECONDS:.0f} s, full data"],
        [(">= 1,000,000/s", reached >= 1e6), ("p99 < 250 ms", p99 < 250)],
        shares([cpu]),
        {"deliveries_per_second": reached, "latency_seconds": latency, "nchan_deliveries_per_second": peer},
    )
    if peer:
        ratio = reached / statistics.median(peer)
        row.ratios.append(f"{ratio:.1f} x (d) {statistics.median(peer):,.0f}")
        row.targets.append((">= 5 x (d)", ratio >= 5))
    else:
        row.ratios.append(f"(d) {NOT_INSTALLED}")
    return [row]


def offer_batches(readers: Readers, server: Server, rate: float, seconds: float) -> tuple[float, load.Load]:
    """Offer ``rate`` deliveries/s; return what was reached, from the first POST to the last arrival."""
    readers.begin(server.name, record=True)
    request = server.post(wire.batch_json(BATCH), BATCH_PATH)
    posted = load.open_loop(server.address, request, BATCH_CLIENTS, rate / BATCH / CONNECTIONS, seconds)
    last = readers.wait(server.name, len(posted.due))
    return len(posted.due) * CONNECTIONS / max(seconds, last - posted.begun), posted


def post_to_frame(bench: Bench) -> list[Row]:
    """Single POSTs at a fixed schedule, against the tutorial."""
    with ExitStack() as stack:
        ours = stack.enter_context(bench.node())
        tutorial = stack.enter_context(baselines.tutorial(bench))
        readers = stack.enter_context(Readers())
        taken: dict[str, list[dict[str, float]]] = {}
        cpus: list[Cpu] = []
        for server in (ours, tutorial):
            open_streams(readers, server, STEADY_CONNECTIONS)
            offer_singles(readers, server, 0.5)
            taken[server.name] = []
        for _ in range(STEADY_TRIALS):
            for server in (ours, tutorial):
                with bench.cpu(server, readers.pid) as cpu:
                    taken[server.name].append(offer_singles(readers, server, STEADY_SECONDS))
                if server is ours:
                    cpus.append(cpu)
        for server in (ours, tutorial):
            readers.verify(server.name)
    p50, p99 = ([[trial[name] for trial in taken[s.name]] for s in (ours, tutorial)] for name in ("p50", "p99"))
    over50, over99 = median_ratio(*p50), median_ratio(*p99)

    theirs_is_behind = statistics.median(p99[1]) > BEHIND_SECONDS

    def milliseconds(trials: list[float]) -> str:
        return f"{statistics.median(trials) * 1e3:.2f} ms"

    return [
        Row(
            f"POST to frame, {STEADY_CONNECTIONS} connections, {STEADY_RATE:.0f}/s",
            f"p50 {milliseconds(p50[0])}, p99 {milliseconds(p99[0])}",
            [
                f"p50 {over50:.2f} x (a) {milliseconds(p50[1])}",
                f"p99 {over99:.2f} x (a) {milliseconds(p99[1])}",
                *(["(a) does not keep up with this rate here"] if theirs_is_behind else []),
            ],
            [("p50 < 1.5 x (a)", over50 < 1.5), ("p99 < 2 x (a)", over99 < 2)],
            shares(cpus),
            {"latency_seconds": taken},
        )
    ]


def offer_singles(readers: Readers, server: Server, seconds: float) -> dict[str, float]:
    """Post singles at the steady rate and return the latencies of all frames."""
    readers.begin(server.name, record=True)
    posted = load.open_loop(server.address, server.post(), 64, STEADY_RATE, seconds)
    readers.wait(server.name, posted.posted)
    return readers.latencies(server.name, posted.due)
