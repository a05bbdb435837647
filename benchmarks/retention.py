"""``python -m benchmarks.retention``: how long a POST takes while four of five million events are purged.

A node purges by itself what is older than a few seconds: four partitions of the log, which were filled before it
began, and their alerts. The fifth is kept by the date of its links. Clients post at a steady rate all the time; a POST
is measured from when it was due, so that one that had to wait for those before it counts in full.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import load
from benchmarks.fill import fill
from benchmarks.nodes import bench, sql

if TYPE_CHECKING:
    from benchmarks.load import Address
    from benchmarks.nodes import Bench

MILLION = 1_000_000
CLIENTS = 16
PAUSE_SECONDS = 30
"""Before the node looks for what is old: the POSTs of that time are those before."""
AFTER_SECONDS = 30
PATIENCE = 3600

_LINKS = """
INSERT INTO log_chain (last_seq, first_seq, last_id, linked_at, hash)
SELECT last_seq, greatest(last_seq / 10000 * 10000, 2), last_seq,
       CASE WHEN last_seq < $2 THEN now() ELSE now() + interval '1 d' END, sha256(int8send(last_seq))
FROM (SELECT least(n * 10000 - 1, $1::bigint) AS last_seq FROM generate_series(1, $1::bigint / 10000 + 1) AS n) AS links
"""
_STATE = """
SELECT count(*) FILTER (WHERE dropped_at IS NOT NULL), coalesce(sum(alerts), 0)::bigint,
       extract(epoch FROM min(at))::float8
FROM retention_runs
"""


@dataclass
class Posts:
    """What the clients saw: when each POST was due, on the wall clock, and how many seconds it took."""

    taken: list[tuple[float, float]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def run(self, address: Address, request: bytes, rate: float) -> None:
        """Post until asked to stop."""
        try:
            self._run(address, request, rate)
        except BaseException as error:  # noqa: BLE001 - for the thread that waits
            self.error = error

    def _run(self, address: Address, request: bytes, rate: float) -> None:
        wall = time.time() - time.perf_counter()
        with load.open_sources(address, request, CLIENTS) as (sources, epoll):
            free = deque(sources.values())
            due = time.perf_counter()
            while not self.stop.is_set() or len(free) < CLIENTS:
                now = time.perf_counter()
                while due <= now and free and not self.stop.is_set():
                    source = free.popleft()
                    source.due = due
                    source.post()
                    due += 1 / rate
                for number, _ in epoll.poll(max(0.0, min(due - now, 0.05)) if free else 0.05):
                    source = sources[number]
                    if source.answer() is not None:
                        self.taken.append((wall + source.due, time.perf_counter() - source.due))
                        free.append(source)

    def between(self, begin: float, end: float) -> str:
        """Return the percentiles of the POSTs that were due then."""
        seconds = sorted(taken for due, taken in self.taken if begin <= due < end)
        cuts = statistics.quantiles(seconds, n=1000, method="inclusive")
        p50, p99, p999 = (cuts[n - 1] * 1e3 for n in (500, 990, 999))
        return (
            f"{len(seconds):>8,} POSTs: p50 {p50:.1f} ms, p99 {p99:.1f} ms, p99.9 {p999:.1f} ms,"
            f" max {seconds[-1] * 1e3:.0f} ms"
        )


def purge_under_load(made: Bench, millions: int, rate: float) -> None:
    """Fill a log, let all but its last million go while clients post, and print what they saw."""
    with made.node() as first:
        load.closed_loop(first.address, first.post(), 1, 0.0)
        database = first.database
    events, going = millions * MILLION, (millions - 1) * MILLION
    asyncio.run(fill(database, events))
    sql(database, "DELETE FROM log_chain WHERE last_seq > 1")
    sql(database, _LINKS, events, going)
    settings = {
        "TOCSIN_RETENTION_DAYS": str(5 / 86400),
        "TOCSIN_RETENTION_INTERVAL_SECONDS": str(PAUSE_SECONDS),
    }
    posts = Posts()
    with made.node(database, variables=settings) as node:
        thread = threading.Thread(target=posts.run, args=(node.address, node.post(), rate))
        thread.start()
        begun = time.time()
        try:
            ended = _await_purge(database, millions - 1, going, posts)
            time.sleep(AFTER_SECONDS)
        finally:
            posts.stop.set()
            thread.join()
    purged = sql(database, _STATE)[0][2]
    head, count = sql(database, "SELECT max(seq), count(*) FROM events")[0]
    print(f"{going:,} of {events:,} events and their alerts were purged in {ended - purged:.0f} s; {rate:.0f} POSTs/s.")
    print(f"before  {posts.between(begun + 2, purged)}")
    print(f"during  {posts.between(purged, ended)}")
    print(f"after   {posts.between(ended, ended + AFTER_SECONDS)}")
    for name, at in sql(
        database, "SELECT 'partition ' || last_seq, extract(epoch FROM dropped_at)::float8 FROM retention_runs"
    ):
        print(f"        dropped {name} after {at - purged:.1f} s")
    print(f"The log holds {count:,} events to {head:,}: {'no hole' if count == head - going + 1 else 'A HOLE'}.")


def _await_purge(database: str, partitions: int, alerts: int, posts: Posts) -> float:
    """Wait until all went, and return when."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if posts.error is not None:
            raise RuntimeError("a POST failed") from posts.error
        dropped, gone, _ = sql(database, _STATE)[0]
        if dropped == partitions and gone == alerts - 1:
            return time.time()
        time.sleep(0.5)
    raise TimeoutError("the purge takes longer than an hour")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description=__doc__)
    parser.add_argument("--millions", type=int, default=5, help="events in the log; all but the last million go")
    parser.add_argument("--rate", type=float, default=300, help="POSTs a second")
    arguments = parser.parse_args()
    with bench(0) as made:
        purge_under_load(made, arguments.millions, arguments.rate)


if __name__ == "__main__":
    main()
