"""The views of the schema ``audit``, what they are answered from, and the role that may read them.

The ledger keeps a range a connection, not a row a delivery; these views turn the ranges back into rows. What makes them
quick over a long log:

- A condition on ``occurred_at`` finds its events in an index of the time (BRIN: it costs an append next to nothing).
- Which connections an event went to is a question of ranges, ``after_seq < seq <= sent_seq``, which PostgreSQL can only
  answer by comparing every event with every connection. ``deliveries`` therefore also says which blocks of 100,000
  events a connection touches: that is an equality, which it can hash.
- Patterns of topics are turned into patterns of LIKE once a connection, not once an event (``topic_likes``).
- ``unreceived`` asks of millions of pairs of an alert and an admin. It joins an admin's ranges first: connections of
  one filter that follow one upon the other are one range.

A function that a view uses runs with the rights of whoever asks, so none of these reads a table.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from alembic import op
from service.logs import get_logger

revision = "0007"
down_revision = "0006"

log = get_logger(__name__)
HERE = Path(__file__)

TOPIC_LIKES = r"""
CREATE FUNCTION topic_likes(topics text[]) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT coalesce(array_agg(
        CASE WHEN pattern = '*' THEN '%'
             WHEN right(pattern, 2) = '.*' THEN replace(left(pattern, -1), '_', '\_') || '%'
             ELSE replace(pattern, '_', '\_') END
    ), '{}') FROM unnest(topics) AS pattern
)
"""

# An expression without a query of its own: the planner puts it into the query in place of the call, which for ten
# thousands of events is the difference between milliseconds and a tenth of a second.
FILTER_MATCHES = """
CREATE FUNCTION filter_matches(
    likes text[], min_severity severity, recipient text,
    event_topic text, event_severity severity, event_recipients text[]
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN event_severity >= min_severity
   AND (event_recipients IS NULL OR recipient = ANY (event_recipients))
   AND event_topic LIKE ANY (likes)
"""

EVENT_MATCHES = """
CREATE OR REPLACE FUNCTION event_matches(
    topics text[], min_severity severity, recipient text,
    event_topic text, event_severity severity, event_recipients text[]
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN filter_matches(topic_likes(topics), min_severity, recipient, event_topic, event_severity, event_recipients)
"""

# Not inlined, being STRICT, so that the planner believes ROWS. A connection touches two or three blocks; it is told of
# more, so that of a few events it asks which connections cover them before it asks each connection for its blocks.
LOG_BLOCKS = """
CREATE FUNCTION log_blocks(after_seq bigint, up_to_seq bigint) RETURNS SETOF bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 60
RETURN generate_series(after_seq / 100000, up_to_seq / 100000)
"""

# Asked of a connection `c`, once: its topics as LIKE has them, and up to where it has dispatches of its own. OFFSET 0
# keeps the planner from asking it of each event instead.
OF_CONNECTION = """
        SELECT topic_likes(c.topics) AS likes,
               (SELECT max(up_to_seq) FROM dispatches WHERE connection_id = c.id) AS dispatched_seq
        OFFSET 0
    """

# When the event `e` went to the connection `c`: where that replayed or lagged, what it was sent then; otherwise with
# the pass of its node.
SENT_AT = """coalesce(
            CASE WHEN e.seq <= own.dispatched_seq THEN (
                SELECT CASE WHEN after_seq < e.seq THEN at END FROM dispatches
                WHERE connection_id = c.id AND up_to_seq >= e.seq ORDER BY up_to_seq LIMIT 1
            ) END, (
                SELECT CASE WHEN after_seq < e.seq THEN at END FROM dispatches
                WHERE connection_id IS NULL AND node_id = c.node_id AND up_to_seq >= e.seq ORDER BY up_to_seq LIMIT 1
            ))"""


class View(NamedTuple):
    """A view, what it says, and what each of its columns says."""

    name: str
    comment: str
    columns: dict[str, str]
    query: str


DELIVERIES = View(
    "deliveries",
    "One row for each event and each connection that it was sent to. Name an alert_id, or a time of occurred_at, or a"
    " connection: these are looked up; the whole view is as long as the log times the admins.",
    {
        "seq": "position of the event in the log",
        "alert_id": "the alert that the event is about",
        "kind": "what happened to the alert, such as alert.created",
        "topic": "the topic of the alert",
        "severity": "the severity of the alert when the event happened",
        "recipient": "the admin: the subject of the token that opened the connection",
        "connection": "the connection that the event went to",
        "node": "the serving process that sent it",
        "occurred_at": "when the event happened: just before it was committed",
        "sent_at": "when the last of its bytes had gone to the socket",
        "received_at": "when the client acknowledged it; null: not yet, or never",
        "latency": "from sent_at to received_at",
    },
    f"""
    SELECT e.seq, e.alert_id, e.kind, e.topic, e.severity, c.recipient, c.id AS connection, c.node_id AS node,
           e.occurred_at, went.sent_at, went.received_at, went.received_at - went.sent_at AS latency
    FROM connections c
    JOIN nodes n ON n.id = c.node_id AND coalesce(c.sent_seq, n.sent_seq) > c.after_seq
    CROSS JOIN LATERAL ({OF_CONNECTION}) AS own
    CROSS JOIN LATERAL log_blocks(c.after_seq, coalesce(c.sent_seq, n.sent_seq)) AS block (number)
    JOIN events e ON e.seq / 100000 = block.number
                 AND e.seq > c.after_seq AND e.seq <= coalesce(c.sent_seq, n.sent_seq)
                 AND filter_matches(own.likes, c.min_severity, c.recipient, e.topic, e.severity, e.recipients)
    CROSS JOIN LATERAL (
        SELECT {SENT_AT} AS sent_at,
               -- Receipts are cumulative: the first one at or after the event covers it.
               (SELECT received_at FROM receipts
                WHERE connection_id = c.id AND receipts.seq >= e.seq ORDER BY receipts.seq LIMIT 1) AS received_at
        OFFSET 0
    ) AS went
    """,  # noqa: S608 - constants
)

UNRECEIVED = View(
    "unreceived",
    "One row for each alert and each admin who may see it and has acknowledged the receipt of no event of it. Who may"
    " see it: every admin that was ever connected whose last token covers its topic, or, where it names admins, those,"
    " whether they were ever seen or not.",
    {
        "alert_id": "the alert",
        "seq": "position of its first event in the log",
        "topic": "its topic",
        "severity": "its severity now",
        "title": "its title",
        "status": "where it stands now: open, acknowledged, resolved or expired",
        "recipient": "the admin who has not received it",
        "occurred_at": "when it was created",
        "waiting": "how long ago that was",
        "sent_at": "when an event of it was first sent to them, unacknowledged; null: never",
        "covered": "whether their last token covers the topic; false: named, but nothing can reach them; null: named,"
        " and never seen",
    },
    f"""
    WITH RECURSIVE topics AS (
        -- The distinct topics, each found by one look into the index: reading them all would take minutes.
        SELECT min(topic) AS topic FROM alerts
        UNION ALL
        SELECT (SELECT min(alerts.topic) FROM alerts WHERE alerts.topic > topics.topic)
        FROM topics WHERE topic IS NOT NULL
    ), audience AS MATERIALIZED (
        -- Who may see a topic.
        SELECT topic, array_agg(admin.id) AS names
        FROM topics
        JOIN (SELECT id, topic_likes(topics) AS likes FROM recipients OFFSET 0) AS admin ON topic LIKE ANY (admin.likes)
        GROUP BY topic
    ), reach AS (
        -- How much of the log each admin was sent, and has received, through each filter that they ever used. One
        -- connection begins where another ended, so these are few ranges, however many connections there were.
        SELECT c.recipient, c.min_severity, topic_likes(c.topics) AS likes,
               range_agg(int8range(c.after_seq, sent.seq, '(]')) AS sent,
               range_agg(int8range(c.after_seq, least(coalesce(acked.seq, c.after_seq), sent.seq), '(]')) AS received
        FROM connections c
        JOIN nodes n ON n.id = c.node_id
        CROSS JOIN LATERAL (SELECT greatest(c.after_seq, coalesce(c.sent_seq, n.sent_seq)) AS seq) AS sent
        CROSS JOIN LATERAL (SELECT max(seq) AS seq FROM receipts WHERE connection_id = c.id) AS acked
        GROUP BY c.recipient, c.min_severity, c.topics
    ), passage AS (
        -- The same for each topic and severity that a filter lets through, so that events can be hashed to it; what was
        -- received is a row of its own, so that what is joined can be forgotten at once: ranges are bulky to sort.
        SELECT topic, severity, recipient, range.received, range.seqs
        FROM reach
        JOIN topics ON topic LIKE ANY (likes)
        CROSS JOIN LATERAL unnest(enum_range(min_severity, NULL)) AS severity
        CROSS JOIN LATERAL (VALUES (false, reach.sent), (true, reach.received)) AS range (received, seqs)
    ), alert AS (
        -- Who was sent any event of an alert, and who has received one.
        SELECT a.id, a.seq, a.topic, a.recipients, a.created_at,
               array_agg(p.recipient) FILTER (WHERE NOT p.received) AS sent_to,
               coalesce(array_agg(p.recipient) FILTER (WHERE p.received), '{{}}') AS received_by
        FROM alerts a
        LEFT JOIN events e ON e.alert_id = a.id AND e.seq >= a.seq
        LEFT JOIN passage p ON p.topic = a.topic AND p.severity = e.severity AND p.seqs @> e.seq
                           AND (e.recipients IS NULL OR p.recipient = ANY (e.recipients))
        GROUP BY a.id, a.seq, a.topic, a.recipients, a.created_at
    )
    SELECT a.id AS alert_id, a.seq, a.topic, shown.severity, shown.title, shown.status, who.recipient,
           a.created_at AS occurred_at, now() - a.created_at AS waiting,
           CASE WHEN who.recipient = ANY (a.sent_to) THEN (
               SELECT min({SENT_AT})
               FROM events e
               JOIN connections c ON c.recipient = who.recipient AND c.after_seq < e.seq
               JOIN nodes n ON n.id = c.node_id AND e.seq <= coalesce(c.sent_seq, n.sent_seq)
               CROSS JOIN LATERAL ({OF_CONNECTION}) AS own
               WHERE e.alert_id = a.id AND e.seq >= a.seq
                 AND filter_matches(own.likes, c.min_severity, c.recipient, e.topic, e.severity, e.recipients)
           ) END AS sent_at,
           CASE WHEN a.recipients IS NULL OR who.recipient = ANY (audience.names) THEN true
                WHEN EXISTS (SELECT FROM recipients WHERE id = who.recipient) THEN false END AS covered
    FROM alert a
    JOIN alerts shown ON shown.id = a.id
    LEFT JOIN audience ON audience.topic = a.topic
    CROSS JOIN LATERAL (SELECT DISTINCT unnest(coalesce(a.recipients, audience.names))) AS who (recipient)
    WHERE who.recipient <> ALL (a.received_by)
    """,  # noqa: S608 - constants
)

TIMELINE = View(
    "timeline",
    "One row for each thing that happened to an alert, in order of time: its events, each sending and each receipt.",
    {
        "alert_id": "the alert",
        "at": "when it happened",
        "seq": "position in the log of the event that happened, was sent or was received",
        "what": "the kind of the event, such as alert.created; or sent; or received",
        "who": "of an event: the subject that caused it; of sent and received: the admin",
        "connection": "of sent and received: the connection; null of an event",
        "detail": "of an event: severity, status and recipients of the alert since then, and what the kind adds, such"
        " as a comment; of sent: the node; of received: the latency in seconds",
    },
    """
    SELECT alert_id, at, seq, what, who, connection, detail
    FROM (
        SELECT alert_id, occurred_at AS at, seq, 1 AS step, kind AS what, actor AS who, NULL::uuid AS connection,
               (jsonb_build_object('severity', severity, 'status', body ->> 'status', 'recipients', recipients)
                || coalesce(extra::jsonb, '{}'))::json AS detail
        FROM events
        UNION ALL
        SELECT d.alert_id, step.at, d.seq, step.number, step.what, d.recipient, d.connection, step.detail
        FROM audit.deliveries d
        CROSS JOIN LATERAL (VALUES
            (2, 'sent', d.sent_at, json_build_object('node', d.node)),
            (3, 'received', d.received_at, json_build_object('latency', extract(epoch FROM d.latency)))
        ) AS step (number, what, at, detail)
        WHERE step.at IS NOT NULL
    ) AS happened
    ORDER BY at, seq, step
    """,
)

# The start of the minute, written so that it is immutable and can be indexed: date_trunc depends on the time zone.
MINUTE = "date_bin('00:01:00'::interval, occurred_at, '2000-01-01 00:00:00+00'::timestamptz)"

LATENCY = View(
    "latency",
    "How long deliveries took, for each minute, topic and severity: from the event to the socket, and from there to the"
    " acknowledgement. An admin who was away is sent late what was missed, and counts; so look at p50 and p95 first.",
    {
        "minute": "the minute in which the events happened: its start",
        "topic": "the topic of the alerts",
        "severity": "the severity of the alerts when the events happened",
        "deliveries": "how many deliveries there were: one for each event and connection",
        "sent_p50": "seconds from the event, just before its commit, until its last byte had gone to the socket: half"
        " of the deliveries took no longer",
        "sent_p95": "the same: 95 of 100 took no longer",
        "sent_p99": "the same: 99 of 100 took no longer",
        "received": "how many of the deliveries were acknowledged",
        "received_p50": "seconds from the socket until the acknowledgement: half of those took no longer",
        "received_p95": "the same: 95 of 100 took no longer",
        "received_p99": "the same: 99 of 100 took no longer",
    },
    f"""
    SELECT minute, topic, severity, deliveries, extract(epoch FROM sent[1])::float8 AS sent_p50,
           extract(epoch FROM sent[2])::float8 AS sent_p95, extract(epoch FROM sent[3])::float8 AS sent_p99,
           received, extract(epoch FROM took[1])::float8 AS received_p50,
           extract(epoch FROM took[2])::float8 AS received_p95, extract(epoch FROM took[3])::float8 AS received_p99
    FROM (
        SELECT {MINUTE} AS minute, topic, severity, count(*) AS deliveries, count(received_at) AS received,
               percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY sent_at - occurred_at) AS sent,
               percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency) AS took
        FROM audit.deliveries
        GROUP BY 1, 2, 3
    ) AS measured
    """,  # noqa: S608 - constant
)

CONNECTIONS = View(
    "connections",
    "One row for each connection of an admin: a WebSocket, an event stream, or a series of long polls.",
    {
        "connection": "the connection",
        "node": "the serving process that held it",
        "host": "the machine or container that the node ran on",
        "recipient": "the admin: the subject of the token that opened it",
        "transport": "how it was connected, such as websocket",
        "topics": "what it was to see: patterns of topics, already narrowed to what the token covers",
        "min_severity": "what it was to see: nothing less severe than this",
        "remote_addr": "the address that it came from",
        "user_agent": "what the client said of itself",
        "token_id": "the jti of its token, the newest where it was renewed; null: the token has none",
        "token_expires_at": "when that token expires",
        "opened_at": "when it was accepted",
        "closed_at": "when it ended; null: it is open",
        "duration": "from opened_at to closed_at, or until now while it is open",
        "close_code": "the WebSocket close code; null: open, or the node was lost",
        "close_reason": "why it ended, such as token_expired, slow_consumer, node_lost",
        "after_seq": "the position in the log after which it began",
        "sent_seq": "the position in the log up to which it was sent everything that matches",
        "received_seq": "the position up to which the client acknowledged; null: it acknowledged nothing",
    },
    """
    SELECT c.id AS connection, c.node_id AS node, n.host, c.recipient, c.transport, c.topics, c.min_severity,
           c.remote_addr, c.user_agent, c.token_jti AS token_id, c.token_expires_at, c.opened_at, c.closed_at,
           coalesce(c.closed_at, now()) - c.opened_at AS duration, c.close_code, c.close_reason, c.after_seq,
           coalesce(c.sent_seq, n.sent_seq) AS sent_seq,
           (SELECT max(seq) FROM receipts WHERE connection_id = c.id) AS received_seq
    FROM connections c JOIN nodes n ON n.id = c.node_id
    """,
)

# A node counts while its lease holds: the janitor needs a moment to close the connections of one that died.
IS_LIVE = "closed_at IS NULL AND n.ended_at IS NULL AND n.seen_at >= now() - make_interval(secs => n.lease_seconds)"

PRESENCE = View(
    "presence",
    "One row for each admin who is connected now, to any node.",
    {
        "recipient": "the admin",
        "connections": "how many connections they have",
        "since": "when the oldest of these was opened",
        "nodes": "the serving processes that hold them",
    },
    f"""
    SELECT c.recipient, count(*) AS connections, min(c.opened_at) AS since,
           array_agg(DISTINCT n.id ORDER BY n.id) AS nodes
    FROM connections c JOIN nodes n ON n.id = c.node_id
    WHERE {IS_LIVE}
    GROUP BY c.recipient
    """,  # noqa: S608 - constant
)

REJECTIONS = View(
    "rejections",
    "One row for each stream that was refused at the handshake.",
    {
        "at": "when it was refused",
        "node": "the serving process that refused it",
        "remote_addr": "the address that it came from",
        "path": "the path that was asked for, without its query",
        "reason": "why, such as token_expired, scope_missing, connection_limit",
        "subject": "the subject of its token; null: it had no token that could be believed",
        "origin": "the web page that opened it, where a browser did",
        "user_agent": "what the client said of itself",
    },
    """
    SELECT at, node_id AS node, remote_addr, path, reason, subject, origin, user_agent FROM handshake_rejections
    """,
)

TOKENS = View(
    "tokens",
    "One row for each token and admin that connections were opened with, and each token that was revoked by its jti."
    " Tokens without a jti are told apart by when they expire.",
    {
        "token_id": "the jti of the token; null: it has none",
        "recipient": "the subject of the token; null: it was revoked and never used for a connection",
        "connections": "how many connections it served, or serves",
        "open": "how many of these are open now",
        "first_used_at": "when the first of them was opened; null: never",
        "last_used_at": "when the last of them ended, or was last known to be open; null: never",
        "expires_at": "when the token expires; null: not known",
        "revoked_at": "when it was revoked; null: it was not, or the revocation is over because the token has expired",
        "revoked_by": "the subject of the token that asked for the revocation",
        "reason": "why it was revoked, as it was given",
    },
    # Of a subject's tokens those are revoked that were issued before some time. When one was issued is not known here,
    # so only of those is it said that are sure to be among them: all their use was before that time, or the revocation
    # ended it.
    f"""
    WITH used AS (
        SELECT c.token_jti AS token_id, c.recipient, count(*) AS connections, count(*) FILTER (WHERE {IS_LIVE}) AS open,
               min(c.opened_at) AS first_used_at, max(coalesce(c.closed_at, n.seen_at)) AS last_used_at,
               max(c.token_expires_at) AS expires_at,
               max(c.closed_at) FILTER (WHERE c.close_reason = 'token_revoked') AS cut_off_at
        FROM connections c JOIN nodes n ON n.id = c.node_id
        GROUP BY c.token_jti, c.recipient, CASE WHEN c.token_jti IS NULL THEN c.token_expires_at END
    ), one AS (
        SELECT DISTINCT ON (token_id) * FROM revocations WHERE token_id IS NOT NULL ORDER BY token_id, id
    )
    SELECT coalesce(used.token_id, one.token_id) AS token_id, used.recipient,
           coalesce(used.connections, 0) AS connections, coalesce(used.open, 0) AS open, used.first_used_at,
           used.last_used_at, used.expires_at, coalesce(one.revoked_at, every.revoked_at) AS revoked_at,
           coalesce(one.revoked_by, every.revoked_by) AS revoked_by,
           CASE WHEN one.id IS NULL THEN every.reason ELSE one.reason END AS reason
    FROM used FULL JOIN one ON one.token_id = used.token_id
    LEFT JOIN LATERAL (
        SELECT revoked_at, revoked_by, reason FROM revocations
        WHERE subject = used.recipient
          AND (used.last_used_at < issued_before OR used.cut_off_at >= revoked_at) ORDER BY id LIMIT 1
    ) AS every ON one.id IS NULL
    """,  # noqa: S608 - constant
)

LOG_GAPS = View(
    "log_gaps",
    "One row for each hole in the log. Empty, or something is wrong: the log is written without holes, and what"
    " retention removes is removed from its beginning, with the links of the chain that cover it.",
    {
        "after_seq": "the last event before the hole",
        "before_seq": "the first event after the hole",
        "missing": "how many events are missing between them",
    },
    # The chain says how far the log must reach, so that a hole at either end is seen too.
    """
    WITH chain AS (SELECT min(first_seq) AS first_seq, max(last_seq) AS last_seq FROM log_chain)
    SELECT after_seq, before_seq, before_seq - after_seq - 1 AS missing
    FROM (
        SELECT first_seq - 1 AS after_seq, coalesce((SELECT min(seq) FROM events), last_seq + 1) AS before_seq
        FROM chain
        UNION ALL
        SELECT seq, lead(seq, 1, (SELECT last_seq + 1 FROM chain)) OVER (ORDER BY seq) FROM events
    ) AS neighbours
    WHERE before_seq > after_seq + 1
    """,
)

VIEWS = (DELIVERIES, UNRECEIVED, TIMELINE, LATENCY, CONNECTIONS, PRESENCE, REJECTIONS, TOKENS, LOG_GAPS)

# Roles belong to the whole cluster, in which other databases may be migrated at this moment. Later migrations that add
# functions call it again; views that they add are readable by default.
GRANT_AUDIT = """
CREATE FUNCTION grant_audit() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ours regprocedure;
BEGIN
    FOR ours IN
        SELECT oid::regprocedure FROM pg_proc p
        WHERE pronamespace = 'public'::regnamespace AND provolatile <> 'i' AND pg_has_role(proowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', ours);
    END LOOP;
    IF to_regrole('tocsin_auditor') IS NULL THEN
        BEGIN
            CREATE ROLE tocsin_auditor NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;  -- another database was faster
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'the role tocsin_auditor is missing, and % may not create it', current_user;
                RETURN false;
        END;
    END IF;
    GRANT USAGE ON SCHEMA audit TO tocsin_auditor;
    GRANT SELECT ON ALL TABLES IN SCHEMA audit TO tocsin_auditor;
    ALTER DEFAULT PRIVILEGES IN SCHEMA audit GRANT SELECT ON TABLES TO tocsin_auditor;
    RETURN true;
END $$
"""
HOW_TO_MEND = (
    "CREATE ROLE tocsin_auditor NOLOGIN, as one who may; then, as the owner of the schema, SELECT grant_audit()"
)

REVOKE_AUDIT = """
DO $$
DECLARE
    ours regprocedure;
BEGIN
    FOR ours IN
        SELECT oid::regprocedure FROM pg_proc p
        WHERE pronamespace = 'public'::regnamespace AND provolatile <> 'i' AND pg_has_role(proowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', ours);
    END LOOP;
    IF to_regrole('tocsin_auditor') IS NOT NULL THEN
        ALTER DEFAULT PRIVILEGES IN SCHEMA audit REVOKE SELECT ON TABLES FROM tocsin_auditor;
        REVOKE SELECT ON ALL TABLES IN SCHEMA audit FROM tocsin_auditor;
        REVOKE USAGE ON SCHEMA audit FROM tocsin_auditor;
        BEGIN
            DROP ROLE tocsin_auditor;
        EXCEPTION  -- another database uses it, or it is not ours to drop
            WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL;
        END;
    END IF;
END $$
"""


def upgrade() -> None:
    op.add_column(
        "nodes",
        sa.Column(
            "lease_seconds",
            sa.Double,
            nullable=False,
            server_default=sa.text("10"),
            comment="without a flush for so long it is lost",
        ),
    )
    op.add_column(
        "recipients",
        sa.Column(
            "topics_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
            comment="when the connection with that token was opened",
        ),
    )
    op.create_index(
        "ix_events_occurred_at",
        "events",
        ["occurred_at", sa.text(f"({MINUTE})")],
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    )
    op.execute("DROP VIEW audit.deliveries")
    for function in (TOPIC_LIKES, FILTER_MATCHES, EVENT_MATCHES, LOG_BLOCKS):
        op.execute(function)
    for view in VIEWS:
        create(view)
    op.execute(GRANT_AUDIT)
    if not op.get_bind().scalar(sa.text("SELECT grant_audit()")):
        log.warning("the role tocsin_auditor is missing, and this user may not create it", mend=HOW_TO_MEND)


def create(view: View) -> None:
    """Make a view with its comments."""
    op.execute(f"CREATE VIEW audit.{view.name} AS {view.query}")
    op.execute(f"COMMENT ON VIEW audit.{view.name} IS '{quoted(view.comment)}'")
    for column, comment in view.columns.items():
        op.execute(f"COMMENT ON COLUMN audit.{view.name}.{column} IS '{quoted(comment)}'")


def quoted(comment: str) -> str:
    """Return text for use between single quotes."""
    return comment.replace("'", "''")


def downgrade() -> None:
    op.execute(REVOKE_AUDIT)
    op.execute("DROP FUNCTION grant_audit()")
    for view in VIEWS[::-1]:
        op.execute(f"DROP VIEW audit.{view.name}")
    before = runpy.run_path(str(HERE.with_name("0001_the_main_path.py")))
    op.execute(before["EVENT_MATCHES"].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute("DROP FUNCTION filter_matches(text[], severity, text, text, severity, text[])")
    op.execute("DROP FUNCTION topic_likes(text[])")
    op.execute("DROP FUNCTION log_blocks(bigint, bigint)")
    create(
        View(
            "deliveries",
            "One row for each event and each connection that it went to.",
            before["AUDIT_COMMENTS"],
            before["AUDIT_DELIVERIES"].partition(" AS\n")[2],
        )
    )
    op.drop_index("ix_events_occurred_at", "events")
    op.drop_column("recipients", "topics_at")
    op.drop_column("nodes", "lease_seconds")
