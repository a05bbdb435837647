-- audit.deliveries: which event was sent over which connection, and when its receipt was confirmed.
--
-- The ledger keeps one range of seqs per connection, not one row per delivery; this view turns the
-- ranges back into rows. Which connections an event was sent to is a comparison of ranges
-- (after_seq < seq <= sent_seq), for which PostgreSQL would have to compare every event with every
-- connection. The view therefore also says which blocks of 100,000 events a connection touches
-- (log_blocks): that is an equality, which can be hashed. Patterns of topics become patterns of LIKE
-- once per connection, not once per event (topic_likes).

CREATE VIEW audit.deliveries AS
SELECT e.seq, e.alert_id, e.kind, e.topic, e.severity, c.recipient, c.id AS connection, c.node_id AS node,
       e.occurred_at, times.sent_at, times.received_at, times.received_at - times.sent_at AS latency,
       sighting.seen_at, e.seq <= coalesce(c.live_seq, e.seq) AS replayed
FROM connections c
JOIN nodes n ON n.id = c.node_id AND coalesce(c.sent_seq, n.sent_seq) > c.after_seq
CROSS JOIN LATERAL (
    SELECT topic_likes(c.topics) AS likes,
           (SELECT max(up_to_seq) FROM dispatches WHERE connection_id = c.id) AS dispatched_seq
    OFFSET 0  -- keeps the planner from evaluating this once per event
) AS own
CROSS JOIN LATERAL log_blocks(c.after_seq, coalesce(c.sent_seq, n.sent_seq)) AS block (number)
JOIN events e ON e.seq / 100000 = block.number
             AND e.seq > c.after_seq AND e.seq <= coalesce(c.sent_seq, n.sent_seq)
             AND event_matches(own.likes, c.min_severity, c.recipient, e.topic, e.severity, e.recipients)
CROSS JOIN LATERAL (
    -- Sent: by the connection's own dispatch while it replayed or lagged, otherwise by the pass of its node.
    SELECT coalesce(
               CASE WHEN e.seq <= own.dispatched_seq THEN (
                   SELECT CASE WHEN after_seq < e.seq THEN at END FROM dispatches
                   WHERE connection_id = c.id AND up_to_seq >= e.seq ORDER BY up_to_seq LIMIT 1
               ) END, (
                   SELECT CASE WHEN after_seq < e.seq THEN at END FROM dispatches
                   WHERE connection_id IS NULL AND node_id = c.node_id AND up_to_seq >= e.seq
                   ORDER BY up_to_seq LIMIT 1
               )
           ) AS sent_at,
           -- Receipts are cumulative: the first one at or after the event covers it.
           (SELECT received_at FROM receipts
            WHERE connection_id = c.id AND receipts.seq >= e.seq ORDER BY receipts.seq LIMIT 1) AS received_at
    OFFSET 0
) AS times
LEFT JOIN sightings sighting ON sighting.alert_id = e.alert_id AND sighting.recipient = c.recipient
                            AND sighting.seq >= e.seq;

COMMENT ON VIEW audit.deliveries IS
    'One row for each event and each connection that it was sent to. Name an alert_id, a time of'
    ' occurred_at, or a connection: these are looked up. The whole view is as long as the log times'
    ' the admins.';
COMMENT ON COLUMN audit.deliveries.seq IS 'position of the event in the log';
COMMENT ON COLUMN audit.deliveries.alert_id IS 'the alert that the event is about';
COMMENT ON COLUMN audit.deliveries.kind IS 'what happened to the alert, such as alert.created';
COMMENT ON COLUMN audit.deliveries.topic IS 'the topic of the alert';
COMMENT ON COLUMN audit.deliveries.severity IS 'the severity of the alert when the event happened';
COMMENT ON COLUMN audit.deliveries.recipient IS
    'the admin: the subject of the token that opened the connection';
COMMENT ON COLUMN audit.deliveries.connection IS 'the connection that the event was sent to';
COMMENT ON COLUMN audit.deliveries.node IS 'the node that sent it';
COMMENT ON COLUMN audit.deliveries.occurred_at IS
    'when the event happened: just before it was committed';
COMMENT ON COLUMN audit.deliveries.sent_at IS 'when the last of its bytes was at the socket';
COMMENT ON COLUMN audit.deliveries.received_at IS
    'when the client confirmed its receipt; null: not yet, or never';
COMMENT ON COLUMN audit.deliveries.latency IS 'from sent_at to received_at';
COMMENT ON COLUMN audit.deliveries.seen_at IS
    'when the client first reported that the admin saw the alert, if the event had happened by then'
    ' (audit.sightings has them all)';
COMMENT ON COLUMN audit.deliveries.replayed IS
    'whether it was sent while the connection caught up, after it was opened: the admin was away when the event'
    ' happened, and the time until sent_at says nothing about the service';
