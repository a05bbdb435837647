-- audit.latency: percentiles of the time to send and to receive, per minute, topic and severity.

CREATE VIEW audit.latency AS
SELECT minute, topic, severity, deliveries, extract(epoch FROM sent[1])::float8 AS sent_p50,
       extract(epoch FROM sent[2])::float8 AS sent_p95, extract(epoch FROM sent[3])::float8 AS sent_p99,
       received, extract(epoch FROM took[1])::float8 AS received_p50,
       extract(epoch FROM took[2])::float8 AS received_p95, extract(epoch FROM took[3])::float8 AS received_p99
FROM (
    -- The start of the minute, as in ix_events_occurred_at: date_trunc depends on the time zone, and what is
    -- indexed must be immutable.
    SELECT date_bin('00:01:00'::interval, occurred_at, '2000-01-01 00:00:00+00'::timestamptz) AS minute,
           topic, severity, count(*) AS deliveries, count(received_at) AS received,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY sent_at - occurred_at) AS sent,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency) AS took
    FROM audit.deliveries
    GROUP BY 1, 2, 3
) AS measured;

COMMENT ON VIEW audit.latency IS
    'How long deliveries took, for each minute, topic and severity: from the event to the socket,'
    ' and from there to the acknowledgement. An admin who was away is sent late what was missed,'
    ' and counts; so look at p50 and p95 first.';
COMMENT ON COLUMN audit.latency.minute IS 'the minute in which the events happened: its start';
COMMENT ON COLUMN audit.latency.topic IS 'the topic of the alerts';
COMMENT ON COLUMN audit.latency.severity IS 'the severity of the alerts when the events happened';
COMMENT ON COLUMN audit.latency.deliveries IS
    'how many deliveries there were: one for each event and connection';
COMMENT ON COLUMN audit.latency.sent_p50 IS
    'seconds from the event, just before its commit, until its last byte had gone to the socket:'
    ' half of the deliveries took no longer';
COMMENT ON COLUMN audit.latency.sent_p95 IS 'the same: 95 of 100 took no longer';
COMMENT ON COLUMN audit.latency.sent_p99 IS 'the same: 99 of 100 took no longer';
COMMENT ON COLUMN audit.latency.received IS 'how many of the deliveries were acknowledged';
COMMENT ON COLUMN audit.latency.received_p50 IS
    'seconds from the socket until the acknowledgement: half of those took no longer';
COMMENT ON COLUMN audit.latency.received_p95 IS 'the same: 95 of 100 took no longer';
COMMENT ON COLUMN audit.latency.received_p99 IS 'the same: 99 of 100 took no longer';
