-- audit.timeline: everything that happened to an alert, in order of time.

CREATE VIEW audit.timeline AS
SELECT alert_id, at, seq, action, actor, connection, details
FROM (
    SELECT alert_id, occurred_at AS at, seq, 1 AS rank, kind AS action, actor, NULL::uuid AS connection,
           (jsonb_build_object('severity', severity, 'status', body ->> 'status', 'recipients', recipients)
            || coalesce(details::jsonb, '{}'))::json AS details
    FROM events
    UNION ALL
    SELECT d.alert_id, delivery.at, d.seq, delivery.rank, delivery.action, d.recipient, d.connection,
           delivery.details
    FROM audit.deliveries d
    CROSS JOIN LATERAL (VALUES
        (2, 'sent', d.sent_at, json_build_object('node', d.node, 'replayed', d.replayed)),
        (3, 'received', d.received_at, json_build_object('latency', extract(epoch FROM d.latency)))
    ) AS delivery (rank, action, at, details)
    WHERE delivery.at IS NOT NULL
    UNION ALL
    SELECT alert_id, seen_at, seq, 4, 'seen', recipient, NULL::uuid, NULL::json FROM audit.sightings
) AS actions
ORDER BY at, seq, rank;

COMMENT ON VIEW audit.timeline IS
    'One row for each event of an alert, each time that an event was sent, each receipt, and each admin'
    ' who saw it, in order of time.';
COMMENT ON COLUMN audit.timeline.alert_id IS 'the alert';
COMMENT ON COLUMN audit.timeline.at IS 'when it happened';
COMMENT ON COLUMN audit.timeline.seq IS
    'position in the log of the event that happened, was sent or was received; of seen: of the alert''s'
    ' last event by then';
COMMENT ON COLUMN audit.timeline.action IS
    'the kind of the event, such as alert.created; or sent; or received; or seen';
COMMENT ON COLUMN audit.timeline.actor IS
    'of an event: the subject that caused it; of sent, received and seen: the admin';
COMMENT ON COLUMN audit.timeline.connection IS
    'of sent and received: the connection; null of an event and of seen';
COMMENT ON COLUMN audit.timeline.details IS
    'of an event: severity, status and recipients of the alert since then, and what the kind adds,'
    ' such as a comment; of sent: the node, and whether it was replayed; of received: the latency in seconds';
