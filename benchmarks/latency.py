"""From POST to frame: at a steady low rate, and at the rate of a storm of alerts."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import baselines, load, wire
from benchmarks.cpu import Cpu, shares
from benchmarks.fanout import CONNECTIONS, SOURCES, open_streams, together
from benchmarks.publish import BATCH, BATCH_PATH
from benchmarks.readers import Readers
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

END_TO_END_SECONDS = 10.0
BATCH_CLIENTS = 8
STEADY_CONNECTIONS = 200
STEADY_CLIENTS = 64
STEADY_RATE = 300.0
STEADY_TRIALS = 4
STEADY_SECONDS = 2.0
LOWER_RATE = 100.0
LOWER_TRIALS = 3
UNDER_WAY_MAX = 5
"""A server with more POSTs under way than this, in the median, is behind the schedule: they queue."""


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
        data={"deliveries_per_second": reached, "latency_seconds": latency, "nchan_deliveries_per_second": peer},
    )
    if peer:
        ratio = reached / statistics.median(peer)
        row.against.append(f"{ratio:.1f} x (d) {statistics.median(peer):,.0f}, {SOURCES} sources")
        row.targets.append((">= 5 x (d)", ratio >= 5))
    else:
        row.against.append(f"(d) {baselines.NOT_INSTALLED}")
    return [row]


def offer_batches(readers: Readers, server: Server, rate: float, seconds: float) -> tuple[float, load.Load]:
    """Offer ``rate`` deliveries/s; return what was reached, from the first POST to the last arrival."""
    readers.begin(server.name, record=True)
    request = server.post(wire.batch_json(BATCH), BATCH_PATH)
    posted = load.open_loop(server.address, request, BATCH_CLIENTS, rate / BATCH / CONNECTIONS, seconds)
    last = readers.wait(server.name, len(posted.due))
    return len(posted.due) * CONNECTIONS / max(seconds, last - posted.begun), posted


def post_to_frame(bench: Bench) -> list[Row]:
    """Single POSTs at a fixed schedule, against the tutorial.

    A baseline that does not keep up with the rate is no measure: its targets are then void, and both are compared once
    more at a rate that it carries.
    """
    with ExitStack() as stack:
        ours = stack.enter_context(bench.node())
        tutorial = stack.enter_context(baselines.tutorial(bench))
        readers = stack.enter_context(Readers())
        for server in (ours, tutorial):
            open_streams(readers, server, STEADY_CONNECTIONS)
            offer_singles(readers, server, 100, 0.5)
        row, behind = _steady(bench, readers, (ours, tutorial), STEADY_RATE, STEADY_TRIALS)
        rows = [row]
        if behind:
            row.targets = [(text, None) for text, _ in row.targets]
            row.against.append("(a) does not keep up with this rate here: no measure")
            rows.append(_steady(bench, readers, (ours, tutorial), LOWER_RATE, LOWER_TRIALS)[0])
        for server in (ours, tutorial):
            readers.verify(server.name)
    return rows


def _steady(
    bench: Bench, readers: Readers, servers: tuple[Server, Server], rate: float, trials: int
) -> tuple[Row, bool]:
    """Run trials in turns; return the row, and whether the second server was behind the schedule."""
    taken: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    cpus: dict[str, list[Cpu]] = {server.name: [] for server in servers}
    for _ in range(trials):
        for server in servers:
            with bench.cpu(server, readers.pid) as cpu:
                posted = offer_singles(readers, server, rate, STEADY_SECONDS)
            taken[server.name].append(readers.latencies(server.name, posted.due))
            cpus[server.name].append(cpu)
    ours, theirs = taken
    against: list[str] = []
    targets: list[tuple[str, bool | None]] = []
    medians: dict[str, list[float]] = {}
    for name, times in (("p50", 1.5), ("p99", 2)):
        pair = [[trial[name] for trial in taken[server]] for server in (ours, theirs)]
        medians[name] = [statistics.median(figures) for figures in pair]
        ratio = median_ratio(*pair)
        against.append(f"{name} {ratio:.2f} x (a) {medians[name][1] * 1e3:.2f} ms")
        targets.append((f"{name} < {times} x (a)", ratio < times))
    row = Row(
        f"POST to frame, {STEADY_CONNECTIONS} connections, {rate:.0f}/s",
        ", ".join(f"{name} {figures[0] * 1e3:.2f} ms" for name, figures in medians.items()),
        against,
        targets,
        shares(cpus[ours]),
        {"(a)": shares(cpus[theirs])},
        {"latency_seconds": taken},
    )
    return row, medians["p50"][1] * rate > UNDER_WAY_MAX


def offer_singles(readers: Readers, server: Server, rate: float, seconds: float) -> load.Load:
    """Post singles at a steady rate and wait for the last of them to arrive."""
    readers.begin(server.name, record=True)
    posted = load.open_loop(server.address, server.post(), STEADY_CLIENTS, rate, seconds)
    readers.wait(server.name, posted.posted)
    return posted
