-- Write what is final in the ledger (closed connections, dispatches, receipts, sightings) and link it to the chain.
--
-- The only writer of these rows; each argument is a JSON array of rows. A call can be repeated: existing
-- rows stay as they are, and are not linked again. The lock orders the chain; its holder waits for no
-- other lock.

-- What a link covers: one line per row. The verifier (service/integrity/link_checks.py) makes the same lines from
-- built-in functions, because whoever can alter rows can alter these functions too.
CREATE FUNCTION closing_line(c connections) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('closing', c.id, c.node_id, c.recipient, c.transport, c.consumer, c.topics, c.min_severity, c.remote_addr,
    c.user_agent, c.jti, microseconds(c.token_expires_at), microseconds(c.opened_at), c.after_seq, c.has_cursor, c.sent_seq,
    c.live_seq, microseconds(c.closed_at), c.close_code, c.close_reason)::text;

CREATE FUNCTION dispatch_line(d dispatches) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('dispatch', d.node_id, d.connection_id, d.after_seq, d.up_to_seq, microseconds(d.at))::text;

CREATE FUNCTION receipt_line(r receipts) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('receipt', r.connection_id, r.seq, microseconds(r.received_at))::text;

CREATE FUNCTION sighting_line(s sightings) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('sighting', s.alert_id, s.recipient, s.seq, microseconds(s.seen_at))::text;

CREATE FUNCTION write_ledger(
    closings json, new_dispatches json, new_receipts json, new_sightings json DEFAULT '[]'
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz;
    last ledger_chain;
    next_id bigint;
    next_link jsonb;
    content text;
BEGIN
    PERFORM require_durability();
    IF EXISTS (SELECT FROM json_populate_recordset(NULL::connections, closings) WHERE closed_at IS NULL OR sent_seq IS NULL)
    THEN
        RAISE EXCEPTION 'a closing lacks its time or its position' USING ERRCODE = 'check_violation';
    END IF;
    LOCK TABLE locks.ledger IN EXCLUSIVE MODE;
    SELECT * INTO last FROM ledger_chain ORDER BY ledger_link_id DESC LIMIT 1;
    next_id := coalesce(last.ledger_link_id, 0) + 1;
    next_link := jsonb_build_object('ledger_link_id', next_id);
    at := clock_timestamp();
    -- The link's id is put over whatever the rows say, so that no caller can get it wrong.
    WITH closed AS (
        INSERT INTO connections AS stored
        SELECT linked.* FROM json_populate_recordset(NULL::connections, closings) AS given,
                             jsonb_populate_record(given, next_link) AS linked
        ON CONFLICT (id) DO UPDATE SET
            jti = excluded.jti, token_expires_at = excluded.token_expires_at, sent_seq = excluded.sent_seq,
            live_seq = excluded.live_seq, closed_at = excluded.closed_at, close_code = excluded.close_code, close_reason = excluded.close_reason,
            ledger_link_id = excluded.ledger_link_id
        WHERE stored.closed_at IS NULL
        RETURNING closing_line(stored) AS line
    ), sent AS (
        INSERT INTO dispatches AS stored
        SELECT linked.* FROM json_populate_recordset(NULL::dispatches, new_dispatches) AS given,
                             jsonb_populate_record(given, next_link) AS linked
        ON CONFLICT DO NOTHING RETURNING dispatch_line(stored) AS line
    ), received AS (
        INSERT INTO receipts AS stored
        SELECT linked.* FROM json_populate_recordset(NULL::receipts, new_receipts) AS given,
                             jsonb_populate_record(given, next_link) AS linked
        ON CONFLICT DO NOTHING RETURNING receipt_line(stored) AS line
    ), seen AS (
        -- An alert that a client named counts if there is one, if `topics` (of the token) cover it and if it is
        -- for the recipient. What was seen is the alert up to its last event that the node had fanned out by then.
        -- All of its events may have been purged just now.
        INSERT INTO sightings AS stored
        SELECT a.id, r.recipient,
               coalesce((SELECT max(e.seq) FROM events e
                         WHERE e.alert_id = a.id AND e.seq BETWEEN a.seq AND r.up_to_seq), a.seq),
               r.seen_at, next_id
        FROM json_to_recordset(new_sightings)
             AS r (alert_id uuid, recipient text, topics text[], up_to_seq bigint, seen_at timestamptz)
        JOIN alerts a ON a.id = r.alert_id AND a.topic LIKE ANY (topic_likes(r.topics))
                     AND is_addressed(a.recipients, r.recipient)
        ON CONFLICT DO NOTHING RETURNING sighting_line(stored) AS line
    ), written AS (
        SELECT line FROM closed UNION ALL SELECT line FROM sent UNION ALL SELECT line FROM received
        UNION ALL SELECT line FROM seen
    )
    SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") INTO content FROM written;
    IF content IS NOT NULL THEN
        INSERT INTO ledger_chain (ledger_link_id, linked_at, hash)
        VALUES (next_id, at, sha256(coalesce(last.hash, decode(repeat('00', 32), 'hex')) || int8send(next_id)
                                    || int8send(microseconds(at)) || convert_to(content, 'UTF8')));
    END IF;
END $$;

-- End nodes, and close the connections that they left open, each at what was last flushed of it, so that the ledger
-- claims no more. Returns how many were closed. No node ends in another way: a connection that stayed open would
-- belong to no link, and never be purged.
CREATE FUNCTION end_nodes(ended uuid[], reason text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    closings json;
    closed bigint;
BEGIN
    UPDATE nodes SET ended_at = clock_timestamp() WHERE id = ANY (ended) AND ended_at IS NULL;
    SELECT json_agg(to_jsonb(c) || jsonb_build_object(
               'sent_seq', coalesce(c.sent_seq, n.sent_seq), 'closed_at', greatest(c.opened_at, n.seen_at),
               'close_reason', reason)),
           count(*)
    INTO closings, closed
    FROM connections c JOIN nodes n ON n.id = c.node_id
    WHERE n.id = ANY (ended) AND c.closed_at IS NULL;
    IF closed > 0 THEN
        PERFORM advance_resume_points(closings, 0);
        PERFORM write_ledger(closings, '[]', '[]');
    END IF;
    RETURN closed;
END $$;
