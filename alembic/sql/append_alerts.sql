-- Append alerts, each with its alert.created event, to the log.
--
-- `attempt` identifies the transaction, should its outcome become unknown (commit_attempts.sql).
--
-- One round trip: lock, number, insert, link, notify; the autocommit of the statement releases the
-- lock. `alerts` is a JSON array, in the order of the log; `ids` are the ids of their events, and `digests`
-- holds the 32 bytes of each event's hash; they come from the service, because PostgreSQL without OpenSSL
-- hashes no faster than 250 MB/s, and would do it under the lock. `keys` and `request_hashes` (idempotency
-- keys, and the hashes of their requests) are parallel to `alerts`, or null where no alert has a key. An alert
-- whose key is known, from before or from earlier in the same call, is not stored; its result is that of the
-- first one.
--
-- Each row has the position (`seq`, `id`) of an event; that with the ordinal 0 is the head of the log before.
--
-- The head is read in a statement of its own: a statement's snapshot is taken when it starts, and one
-- taken before the lock was granted would not contain the last commit.
--
-- Keys are handled in statements of their own, because most calls have none: on two cores and with
-- 500 alerts a call that makes 43,000 alerts/s, where one statement for both cases made 33,000.
--
-- Alerts with a dedup key or an escalation are not appended here: their outcome depends on the stored
-- alerts, and is decided in service/alerts/lifecycle.py.

CREATE FUNCTION append_alerts(attempt bigint, alerts json, ids bigint[], digests bytea, keys text[], request_hashes text[])
RETURNS TABLE (ordinal bigint, seq bigint, id bigint, replayed boolean, mismatch boolean, body json)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    head log_head;
    repeats bigint[] := '{}';
    stored bigint;
BEGIN
    PERFORM lock_log(attempt);
    SELECT * INTO head FROM log_head;
    RETURN QUERY VALUES (0::bigint, head.seq, head.id, false, false, NULL::json);
    IF keys IS NOT NULL THEN
        SELECT array_agg(i.ordinal) INTO repeats
        FROM (
            SELECT *, row_number() OVER (PARTITION BY source, keys[ordinal] ORDER BY ordinal) AS nth
            FROM ROWS FROM (json_to_recordset(alerts) AS (source text)) WITH ORDINALITY AS a (source, ordinal)
            WHERE keys[ordinal] IS NOT NULL
        ) AS i LEFT JOIN idempotency_keys k ON k.source = i.source AND k.key = keys[i.ordinal]
        WHERE i.nth > 1 OR k.seq IS NOT NULL;
    END IF;
    RETURN QUERY
    WITH fresh AS MATERIALIZED (
        SELECT i.ordinal, head.seq + row_number() OVER (ORDER BY i.ordinal) AS seq, ids[i.ordinal] AS event_id, i.alert,
               a.*
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
        INSERT INTO events (seq, id, alert_id, kind, topic, severity, recipients, actor, occurred_at, body)
        SELECT seq, event_id, id, 'alert.created', topic, severity, recipients, source, created_at, alert FROM fresh
    ), stored_keys AS (
        INSERT INTO idempotency_keys (source, key, request_hash, seq, created_at)
        SELECT source, keys[ordinal], decode(request_hashes[ordinal], 'hex'), seq, created_at FROM fresh
        WHERE keys[ordinal] IS NOT NULL
    )
    SELECT ordinal, seq, event_id, false, false, NULL::json FROM fresh;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF repeats <> '{}' THEN
        RETURN QUERY
        SELECT i.ordinal, k.seq, e.id, true, k.request_hash <> decode(request_hashes[i.ordinal], 'hex'),
               coalesce(k.answer, e.body)
        FROM ROWS FROM (json_to_recordset(alerts) AS (source text)) WITH ORDINALITY AS i (source, ordinal)
        JOIN idempotency_keys k ON k.source = i.source AND k.key = keys[i.ordinal]
        LEFT JOIN events e ON e.seq = k.seq
        WHERE i.ordinal = ANY (repeats);
        SELECT array_agg(ids[o] ORDER BY o), string_agg(substr(digests, o * 32 - 31, 32), '' ORDER BY o)
        INTO ids, digests FROM generate_series(1, cardinality(ids)) AS o WHERE o <> ALL (repeats);
    END IF;
    IF stored > 0 THEN
        PERFORM link_log(head.seq, ids, digests);
        PERFORM notify_nodes('tocsin_events', (head.seq + stored)::text);
    ELSE
        -- What was stored before may not have reached the synchronous standbys: wait for them here too.
        PERFORM pg_logical_emit_message(true, 'tocsin', '');
    END IF;
END $$;
