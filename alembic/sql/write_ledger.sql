-- Write what is final in the ledger (closed connections, dispatches, receipts) and link it to the chain.
--
-- The only writer of these rows; each argument is a JSON array of rows. A call can be repeated: what is
-- there stays as it is, and is not linked again. The lock orders the chain; its holder waits for no other.

-- What the links cover: one line per row. service/audit/chain.py verifies these lines with the same functions.
CREATE FUNCTION closing_line(c connections) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('closing', c.id, c.node_id, c.recipient, c.transport, c.topics, c.min_severity, c.remote_addr,
    c.user_agent, c.token_jti, microseconds(c.token_expires_at), microseconds(c.opened_at), c.after_seq, c.sent_seq,
    microseconds(c.closed_at), c.close_code, c.close_reason)::text;

CREATE FUNCTION dispatch_line(d dispatches) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('dispatch', d.node_id, d.connection_id, d.after_seq, d.up_to_seq, microseconds(d.at))::text;

CREATE FUNCTION receipt_line(r receipts) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN json_build_array('receipt', r.connection_id, r.seq, microseconds(r.received_at))::text;

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
    SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") INTO content FROM written;
    IF content IS NOT NULL THEN
        INSERT INTO ledger_chain (number, linked_at, hash)
        VALUES (next, at, sha256(coalesce(last.hash, decode(repeat('00', 32), 'hex')) || int8send(next)
                                 || int8send(microseconds(at)) || convert_to(content, 'UTF8')));
    END IF;
END $$;
