-- Where streams without a cursor resume: one point for each filter of a recipient, and for each name (`consumer`) that
-- its clients give, with the filter that it was used with.
--
-- A point is at `seq`: its streams were sent everything up to there that passes the filter, and their clients
-- acknowledged it. They were sent everything up to `sent_seq`, perhaps more. What a stream acknowledges moves the point
-- if it began no later than the point; or no later than `sent_seq`, where its client stated a cursor, and so said that it
-- had what was sent before. Any other stream leaves a hole: its acknowledgements count once another has filled it. So a
-- point never passes what was not sent, nor what was sent and not acknowledged.

-- The identity of a filter, whose topics are sorted and without redundancy.
CREATE FUNCTION filter_key(topics text[], min_severity severity) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sha256(convert_to(concat_ws(' ', min_severity, array_to_string(topics, ',')), 'UTF8'));

-- Return the point of a filter, which begins at `start` if it is new; a consumer's that is new begins at the earliest
-- point of that consumer, so that it misses nothing that another filter of it has not acknowledged.
--
-- Returns no row, and stores nothing, where the log does not hold the head: what the node knows is of another history.
-- Returns nulls where the recipient has `points_max` points, of which none can make room: only one without a name can,
-- which was not used for a day.
CREATE FUNCTION begin_resume_point(
    recipient text, token_topics text[], consumer text, topics text[], min_severity severity, start bigint,
    head_seq bigint, head_id bigint, points_max bigint
) RETURNS TABLE (seq bigint, event_id bigint, sent_seq bigint, polled_on uuid, polled_seq bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    key CONSTANT bytea := filter_key(begin_resume_point.topics, begin_resume_point.min_severity);
BEGIN
    IF NOT log_holds(head_seq, head_id) THEN
        RETURN;
    END IF;
    INSERT INTO recipients (id, topics, first_seen_at, first_seen_seq, last_seen_at)
    VALUES (begin_resume_point.recipient, token_topics, clock_timestamp(), head_seq, clock_timestamp())
    ON CONFLICT DO NOTHING;
    FOR attempt IN 1..2 LOOP
        RETURN QUERY
        SELECT p.seq, p.event_id, p.sent_seq, p.polled_on, p.polled_seq FROM resume_points p
        WHERE (p.recipient, p.consumer, p.filter_key) = (begin_resume_point.recipient, begin_resume_point.consumer, key);
        IF FOUND THEN
            RETURN;
        END IF;
        IF (SELECT count(*) FROM resume_points p WHERE p.recipient = begin_resume_point.recipient) >= points_max THEN
            DELETE FROM resume_points WHERE ctid = (
                SELECT p.ctid FROM resume_points p
                WHERE p.recipient = begin_resume_point.recipient AND p.consumer = ''
                  AND p.used_at < clock_timestamp() - interval '1 day'
                ORDER BY p.used_at LIMIT 1 FOR UPDATE SKIP LOCKED
            );
            IF NOT FOUND THEN
                RETURN QUERY SELECT NULL::bigint, NULL::bigint, NULL::bigint, NULL::uuid, NULL::bigint;
                RETURN;
            END IF;
        END IF;
        INSERT INTO resume_points (recipient, consumer, filter_key, topics, min_severity, seq, event_id, sent_seq,
                                   created_at, used_at)
        SELECT begin_resume_point.recipient, begin_resume_point.consumer, key, begin_resume_point.topics,
               begin_resume_point.min_severity, first.seq, coalesce(event_id_at(first.seq), 0), first.seq,
               clock_timestamp(), clock_timestamp()
        FROM (SELECT least(start, min(p.seq)) AS seq FROM resume_points p
              WHERE p.recipient = begin_resume_point.recipient AND p.consumer = begin_resume_point.consumer
                AND p.consumer <> '') AS first
        ON CONFLICT DO NOTHING;
    END LOOP;
END $$;

-- Move the points as far as streams were sent everything and clients acknowledged it. Each stream is a row as of the
-- table `connections`, with `received_seq`, and with `opened` where it has just begun: then it begins its point as well,
-- if that is new, unless the recipient has `points_max`. `polled_seq` is the cursor of its last answer, if that went to a
-- poll without a cursor, and arrived as far as the node knows.
CREATE FUNCTION advance_resume_points(streams json, points_max bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO resume_points (recipient, consumer, filter_key, topics, min_severity, seq, event_id, sent_seq,
                               created_at, used_at)
    SELECT DISTINCT ON (s.recipient, s.consumer, key) s.recipient, s.consumer, key, s.topics, s.min_severity,
           first.seq, coalesce(event_id_at(first.seq), 0), first.seq, clock_timestamp(), clock_timestamp()
    FROM json_to_recordset(streams)
         AS s (recipient text, consumer text, topics text[], min_severity severity, after_seq bigint, opened boolean)
    CROSS JOIN filter_key(s.topics, s.min_severity) AS key
    CROSS JOIN LATERAL (SELECT least(s.after_seq, min(p.seq)) AS seq FROM resume_points p
                        WHERE p.recipient = s.recipient AND p.consumer = s.consumer AND p.consumer <> '') AS first
    WHERE s.opened
      AND NOT EXISTS (SELECT FROM resume_points p
                      WHERE (p.recipient, p.consumer, p.filter_key) = (s.recipient, s.consumer, key))
      AND (SELECT count(*) FROM resume_points p WHERE p.recipient = s.recipient) < points_max
    ORDER BY s.recipient, s.consumer, key, s.after_seq
    ON CONFLICT DO NOTHING;

    WITH stream AS MATERIALIZED (
        SELECT s.*, filter_key(s.topics, s.min_severity)
        FROM json_to_recordset(streams)
             AS s (id uuid, recipient text, consumer text, topics text[], min_severity severity, after_seq bigint,
                   has_cursor boolean, sent_seq bigint, received_seq bigint, polled_seq bigint)
    ), point AS MATERIALIZED (  -- locked in an order, so that the flushes of two nodes cannot deadlock
        SELECT * FROM resume_points p
        WHERE (p.recipient, p.consumer, p.filter_key) IN (SELECT s.recipient, s.consumer, s.filter_key FROM stream s)
        ORDER BY p.recipient, p.consumer, p.filter_key FOR UPDATE
    ), sent AS (
        SELECT recipient, consumer, filter_key, p.seq, p.sent_seq,
               int8multirange(int8range(NULL, p.sent_seq, '(]'))
                   -- One that began at the head, beyond the point, is no continuation, nor is what continues it.
                   + coalesce(range_agg(int8range(s.after_seq, greatest(s.after_seq, s.sent_seq), '(]'))
                                  FILTER (WHERE s.has_cursor OR s.after_seq <= p.seq), '{}') AS seqs
        FROM point p JOIN stream s USING (recipient, consumer, filter_key)
        GROUP BY recipient, consumer, filter_key, p.seq, p.sent_seq
    ), reached AS (
        SELECT sent.recipient, sent.consumer, sent.filter_key, sent.seq, upper(piece) - 1 AS sent_seq
        FROM sent, unnest(sent.seqs) AS piece WHERE piece @> sent.sent_seq
    ), acknowledged AS (
        SELECT recipient, consumer, filter_key, r.seq, r.sent_seq,
               int8multirange(int8range(NULL, r.seq, '(]'))
                   + range_agg(int8range(
                         CASE WHEN s.has_cursor AND s.after_seq <= r.sent_seq AND s.received_seq > s.after_seq THEN NULL
                              ELSE s.after_seq END,
                         greatest(s.after_seq, s.received_seq), '(]')) AS seqs,
               array_agg(s.id) AS streams,
               (array_agg(s.id ORDER BY s.polled_seq DESC) FILTER (WHERE s.polled_seq > 0))[1] AS polled_on,
               max(s.polled_seq) AS polled_seq
        FROM reached r JOIN stream s USING (recipient, consumer, filter_key)
        GROUP BY recipient, consumer, filter_key, r.seq, r.sent_seq
    ), moved AS (
        SELECT a.*, upper(piece) - 1 AS moved_seq FROM acknowledged a, unnest(a.seqs) AS piece WHERE piece @> a.seq
    )
    UPDATE resume_points p
    SET seq = moved.moved_seq, sent_seq = moved.sent_seq, used_at = clock_timestamp(),
        (polled_on, polled_seq) = (
            SELECT answer.polled_on, answer.polled_seq  -- the last of all nodes
            FROM (SELECT moved.polled_on, moved.polled_seq WHERE moved.polled_on IS NOT NULL
                  UNION ALL
                  SELECT p.polled_on, p.polled_seq WHERE p.polled_on <> ALL (moved.streams)) AS answer
            ORDER BY answer.polled_seq DESC LIMIT 1
        ),
        event_id = CASE moved.moved_seq WHEN p.seq THEN p.event_id ELSE coalesce(event_id_at(moved.moved_seq), 0) END
    FROM moved
    WHERE (p.recipient, p.consumer, p.filter_key) = (moved.recipient, moved.consumer, moved.filter_key);
END $$;
