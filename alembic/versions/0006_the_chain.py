"""The chains over the log and the ledger, and the two functions that alone write them.

What is there already is linked as it is found: from here on it cannot change unseen.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"

TIME = sa.DateTime(timezone=True)

MICROSECONDS = """
CREATE FUNCTION microseconds(at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(epoch FROM at) * 1000000)::bigint
"""

# Called under the log's lock. `digests` holds 32 bytes for each event after `after_seq`. No link crosses a multiple of
# 10,000, so that whole partitions of the log hold whole links.
LINK_LOG = """
CREATE FUNCTION link_log(after_seq bigint, digests bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    stored bigint := after_seq + length(digests) / 32;
    first bigint := after_seq + 1;
    last bigint;
    at timestamptz := clock_timestamp();
    link bytea := coalesce((SELECT hash FROM log_chain WHERE last_seq = after_seq), decode(repeat('00', 32), 'hex'));
BEGIN
    WHILE first <= stored LOOP
        last := least(stored, (first / 10000 + 1) * 10000 - 1);
        link := sha256(
            link || int8send(first) || int8send(microseconds(at))
            || substr(digests, (first - after_seq - 1)::integer * 32 + 1, (last - first + 1)::integer * 32));
        INSERT INTO log_chain (last_seq, first_seq, linked_at, hash) VALUES (last, first, at, link);
        first := last + 1;
    END LOOP;
END $$
"""

# As in 0003; the head is that of the chain, and what was stored is linked to it. The digests of the alerts' events come
# from the service, 32 bytes each, in order: PostgreSQL without OpenSSL hashes no faster than 250 MB/s, and would do it
# under the lock.
APPEND_ALERTS = """
CREATE FUNCTION append_alerts(alerts json, digests bytea, keys text[], hashes text[])
RETURNS TABLE (ordinal bigint, seq bigint, replayed boolean, mismatch boolean, body json)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    head bigint;
    repeats bigint[] := '{}';
    stored bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7405002);
    SELECT coalesce(max(c.last_seq), 0) INTO head FROM log_chain c;
    IF keys IS NOT NULL THEN
        SELECT array_agg(i.ordinal) INTO repeats
        FROM (
            SELECT *, row_number() OVER (PARTITION BY source, keys[ordinal] ORDER BY ordinal) AS turn
            FROM ROWS FROM (json_to_recordset(alerts) AS (source text)) WITH ORDINALITY AS a (source, ordinal)
            WHERE keys[ordinal] IS NOT NULL
        ) AS i LEFT JOIN idempotency_keys k ON k.source = i.source AND k.key = keys[i.ordinal]
        WHERE i.turn > 1 OR k.seq IS NOT NULL;
    END IF;
    RETURN QUERY
    WITH fresh AS MATERIALIZED (
        SELECT i.ordinal, head + row_number() OVER (ORDER BY i.ordinal) AS seq, i.alert, a.*
        FROM json_array_elements(alerts) WITH ORDINALITY AS i (alert, ordinal),
             json_to_record(i.alert) AS a (
                id uuid, source text, topic text, severity severity, title text, body text, attributes jsonb,
                links jsonb, recipients text[], created_at timestamptz, expires_at timestamptz)
        WHERE repeats IS NULL OR i.ordinal <> ALL (repeats)
    ), stored_alerts AS (
        INSERT INTO alerts (id, seq, source, topic, severity, title, body, attributes, links, recipients,
                            status_by, status_at, created_at, updated_at, expires_at)
        SELECT id, seq, source, topic, severity, title, body, attributes, links, recipients,
               source, created_at, created_at, created_at, expires_at
        FROM fresh
    ), stored_events AS (
        INSERT INTO events (seq, alert_id, kind, topic, severity, recipients, actor, occurred_at, body)
        SELECT seq, id, 'alert.created', topic, severity, recipients, source, created_at, alert FROM fresh
    ), stored_keys AS (
        INSERT INTO idempotency_keys (source, key, body_hash, seq, created_at)
        SELECT source, keys[ordinal], decode(hashes[ordinal], 'hex'), seq, created_at FROM fresh
        WHERE keys[ordinal] IS NOT NULL
    )
    SELECT ordinal, seq, false, false, NULL::json FROM fresh;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF repeats <> '{}' THEN
        RETURN QUERY
        SELECT i.ordinal, k.seq, true, k.body_hash <> decode(hashes[i.ordinal], 'hex'), e.body
        FROM ROWS FROM (json_to_recordset(alerts) AS (source text)) WITH ORDINALITY AS i (source, ordinal)
        JOIN idempotency_keys k ON k.source = i.source AND k.key = keys[i.ordinal]
        LEFT JOIN events e ON e.seq = k.seq
        WHERE i.ordinal = ANY (repeats);
        SELECT string_agg(substr(digests, o * 32 - 31, 32), '' ORDER BY o) INTO digests
        FROM generate_series(1, length(digests) / 32) AS o WHERE o <> ALL (repeats);
    END IF;
    IF stored > 0 THEN
        PERFORM link_log(head, digests);
        PERFORM pg_notify('tocsin_events', (head + stored)::text);
    END IF;
