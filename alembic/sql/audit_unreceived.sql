-- audit.unreceived: alerts that an admin may see and has not received.
--
-- The view answers for millions of pairs of an alert and an admin, so it merges the ranges of an admin
-- first: connections with the same filter that follow one another are one range.

CREATE VIEW audit.unreceived AS
WITH RECURSIVE topics AS (
    -- The distinct topics, each found by one look into the index: reading them all would take minutes.
    SELECT min(topic) AS topic FROM alerts
    UNION ALL
    SELECT (SELECT min(alerts.topic) FROM alerts WHERE alerts.topic > topics.topic)
    FROM topics WHERE topic IS NOT NULL
), audience AS MATERIALIZED (
    -- Who may see a topic.
    SELECT topic, array_agg(admin.id) AS names
    FROM topics
    JOIN (SELECT id, topic_likes(topics) AS likes FROM recipients OFFSET 0) AS admin ON topic LIKE ANY (admin.likes)
    GROUP BY topic
), reach AS (
    -- How much of the log each admin was sent, and has received, through each filter that they ever used. One
    -- connection begins where another ended, so these are few ranges, however many connections there were.
    SELECT c.recipient, c.min_severity, topic_likes(c.topics) AS likes,
           range_agg(int8range(c.after_seq, sent.seq, '(]')) AS sent,
           range_agg(int8range(c.after_seq, least(coalesce(acked.seq, c.after_seq), sent.seq), '(]')) AS received
    FROM connections c
    JOIN nodes n ON n.id = c.node_id
    CROSS JOIN LATERAL (SELECT greatest(c.after_seq, coalesce(c.sent_seq, n.sent_seq)) AS seq) AS sent
    CROSS JOIN LATERAL (SELECT max(seq) AS seq FROM receipts WHERE connection_id = c.id) AS acked
    GROUP BY c.recipient, c.min_severity, c.topics
), passage AS (
    -- The same for each topic and severity that a filter lets through, so that events can be hashed to it; what was
    -- received is a row of its own, so that what is joined can be forgotten at once: ranges are bulky to sort.
    SELECT topic, severity, recipient, range.received, range.seqs
    FROM reach
    JOIN topics ON topic LIKE ANY (likes)
    CROSS JOIN LATERAL unnest(enum_range(min_severity, NULL)) AS severity
    CROSS JOIN LATERAL (VALUES (false, reach.sent), (true, reach.received)) AS range (received, seqs)
), alert AS (
    -- Who was sent any event of an alert, and who has received one.
    SELECT a.id, a.seq, a.topic, a.recipients, a.created_at,
           array_agg(p.recipient) FILTER (WHERE NOT p.received) AS sent_to,
           coalesce(array_agg(p.recipient) FILTER (WHERE p.received), '{}') AS received_by
    FROM alerts a
    LEFT JOIN events e ON e.alert_id = a.id AND e.seq >= a.seq
    LEFT JOIN passage p ON p.topic = a.topic AND p.severity = e.severity AND p.seqs @> e.seq
                       AND (e.recipients IS NULL OR p.recipient = ANY (e.recipients))
    GROUP BY a.id, a.seq, a.topic, a.recipients, a.created_at
)
SELECT a.id AS alert_id, a.seq, a.topic, shown.severity, shown.title, shown.status, who.recipient,
       a.created_at AS occurred_at, now() - a.created_at AS waiting,
       CASE WHEN who.recipient = ANY (a.sent_to) THEN (
           -- As in audit.deliveries, for the few events of one alert.
           SELECT min(coalesce(
               CASE WHEN e.seq <= own.dispatched_seq THEN (
                   SELECT CASE WHEN after_seq < e.seq THEN at END FROM dispatches
                   WHERE connection_id = c.id AND up_to_seq >= e.seq ORDER BY up_to_seq LIMIT 1
               ) END, (
                   SELECT CASE WHEN after_seq < e.seq THEN at END FROM dispatches
                   WHERE connection_id IS NULL AND node_id = c.node_id AND up_to_seq >= e.seq
                   ORDER BY up_to_seq LIMIT 1
               )
           ))
           FROM events e
           JOIN connections c ON c.recipient = who.recipient AND c.after_seq < e.seq
           JOIN nodes n ON n.id = c.node_id AND e.seq <= coalesce(c.sent_seq, n.sent_seq)
           CROSS JOIN LATERAL (
               SELECT topic_likes(c.topics) AS likes,
                      (SELECT max(up_to_seq) FROM dispatches WHERE connection_id = c.id) AS dispatched_seq
               OFFSET 0
           ) AS own
           WHERE e.alert_id = a.id AND e.seq >= a.seq
             AND filter_matches(own.likes, c.min_severity, c.recipient, e.topic, e.severity, e.recipients)
       ) END AS sent_at,
       CASE WHEN a.recipients IS NULL OR who.recipient = ANY (audience.names) THEN true
            WHEN EXISTS (SELECT FROM recipients WHERE id = who.recipient) THEN false END AS covered
FROM alert a
JOIN alerts shown ON shown.id = a.id
LEFT JOIN audience ON audience.topic = a.topic
CROSS JOIN LATERAL (SELECT DISTINCT unnest(coalesce(a.recipients, audience.names))) AS who (recipient)
WHERE who.recipient <> ALL (a.received_by);

COMMENT ON VIEW audit.unreceived IS
    'One row for each alert and each admin who may see it and has acknowledged the receipt of no'
    ' event of it. Who may see it: every admin that was ever connected whose last token covers its'
    ' topic, or, where it names admins, those, whether they were ever seen or not.';
COMMENT ON COLUMN audit.unreceived.alert_id IS 'the alert';
COMMENT ON COLUMN audit.unreceived.seq IS 'position of its first event in the log';
COMMENT ON COLUMN audit.unreceived.topic IS 'its topic';
COMMENT ON COLUMN audit.unreceived.severity IS 'its severity now';
COMMENT ON COLUMN audit.unreceived.title IS 'its title';
COMMENT ON COLUMN audit.unreceived.status IS
    'where it stands now: open, acknowledged, resolved or expired';
COMMENT ON COLUMN audit.unreceived.recipient IS 'the admin who has not received it';
COMMENT ON COLUMN audit.unreceived.occurred_at IS 'when it was created';
COMMENT ON COLUMN audit.unreceived.waiting IS 'how long ago that was';
COMMENT ON COLUMN audit.unreceived.sent_at IS
    'when an event of it was first sent to them, unacknowledged; null: never';
COMMENT ON COLUMN audit.unreceived.covered IS
    'whether their last token covers the topic; false: named, but nothing can reach them; null:'
    ' named, and never seen';
