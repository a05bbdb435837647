"""The service's own figures, in Prometheus' text format at ``/metrics``.

Labels are closed sets (codes, reasons), never subjects, topics or addresses: a label a caller can choose would grow
without bound, and would leak.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

REFUSALS = Counter("tocsin_refusals", "Requests answered with a problem document.", ["code"])
ALERTS_STORED = Counter("tocsin_alerts_stored", "Alerts that were committed.")
ALERTS_REPLAYED = Counter("tocsin_alerts_replayed", "Requests answered from their Idempotency-Key.")
COMMITS_SETTLED = Counter("tocsin_commits_settled", "Commits whose outcome was unknown and was asked for.")
COMMIT_SECONDS = Histogram("tocsin_commit_seconds", "Time of one commit of a batch.")
COMMIT_BATCH = Histogram(
    "tocsin_commit_batch_alerts", "Alerts in one commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
COMMIT_QUEUE = Gauge("tocsin_commit_queue_alerts", "Alerts that wait for a commit.")
CONNECTIONS = Gauge("tocsin_connections", "Streams that are open on this node.")
CONNECTIONS_LAGGING = Gauge("tocsin_connections_lagging", "Streams whose socket is full or that replay.")
HANDSHAKES_REFUSED = Counter("tocsin_handshakes_refused", "Streams that were refused at the handshake.", ["reason"])
CLOSES = Counter("tocsin_closes", "Streams that this service closed.", ["reason"])
DELIVERIES = Counter("tocsin_deliveries", "Events that were written to a socket.")
RECEIPTS = Counter("tocsin_receipts", "Acknowledgements by clients.")
FANOUT_PASSES = Counter("tocsin_fanout_passes", "Fan-out passes.")
LOG_POSITION = Gauge("tocsin_log_position", "The last event that this node has fanned out.")
LOG_READS = Counter("tocsin_log_reads", "Reads of the log, for the fan-out and for connections that resume.")
LEDGER_FLUSH_SECONDS = Histogram("tocsin_ledger_flush_seconds", "Time of one flush of the ledger.")
LEDGER_PENDING = Gauge("tocsin_ledger_pending", "Facts that wait for the ledger to be flushed.")
LEDGER_FLUSH_FAILURES = Counter("tocsin_ledger_flush_failures", "Flushes that failed and are tried again.")


def exposition() -> Response:
    """Render all metrics."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
