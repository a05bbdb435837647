"""Fan-out to 500 connections: one event at a time, and events that arrive together."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import baselines, load
from benchmarks.cpu import Cpu, shares
from benchmarks.readers import Readers
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

CONNECTIONS = 500
SOURCES = 16
TRIALS = 3
SECONDS = 1.5
JOINED = 50
LETTERS = {"send_loop": "b", "tutorial": "a", "nchan": "d"}
TARGETS = {"send_loop": 0.5, "tutorial": 2.2, "nchan": 0.9}


def fanout(bench: Bench) -> list[Row]:
    """Compare with the tutorial, the kernel's ceiling and nchan, all with the same readers."""
    with ExitStack() as stack:
        ours = stack.enter_context(bench.node())
        tutorial = stack.enter_context(baselines.tutorial(bench))
        loop = stack.enter_context(baselines.send_loop(bench))
        nchan = stack.enter_context(baselines.nchan(bench))
        readers = stack.enter_context(Readers())
        servers = [server for server in (ours, loop, tutorial, nchan) if server is not None]
        for server in servers:
            open_streams(readers, server, CONNECTIONS)
        strict = _compare(bench, readers, servers, one_at_a_time, "one event at a time")
        drained = drain(readers, loop) if loop else None
        for server in servers:
            readers.verify(server.name, numbered=server in (ours, tutorial))
        servers = [server for server in servers if server is not loop]
        joined = _compare(bench, readers, servers, together, f"{SOURCES} sources, together")
        readers.verify(ours.name)
    strict.against += [] if loop else [f"(b) {baselines.NO_COMPILER}"]
    for row in (strict, joined):
        row.against += [] if nchan else [f"(d) {baselines.NOT_INSTALLED}"]
    if drained:
        strict.against.append(f"these readers drain {drained:,.0f}/s of (b), {JOINED} joined")
        strict.data["drained_per_second"] = drained
    for peer, ratio in strict.data["ratios"].items():
        strict.targets.append((f">= {TARGETS[peer]} x ({LETTERS[peer]})", ratio >= TARGETS[peer]))
    return [strict, joined]


def _compare(
    bench: Bench, readers: Readers, servers: Sequence[Server], trial: Callable[[Readers, Server], float], name: str
) -> Row:
    """Run trials in turns and return the row of the first server."""
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    cpus: dict[str, list[Cpu]] = {server.name: [] for server in servers}
    for _ in range(TRIALS):
        for server in servers:
            with bench.cpu(server, readers.pid) as cpu:
                rates[server.name].append(trial(readers, server))
            cpus[server.name].append(cpu)
    ours, *peers = rates
    ratios = {peer: median_ratio(rates[ours], rates[peer]) for peer in peers}
    figures = {server: statistics.median(trials) for server, trials in rates.items()}
    cost = {server: _cpu_each(cpus[server], rates[server]) * 1e6 for server in rates}
    costs = ", ".join(f"({LETTERS[peer]}) {cost[peer]:.1f}" for peer in peers)
    used = {server: shares(trials) for server, trials in cpus.items()}
    return Row(
        f"fan-out to {CONNECTIONS}, {name}",
        f"{figures[ours]:,.0f} deliveries/s",
        [
            *(f"{ratio:.2f} x ({LETTERS[peer]}) {figures[peer]:,.0f}" for peer, ratio in ratios.items()),
            f"server's CPU a delivery: {cost[ours]:.1f} us; {costs}",
        ],
        cpu=used[ours],
        peers={f"({LETTERS[peer]})": used[peer] for peer in peers},
        data={"deliveries_per_second": rates, "ratios": ratios, "cpu_microseconds_a_delivery": cost},
    )


def _cpu_each(trials: Sequence[Cpu], rates: Sequence[float]) -> float:
    """Return the median of the server's CPU seconds for a delivery, which no reader can hold back."""
    return statistics.median(cpu.used["server"] / cpu.seconds / rate for cpu, rate in zip(trials, rates, strict=True))


def open_streams(readers: Readers, server: Server, count: int) -> None:
    """Open streams that wait for what is new."""
    requests = server.handshakes(count) if server.stream_path else [b"S"] * count
    readers.open(server.name, server.address, requests, server.ready, at_once=200)
    readers.begin(server.name)


def one_at_a_time(readers: Readers, server: Server) -> float:
    """Return deliveries/s where an event is posted when every connection has the last one."""
    rounds, seconds = strict_rounds(readers, server, SECONDS)
    return rounds * CONNECTIONS / seconds


def strict_rounds(readers: Readers, server: Server, seconds: float) -> tuple[int, float]:
    """Post an event whenever every connection has the last one; return how many, and in how many seconds."""
    bare = not server.post_path
    return readers.rounds(server.name, server.address, b"1" if bare else server.post(), seconds, answers=not bare)


def drain(readers: Readers, loop: Server) -> float:
    """Return frames/s of the bare send loop with fifty joined: what these readers can take at the least."""
    rounds, seconds = readers.rounds(loop.name, loop.address, b"5", SECONDS, answers=False, frames=JOINED, window=2)
    return rounds * CONNECTIONS * JOINED / seconds


def together(readers: Readers, server: Server) -> float:
    """Return deliveries/s of 16 sources in a closed loop; what nchan loses is not counted."""
    readers.begin(server.name)
    posted = load.closed_loop(server.address, server.post(), SOURCES, SECONDS)
    last = readers.wait(server.name, posted.posted, 5.0, partial=server.name == "nchan")
    return readers.total(server.name) / (last - posted.begun)
