"""The SQL that writes the ledger.

Each statement takes its rows as one JSON array: one round trip, however many rows.
The rows are read with the row type of their table (``json_populate_recordset``), so a column is
named once in ``tables.py``, and once in ``records.py``, where its value comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import TextClause, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

# ``seen_at`` is a time for people. What the other nodes observe is only that it changes (``lost_nodes.py``).
# Both return whether the log holds the node's position, and nothing where the node has ended, or where its row does
# not know of the last flush that was confirmed: a failover lost it, though perhaps no event, so what the rows of the
# node's connections say is no longer what it wrote. A registration can be repeated.
REGISTER_NODE = text(
    """
    INSERT INTO nodes (id, host, pid, started_at, seen_at, sent_seq, flush, lease_seconds)
    VALUES (:id, :host, :pid, clock_timestamp(), clock_timestamp(), :sent_seq, :flush, :lease_seconds)
    ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), sent_seq = excluded.sent_seq, flush = excluded.flush
    WHERE nodes.ended_at IS NULL
    RETURNING log_holds(:sent_seq, :sent_id)
    """
)
RENEW_NODE = text(
    """
    UPDATE nodes SET seen_at = clock_timestamp(), sent_seq = :sent_seq, flush = :flush
    WHERE id = :id AND ended_at IS NULL AND flush >= :confirmed_flush
    RETURNING log_holds(:sent_seq, :sent_id)
    """
)
LOG_HOLDS = text("SELECT log_holds(:seq, :id)")
END_NODES = text("SELECT end_nodes(cast(:ids AS uuid[]), :reason)")

# See alembic/sql/resume_points.sql.
BEGIN_RESUME_POINT = text(
    """
    SELECT seq, event_id, sent_seq, cast(polled_on AS text), polled_seq,
           polled_on IS NOT NULL AND NOT EXISTS (
               SELECT FROM connections c WHERE c.id = polled_on AND c.node_id = :own_node
           ) AS polled_elsewhere
    FROM begin_resume_point(:recipient, cast(:token_topics AS text[]), :consumer, cast(:topics AS text[]),
                            cast(:min_severity AS severity), :start, :head_seq, :head_id, :points_max)
    """
)
ADVANCE_RESUME_POINTS = text("SELECT advance_resume_points(cast(:streams AS json), :points_max)")
# Where the history of the log changed under a point: its clients are sent a reset, and go on at another position.
MOVE_RESUME_POINT = text(
    """
    UPDATE resume_points SET seq = :seq, event_id = :id, sent_seq = :seq
    WHERE recipient = :recipient AND consumer = :consumer AND event_id = :void_id
      AND filter_key = filter_key(cast(:topics AS text[]), cast(:min_severity AS severity))
    """
)
DELETE_UNUSED_RESUME_POINTS = text(
    """
    DELETE FROM resume_points p
    WHERE used_at < clock_timestamp() - make_interval(secs => :age) AND NOT EXISTS (
        SELECT FROM connections c WHERE c.recipient = p.recipient AND c.consumer = p.consumer AND c.closed_at IS NULL
    )
    """
)

# See ``flush_requests.py``.
FLUSHES_CHANNEL = "tocsin_ledger_flushes"
REQUEST_FLUSH = text(f"SELECT notify_nodes('{FLUSHES_CHANNEL}', :node)")
FIND_HOLDER = text(
    """
    SELECT cast(n.id AS text) AS id, n.flush FROM connections c JOIN nodes n ON n.id = c.node_id
    WHERE c.id = :connection AND n.ended_at IS NULL
    """
)

# For an ack of a connection that this node does not hold: up to where it counts, which is no
# further than the ledger knows was sent, and whether that is further than the last receipt. The
# token must cover all that the connection was sent: a pattern is like those that cover it.
FIND_CONFIRMED = text(
    """
    SELECT least(:seq, coalesce(c.sent_seq, n.sent_seq)) AS seq,
           cast(c.id AS text), c.recipient, c.consumer, c.topics, c.min_severity, c.after_seq, c.has_cursor,
           coalesce(c.sent_seq, n.sent_seq) AS sent_seq,
           least(:seq, coalesce(c.sent_seq, n.sent_seq))
               > greatest(c.after_seq, (SELECT max(r.seq) FROM receipts r WHERE r.connection_id = c.id)) AS is_news
    FROM connections c JOIN nodes n ON n.id = c.node_id
    WHERE c.id = :connection AND c.recipient = :recipient AND NOT EXISTS (
        SELECT FROM unnest(c.topics) AS pattern WHERE pattern NOT LIKE ALL (topic_likes(cast(:topics AS text[])))
    )
    """
)

PRESENCE_CHANNEL = "tocsin_presence"
NOTIFY_PRESENCE = text(f"SELECT notify_nodes('{PRESENCE_CHANNEL}', '')")


def _upsert(table: str, on_conflict: str) -> TextClause:
    return text(
        f"INSERT INTO {table} AS known SELECT * FROM json_populate_recordset(NULL::{table}, cast(:rows AS json))"  # noqa: S608 - constants
        f" ON CONFLICT {on_conflict}"
    )


UPSERTS = {
    "connections": _upsert(
        "connections",
        """(id) DO UPDATE SET
            jti = excluded.jti, token_expires_at = excluded.token_expires_at, sent_seq = excluded.sent_seq,
            live_seq = excluded.live_seq
        WHERE known.closed_at IS NULL""",
    ),
    "recipients": _upsert(
        "recipients",
        """(id) DO UPDATE SET
            topics = CASE WHEN excluded.topics_at IS NULL THEN known.topics ELSE excluded.topics END,
            topics_at = coalesce(excluded.topics_at, known.topics_at),
            first_seen_seq = least(known.first_seen_seq, excluded.first_seen_seq),
            last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at)""",
    ),
    "subject_names": _upsert(
        "subject_names",
        """(subject) DO UPDATE SET
            name = excluded.name, issued_at = excluded.issued_at, named_at = greatest(known.named_at, excluded.named_at)
        WHERE known.issued_at <= excluded.issued_at""",
    ),
    "handshake_rejections": _upsert("handshake_rejections", "DO NOTHING"),
    # Totals, which can be written again: those of a node only rise.
    "rejection_hours": _upsert(
        "rejection_hours",
        """(node_id, hour, reason) DO UPDATE SET rejections = greatest(known.rejections, excluded.rejections)""",
    ),
    # Counts add up, so these rows alone must not be written twice.
    "source_hours": _upsert(
        "source_hours",
        """(source, hour) DO UPDATE SET
            alerts = known.alerts + excluded.alerts, repeated = known.repeated + excluded.repeated,
            replayed = known.replayed + excluded.replayed, refused = known.refused + excluded.refused,
            first_at = least(known.first_at, excluded.first_at), last_at = greatest(known.last_at, excluded.last_at)""",
    ),
}
"""The statement for each table whose rows may still change."""

# Rows that never change again are written by one function, which chains them. It comes last,
# because it takes a lock.
_FINAL = ("closings", "dispatches", "receipts", "sightings")
WRITE_LEDGER = text(f"SELECT write_ledger({', '.join(f'cast(:{name} AS json)' for name in _FINAL)})")


async def advance_resume_points(tx: AsyncConnection, streams: Sequence[Any], points_max: int) -> None:
    """Move the resume points of these streams, as far as they were sent everything and it was acknowledged."""
    await tx.execute(ADVANCE_RESUME_POINTS, {"streams": orjson.dumps(streams).decode(), "points_max": points_max})


async def write_final(tx: AsyncConnection, rows: Mapping[str, Sequence[Any]]) -> None:
    """Write the rows that never change again, by the parameter of ``write_ledger``, if any."""
    if any(rows.values()):
        await tx.execute(WRITE_LEDGER, {name: orjson.dumps(rows.get(name, ())).decode() for name in _FINAL})