END $$
"""

# What the links of the ledger cover, a line each. They are read by service/audit/chain.py as they are written here.
LEDGER_LINES = """
CREATE FUNCTION closing_line(c connections) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('closing', c.id, c.node_id, c.recipient, c.transport, c.topics, c.min_severity, c.remote_addr,
    c.user_agent, c.token_jti, microseconds(c.token_expires_at), microseconds(c.opened_at), c.after_seq, c.sent_seq,
    microseconds(c.closed_at), c.close_code, c.close_reason)::text;
CREATE FUNCTION dispatch_line(d dispatches) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('dispatch', d.node_id, d.connection_id, d.after_seq, d.up_to_seq, microseconds(d.at))::text;
CREATE FUNCTION receipt_line(r receipts) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('receipt', r.connection_id, r.seq, microseconds(r.received_at))::text;
"""

# The one writer of what is final in the ledger: connections that were closed, dispatches and receipts, each as a JSON
# array of rows. It can be repeated: what is there stays as it is, and is not linked again. The lock orders the chain;
# its holder waits for no other.
WRITE_LEDGER = """
CREATE FUNCTION write_ledger(closings json, dispatched json, received json) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz;
    last ledger_chain;
    next bigint;
    content text;
BEGIN
    PERFORM pg_advisory_xact_lock(7405007);
    SELECT * INTO last FROM ledger_chain ORDER BY number DESC LIMIT 1;
    next := coalesce(last.number, 0) + 1;
    at := clock_timestamp();
    WITH closed AS (
        INSERT INTO connections AS known
        SELECT r.* FROM jsonb_populate_record(NULL::connections, jsonb_build_object('link', next)) AS base,
                        json_populate_recordset(base, closings) AS r
        ON CONFLICT (id) DO UPDATE SET
            token_jti = excluded.token_jti, token_expires_at = excluded.token_expires_at,
            sent_seq = excluded.sent_seq, closed_at = excluded.closed_at, close_code = excluded.close_code,
            close_reason = excluded.close_reason, link = excluded.link
        WHERE known.closed_at IS NULL
        RETURNING closing_line(known) AS line
    ), sent AS (
        INSERT INTO dispatches AS known
        SELECT r.* FROM jsonb_populate_record(NULL::dispatches, jsonb_build_object('link', next)) AS base,
                        json_populate_recordset(base, dispatched) AS r
        ON CONFLICT DO NOTHING RETURNING dispatch_line(known) AS line
    ), acknowledged AS (
        INSERT INTO receipts AS known
        SELECT r.* FROM jsonb_populate_record(NULL::receipts, jsonb_build_object('link', next)) AS base,
                        json_populate_recordset(base, received) AS r
        ON CONFLICT DO NOTHING RETURNING receipt_line(known) AS line
    ), written AS (
        SELECT line FROM closed UNION ALL SELECT line FROM sent UNION ALL SELECT line FROM acknowledged
    )
    SELECT string_agg(line, E'\\n' ORDER BY line COLLATE "C") INTO content FROM written;
    IF content IS NOT NULL THEN
        INSERT INTO ledger_chain (number, linked_at, hash)
        VALUES (next, at, sha256(coalesce(last.hash, decode(repeat('00', 32), 'hex')) || int8send(next)
                                 || int8send(microseconds(at)) || convert_to(content, 'UTF8')));
    END IF;
END $$
"""

LINK_WHAT_IS_THERE = """
DO $$
DECLARE
    after bigint := coalesce((SELECT min(seq) - 1 FROM events), 0);
    last bigint;
    digests bytea;
    step record;
    link bytea := decode(repeat('00', 32), 'hex');
