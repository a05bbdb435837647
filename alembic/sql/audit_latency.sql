-- audit.latency: percentiles of the time to send and to receive, per minute, topic and severity.

CREATE VIEW audit.latency AS
SELECT minute, topic, severity, deliveries, replayed, extract(epoch FROM sent[1])::float8 AS sent_p50,
       extract(epoch FROM sent[2])::float8 AS sent_p95, extract(epoch FROM sent[3])::float8 AS sent_p99,
       received, extract(epoch FROM confirmed[1])::float8 AS received_p50,
       extract(epoch FROM confirmed[2])::float8 AS received_p95,
       extract(epoch FROM confirmed[3])::float8 AS received_p99
FROM (
    -- The start of the minute, as in ix_events_occurred_at. date_trunc depends on the time zone, and an
    -- indexed expression must be immutable.
    SELECT date_bin('00:01:00'::interval, occurred_at, '2000-01-01 00:00:00+00'::timestamptz) AS minute,
           topic, severity, count(*) AS deliveries, count(*) FILTER (WHERE replayed) AS replayed,
           count(received_at) AS received,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY sent_at - occurred_at)
               FILTER (WHERE NOT replayed) AS sent,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency)
               FILTER (WHERE NOT replayed) AS confirmed
    FROM audit.deliveries
    GROUP BY 1, 2, 3
) AS measured;

COMMENT ON VIEW audit.latency IS
    'How long deliveries took, for each minute, topic and severity: from the event to the socket,'
    ' and from there to the receipt. What was replayed to an admin who had been away is counted, and'
    ' not measured.';
COMMENT ON COLUMN audit.latency.minute IS 'the start of the minute in which the events happened';
COMMENT ON COLUMN audit.latency.topic IS 'the topic of the alerts';
COMMENT ON COLUMN audit.latency.severity IS 'the severity of the alerts when the events happened';
COMMENT ON COLUMN audit.latency.deliveries IS
    'the number of deliveries: one for each event and connection';
COMMENT ON COLUMN audit.latency.replayed IS
    'how many of them were replayed (audit.deliveries), and are in none of the percentiles';
COMMENT ON COLUMN audit.latency.sent_p50 IS
    'median seconds from the event, just before its commit, until its last byte was at the socket;'
    ' null: all were replayed';
COMMENT ON COLUMN audit.latency.sent_p95 IS 'the same, 95th percentile';
COMMENT ON COLUMN audit.latency.sent_p99 IS 'the same, 99th percentile';
COMMENT ON COLUMN audit.latency.received IS
    'the number of deliveries whose receipt was confirmed';
COMMENT ON COLUMN audit.latency.received_p50 IS
    'median seconds from the socket until the receipt was confirmed';
COMMENT ON COLUMN audit.latency.received_p95 IS 'the same, 95th percentile';
COMMENT ON COLUMN audit.latency.received_p99 IS 'the same, 99th percentile';
