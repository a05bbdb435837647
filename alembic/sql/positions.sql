-- Positions in the log: a seq, and the id of the event there (see service/events/position.py).

-- The position of the last event; 0 and 0 where the log is empty.
CREATE VIEW log_head AS
SELECT coalesce(last_seq, 0) AS seq, coalesce(last_id, 0) AS id
FROM (SELECT) AS one_row LEFT JOIN (SELECT last_seq, last_id FROM log_chain ORDER BY last_seq DESC LIMIT 1) AS last ON true;

-- The id of the event at `seq`: from the log, or of the last one that was purged; 0 for seq 0, which is before the
-- first event. Null where the log does not reach `seq`, or holds its event no longer.
CREATE FUNCTION event_id_at(seq bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
SELECT CASE event_id_at.seq WHEN 0 THEN 0 ELSE coalesce(
    (SELECT id FROM events e WHERE e.seq = event_id_at.seq),
    (SELECT last_id FROM log_chain WHERE last_seq = event_id_at.seq),
    (SELECT last_id FROM retention_runs WHERE last_seq = event_id_at.seq)) END
$$;

-- Whether the log holds a position. Where it does not, its history is another one, or retention purged the event.
CREATE FUNCTION log_holds(seq bigint, id bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
SELECT log_holds.seq = 0 OR coalesce(event_id_at(log_holds.seq) = log_holds.id, false)
$$;
