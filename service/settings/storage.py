"""Settings of what is stored: the database, the ledger, and how long they keep it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from service.settings.group import SettingsGroup
from service.settings.parsing import Seconds

EVENT_MAX_BYTES = 32 * 1024
"""What clients of other languages read by default, such as coder/websocket in Go."""


class StorageSettings(SettingsGroup):
    """PostgreSQL, and the group commit in front of it."""

    database_url: SecretStr | None = None
    """``postgresql://…`` of the database to use; without it an embedded PostgreSQL 18 is
    started."""
    listen_url: SecretStr | None = None
    """``postgresql://…`` of the same database without a connection pooler in between, for LISTEN and
    for commands. Set it where ``TOCSIN_DATABASE_URL`` leads through a pooler, such as PgBouncer (see
    [high availability](high-availability.md#connection-poolers))."""
    auditor_url: SecretStr | None = None
    """``postgresql://…`` with which ``tocsin sql --auditor`` logs in, as ``tocsin_auditor`` or a member of it. By
    default it is that role without a password, which only the embedded PostgreSQL allows."""
    database_node_connections: int = Field(4, ge=1)
    """Connections for the node's own tasks and for revocations. The committer, LISTEN and the ledger
    have one each beside them."""
    database_read_connections: int = Field(6, ge=1)
    """Connections for lists of alerts and for streams that start or replay. One subject may hold
    half of them."""
    database_audit_connections: int = Field(2, ge=1)
    """Connections for ``/v1/audit`` and the deliveries of alerts. One subject may hold half of
    them."""
    database_queue_size: int = Field(2_000, ge=1)
    """Reads that may be under way or wait for a connection, half of them of one subject; further
    ones are answered 503 ``too_many_queries``. For the audit it is eight for each of its
    connections."""
    database_timeout_seconds: Seconds = 10
    """How long one statement, and all queries of one request, may take; longer ones are answered
    503 ``query_timeout``."""
    report_timeout_seconds: Seconds = 60
    """The same for ``/v1/audit/report``, which counts all deliveries of its period."""
    database_connect_timeout_seconds: Seconds = 3
    """How long connecting may take before the database is considered unreachable, and how long a
    query waits for a connection."""
    commit_batch_size: int = Field(500, ge=1, le=5000)
    """The largest number of alerts that one transaction stores."""
    commit_queue_size: int = Field(10_000, ge=1)
    """How many alerts may wait for a commit; further ones are answered 503."""
    commit_queue_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """How many bytes of alerts may wait for a commit; further alerts are answered 503."""
    commit_recovery_timeout_seconds: Seconds = 8
    """How long the outcome of an interrupted commit is looked for before the answer is 503
    ``outcome_unknown``."""
    idempotency_key_ttl_hours: float = Field(24, gt=0, le=8760)
    """How long an ``Idempotency-Key`` is remembered."""
    event_max_bytes: int = Field(EVENT_MAX_BYTES, ge=16 * 1024)
    """The largest ``event`` frame, of whatever kind, that an alert may lead to; ``welcome`` announces it as
    ``event_bytes``. An alert is answered 413 if its JSON is larger than this less 6 KiB, which are for
    what the service adds and for a comment. Events that are stored are sent as they are, whatever
    the setting is now."""


class LedgerSettings(SettingsGroup):
    """The delivery ledger."""

    ledger_flush_seconds: Seconds = 0.2
    """How often the ledger is written."""
    ack_coalesce_seconds: float = Field(0.01, ge=0)
    """Acks of one connection within this time become one receipt, with the time of the last."""
    ledger_pending_max: int = Field(100_000, ge=1)
    """Records that may wait for the database; beyond it handshakes are answered 1013
    ``overloaded``."""
    resume_points_per_recipient: int = Field(100, ge=1)
    """Resume points of one recipient: one for each filter, and for each ``consumer`` and filter. A further
    one takes the place of one without a name that was not used for a day, or is refused
    ``consumer_limit``."""
    resume_point_days: float = Field(90, gt=0)
    """How long a resume point is kept that no stream uses. A consumer that comes back later begins at the
    head of the log."""
    source_stats_max: int = Field(10_000, ge=1)
    """Sources that are counted separately between two flushes; all others are counted as one,
    without a name."""
    node_lease_seconds: Seconds = 10
    """How long this node may be silent before another closes its connections as ``node_lost``. It sends
    no event once it was silent for as long, until it has written the ledger again."""
    housekeeping_interval_seconds: Seconds = 5
    """How often lost nodes are detected, and expired idempotency keys and revocations purged."""


class RetentionSettings(SettingsGroup):
    """How long the log and the ledger are kept."""

    retention_days: float | None = Field(None, gt=0)
    """Events older than this are purged, and recorded in ``audit.retention_runs``. Unset:
    everything is kept."""
    retention_interval_seconds: Seconds = 3600
    """How often one of the nodes purges."""
    partition_events: int = Field(1_000_000, ge=10_000, multiple_of=10_000)
    """Events per partition of the log, a multiple of 10,000. Whole partitions are purged, so
    several should fill within the retention time. A new size applies to new partitions. At most 64
    are created ahead, so small ones leave less room for a flood of alerts."""
    archive_dir: Path | None = None
    """A folder that all nodes share, to which partitions are archived before they are purged. A
    partition that cannot be archived is kept."""
