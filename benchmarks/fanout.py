"""Fan-out to 500 connections: one event at a time, and events that arrive together."""

from __future__ import annotations

import statistics
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import baselines, load
from benchmarks.cpu import Cpu, shares
from benchmarks.peers.nchan import NOT_INSTALLED
from benchmarks.readers import Readers
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.nodes import Bench
    from benchmarks.servers import Server

CONNECTIONS = 500
POSTERS = 16
TRIALS = 3
SECONDS = 1.5
JOINED = 50
LETTERS = {"send_loop": "b", "tutorial": "a", "nchan": "d"}


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
        drained = drain(readers, loop)
        for server in servers:
            readers.verify(server.name, numbered=server in (ours, tutorial))
        servers.remove(loop)
        joined = _compare(bench, readers, servers, together, f"{POSTERS} posters, together")
        readers.verify(ours.name)
    strict.ratios.append(f"these readers drain {drained:,.0f}/s of (b), {JOINED} joined")
    strict.data["drained_per_second"] = drained
    for peer, times in (("send_loop", 0.5), ("tutorial", 2.2), ("nchan", 0.9)):
        if peer in strict.data["ratios"]:
            strict.targets.append((f">= {times} x ({LETTERS[peer]})", strict.data["ratios"][peer] >= times))
    return [strict, joined]


def _compare(
    bench: Bench, readers: Readers, servers: Sequence[Server], trial: Callable[[Readers, Server], float], name: str
) -> Row:
    """Run trials in turns and return the row of the first server."""
    rates: dict[str, list[float]] = defaultdict(list)
    cpus: dict[str, list[Cpu]] = defaultdict(list)
    for _ in range(TRIALS):
        for server in servers:
            with bench.cpu(server, readers.pid) as cpu:
                rates[server.name].append(trial(readers, server))
            cpus[server.name].append(cpu)
    ours, *peers = (server.name for server in servers)
    ratios = {peer: median_ratio(rates[ours], rates[peer]) for peer in peers}
    lines = [f"{ratio:.2f} x ({LETTERS[peer]}) {statistics.median(rates[peer]):,.0f}" for peer, ratio in ratios.items()]
    if "nchan" not in ratios:
        lines.append(f"(d) {NOT_INSTALLED}")
    used = {server: shares(trials) for server, trials in cpus.items()}
    return Row(
        f"fan-out to {CONNECTIONS}, {name}",
        f"{statistics.median(rates[ours]):,.0f} deliveries/s",
        lines,
        cpu=used[ours],
        data={"deliveries_per_second": rates, "ratios": ratios, "cpu": used},
    )


def open_streams(readers: Readers, server: Server, count: int) -> None:
    """Open streams that wait for what is new."""
    requests = [b"S"] * count if server.name == "send_loop" else server.handshakes(count)
    readers.open(server.name, server.address, requests, server.ready)
    readers.begin(server.name)


def one_at_a_time(readers: Readers, server: Server) -> float:
    """Return deliveries/s where an event is posted when every connection has the last one."""
    bare = server.name == "send_loop"
    request = b"1" if bare else server.post()
    rounds, seconds = readers.rounds(server.name, server.address, request, SECONDS, answers=not bare)
    return rounds * CONNECTIONS / seconds


def drain(readers: Readers, loop: Server) -> float:
    """Return frames/s of the bare send loop with fifty joined: what these readers can take at the least."""
    rounds, seconds = readers.rounds(loop.name, loop.address, b"5", SECONDS, answers=False, frames=JOINED, window=2)
    return rounds * CONNECTIONS * JOINED / seconds


def together(readers: Readers, server: Server) -> float:
    """Return deliveries/s of 16 posters in a closed loop; nchan may lose some, and those are not counted."""
    readers.begin(server.name)
    load_of_trial = load.closed_loop(server.address, server.post(), POSTERS, SECONDS)
    last = readers.wait(server.name, load_of_trial.posted, 5.0, partial=server.name == "nchan")
    return readers.total(server.name) / (last - load_of_trial.begun)