BEGIN
    LOOP
        SELECT max(seq), string_agg(sha256(convert_to(concat(
            '{"kind":"', kind, '","at":"', to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            '","actor":', to_json(actor), ',"alert":', body, coalesce(',' || substr(extra::text, 2), '}')
        ), 'UTF8')), '' ORDER BY seq) INTO last, digests
        FROM events WHERE seq > after AND seq <= after + 1000;
        EXIT WHEN last IS NULL;
        IF length(digests) / 32 <> last - after THEN
            RAISE EXCEPTION 'the log has a hole between % and %: it cannot be linked', after, last;
        END IF;
        PERFORM link_log(after, digests);
        after := last;
    END LOOP;

    CREATE TEMPORARY TABLE found ON COMMIT DROP AS
    SELECT number, row_number() OVER () / 1000 + 1 AS link, id, seq, line FROM (
        SELECT 1 AS number, c.id, NULL::bigint AS seq, closing_line(c) AS line FROM connections c
        WHERE closed_at IS NOT NULL
        UNION ALL SELECT 2, coalesce(connection_id, node_id), up_to_seq, dispatch_line(d) FROM dispatches d
        UNION ALL SELECT 3, connection_id, seq, receipt_line(r) FROM receipts r
    ) AS rows;
    UPDATE connections c SET link = f.link FROM found f WHERE f.number = 1 AND c.id = f.id;
    UPDATE dispatches d SET link = f.link FROM found f
    WHERE f.number = 2 AND coalesce(d.connection_id, d.node_id) = f.id AND d.up_to_seq = f.seq;
    UPDATE receipts r SET link = f.link FROM found f WHERE f.number = 3 AND r.connection_id = f.id AND r.seq = f.seq;
    FOR step IN
        SELECT f.link AS number, now() AS at, string_agg(line, E'\\n' ORDER BY line COLLATE "C") AS content
        FROM found f GROUP BY f.link ORDER BY f.link
    LOOP
        link := sha256(link || int8send(step.number) || int8send(microseconds(step.at))
                       || convert_to(step.content, 'UTF8'));
        INSERT INTO ledger_chain (number, linked_at, hash) VALUES (step.number, step.at, link);
    END LOOP;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "log_chain",
        sa.Column("last_seq", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("first_seq", sa.BigInteger, nullable=False),
        sa.Column("linked_at", TIME, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False, comment="SHA-256; see service/events/chain.py"),
        sa.PrimaryKeyConstraint("last_seq", name="pk_log_chain"),
        comment="One row a batch that was appended to the log, each linked to the one before; the last is the head.",
    )
    op.create_table(
        "ledger_chain",
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False, comment="1, 2, 3, … without a hole"),
        sa.Column("linked_at", TIME, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False, comment="SHA-256; see service/audit/chain.py"),
        sa.PrimaryKeyConstraint("number", name="pk_ledger_chain"),
        comment="One row a flush of the ledger that wrote closings, dispatches or receipts, linked to the one before.",
    )
    for table, comment in (
        ("connections", "the link of the ledger's chain that covers its end"),
        ("dispatches", "the link of the ledger's chain that covers it"),
        ("receipts", "the link of the ledger's chain that covers it"),
    ):
        op.add_column(table, sa.Column("link", sa.BigInteger, comment=comment))
    for statement in (MICROSECONDS, LINK_LOG, *LEDGER_LINES.split(";")[:-1], WRITE_LEDGER, LINK_WHAT_IS_THERE):
        op.execute(statement)
    op.alter_column("dispatches", "link", nullable=False)
    op.alter_column("receipts", "link", nullable=False)
    # A link's rows are written together, so a range of pages holds few links; an index of every row would cost more.
    for table in ("dispatches", "receipts"):
        op.create_index(
            f"ix_{table}_link",
            table,
            ["link"],
            postgresql_using="brin",
            postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
        )
    op.create_index("ix_connections_link", "connections", ["link"], postgresql_where=sa.text("link IS NOT NULL"))
    op.execute("DROP FUNCTION append_alerts(json, text[], text[])")
    op.execute(APPEND_ALERTS)


def downgrade() -> None:
    op.execute("DROP FUNCTION append_alerts(json, bytea, text[], text[])")
    before = runpy.run_path(str(Path(__file__).with_name("0003_the_life_of_an_alert.py")))
    op.execute(before["APPEND_ALERTS"])
    op.execute("DROP FUNCTION write_ledger(json, json, json)")
    op.execute("DROP FUNCTION closing_line(connections), dispatch_line(dispatches), receipt_line(receipts)")
    op.execute("DROP FUNCTION link_log(bigint, bytea)")
    op.execute("DROP FUNCTION microseconds(timestamptz)")
    op.drop_index("ix_connections_link", "connections")
    for table in ("receipts", "dispatches"):
        op.drop_index(f"ix_{table}_link", table)
    for table in ("receipts", "dispatches", "connections"):
        op.drop_column(table, "link")
    op.drop_table("ledger_chain")
    op.drop_table("log_chain")
