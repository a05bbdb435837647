"""The metrics of the service, in Prometheus' text format at ``/metrics``.

Labels are closed sets (codes, reasons, tasks), never subjects, topics or addresses: a label that a
client can choose would grow without bound, and would leak.

Several workers keep their metrics in files of one shared folder, and each of them answers with the
metrics of all: counters and gauges are added up; of positions in the log it is the lowest. A worker
that is restarted continues the files, and so the counters, of its predecessor. They are named after
the worker, not after the process, or each restart would leave a set of files behind.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The library's own variable: if it is set when the library is imported, metrics are kept in
files."""

_process = multiprocessing.current_process().name
_shared = _FOLDER in os.environ and _process != "MainProcess"
if _shared:  # before the first metric is made
    values.ValueClass = values.MultiProcessValue(lambda: _process)  # type: ignore[no-untyped-call] # it has no types

HTTP_ERRORS = Counter("tocsin_http_errors", "Requests answered with a problem document.", ["code"])
ALERTS_STORED = Counter("tocsin_alerts_stored", "Alerts that were committed.")
ALERTS_REPEATED = Counter("tocsin_alerts_repeated", "Alerts that repeated an unresolved one.")
ALERTS_REPLAYED = Counter("tocsin_alerts_replayed", "Requests answered from their Idempotency-Key.")
COMMIT_RECOVERIES = Counter("tocsin_commit_recoveries", "Commits whose outcome was unknown and had to be looked up.")
COMMIT_SECONDS = Histogram("tocsin_commit_seconds", "Time of the commit of one batch.")
COMMIT_BATCH = Histogram(
    "tocsin_commit_batch_alerts", "Alerts in one commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
COMMIT_QUEUE = Gauge("tocsin_commit_queue_alerts", "Alerts that wait for a commit.", multiprocess_mode="livesum")
DATABASE_FAILURES = Counter(
    "tocsin_database_failures", "Failures of PostgreSQL that pass, each answered 503 or tried again.", ["reason"]
)
CONNECTIONS = Gauge("tocsin_connections", "Open streams on this node.", multiprocess_mode="livesum")
CONNECTIONS_LAGGING = Gauge(
    "tocsin_connections_lagging", "Streams that replay, or whose socket is full.", multiprocess_mode="livesum"
)
HANDSHAKES_REJECTED = Counter("tocsin_handshakes_rejected", "Streams that were rejected at the handshake.", ["reason"])
STREAM_CLOSES = Counter("tocsin_stream_closes", "Streams that this service closed.", ["reason"])
DELIVERIES = Counter("tocsin_deliveries", "Events that were written to a socket.")
REPLAYED_DELIVERIES = Counter(
    "tocsin_replayed_deliveries", "Events that were written to a socket while its stream first caught up."
)
RECEIPTS = Counter("tocsin_receipts", "Receipts from clients.")
SIGHTINGS = Counter("tocsin_sightings", "Alerts that clients reported as seen, again or not.")
FANOUT_PASSES = Counter("tocsin_fanout_passes", "Fan-out passes.")
FANOUT_SEQ = Gauge("tocsin_fanout_seq", "The last event that this node has fanned out.", multiprocess_mode="livemin")
HISTORY_CHANGES = Counter(
    "tocsin_history_changes", "Times that this node found another history in the log than the one it followed."
)
SEARCH_LAG = Gauge(
    "tocsin_search_lag_events",
    "Positions of the log by which the search index was behind the last alert when this node last looked.",
    multiprocess_mode="livemax",
)
LOG_READS = Counter("tocsin_log_reads", "Reads of the log, for the fan-out and for connections that resume.")
LEDGER_FLUSH_SECONDS = Histogram("tocsin_ledger_flush_seconds", "Time of one flush of the ledger.")
LEDGER_PENDING_RECORDS = Gauge(
    "tocsin_ledger_pending_records", "Records that wait to be written to the ledger.", multiprocess_mode="livesum"
)
PERIODIC_TASK_SECONDS = Summary(
    "tocsin_periodic_task_seconds", "Runs of periodic tasks, and the time they took.", ["task"]
)
PERIODIC_TASK_FAILURES = Counter(
    "tocsin_periodic_task_failures", "Runs of periodic tasks that failed and are tried again.", ["task"]
)
LEDGER_FLUSH_FAILURES = Counter(
    "tocsin_ledger_flush_failures", "Flushes of the ledger that failed and are tried again."
)


@contextmanager
def shared_by_workers() -> Iterator[None]:
    """Let the processes that are started in the block share their metrics."""
    with tempfile.TemporaryDirectory(prefix="tocsin-metrics-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def drop_worker(name: str) -> None:
    """Drop the gauges of a worker that has ended, like its connections and queues."""
    mark_process_dead(name)  # type: ignore[no-untyped-call] # it has no types


def exposition() -> Response:
    """Render all metrics: of this process, or of all workers together."""
    registry = REGISTRY
    if _shared:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # it has no types
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
