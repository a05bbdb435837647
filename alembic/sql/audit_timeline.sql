-- audit.timeline: everything that happened to an alert, in order of time.

CREATE VIEW audit.timeline AS
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
ORDER BY at, seq, step;

COMMENT ON VIEW audit.timeline IS
    'One row for each thing that happened to an alert, in order of time: its events, each sending'
    ' and each receipt.';
COMMENT ON COLUMN audit.timeline.alert_id IS 'the alert';
COMMENT ON COLUMN audit.timeline.at IS 'when it happened';
COMMENT ON COLUMN audit.timeline.seq IS
    'position in the log of the event that happened, was sent or was received';
COMMENT ON COLUMN audit.timeline.what IS
    'the kind of the event, such as alert.created; or sent; or received';
COMMENT ON COLUMN audit.timeline.who IS
    'of an event: the subject that caused it; of sent and received: the admin';
COMMENT ON COLUMN audit.timeline.connection IS
    'of sent and received: the connection; null of an event';
COMMENT ON COLUMN audit.timeline.detail IS
    'of an event: severity, status and recipients of the alert since then, and what the kind adds,'
    ' such as a comment; of sent: the node; of received: the latency in seconds';
