"""One worker and two, offered more than one can carry."""

from __future__ import annotations

import os
import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.cpu import Cpu, shares
from benchmarks.fanout import CONNECTIONS, TRIALS, open_streams
from benchmarks.latency import offer_batches
from benchmarks.readers import Readers
from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from benchmarks.nodes import Bench

OFFERED = 5_000_000
SECONDS = 1.2


def workers(bench: Bench) -> list[Row]:
    """Batches to 500 connections, by one worker and by two."""
    with ExitStack() as stack:
        nodes = {count: stack.enter_context(bench.node(name=f"{count} workers", workers=count)) for count in (1, 2)}
        readers = stack.enter_context(Readers())
        rates: dict[int, list[float]] = {count: [] for count in nodes}
        cpus: dict[int, list[Cpu]] = {count: [] for count in nodes}
        for node in nodes.values():
            open_streams(readers, node, CONNECTIONS)
        for _ in range(TRIALS):
            for count, node in nodes.items():
                with bench.cpu(node, readers.pid) as cpu:
                    reached, _ = offer_batches(readers, node, OFFERED, SECONDS)
                rates[count].append(reached)
                cpus[count].append(cpu)
        for node in nodes.values():
            readers.verify(node.name)
    ratio = median_ratio(rates[2], rates[1])
    used = {count: shares(trials) for count, trials in cpus.items()}
    busy = ", ".join(
        f"{sum(used[count].values()):.2f} with {count} (others {used[count]['others']:.2f})" for count in nodes
    )
    return [
        Row(
            f"two workers: batches to {CONNECTIONS}, {OFFERED:,}/s offered",
            f"{statistics.median(rates[2]):,.0f} deliveries/s",
            [
                f"{ratio:.2f} x one worker {statistics.median(rates[1]):,.0f}",
                f"of {os.cpu_count()} cores were busy: {busy}",
            ],
            [(">= 1.3 x one worker", ratio >= 1.3)],
            used[2],
            {"1 worker": used[1]},
            {"deliveries_per_second": rates},
        )
    ]
