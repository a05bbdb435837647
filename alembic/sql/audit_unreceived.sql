-- audit.unreceived: alerts that an admin may see and has not received.
--
-- The view answers for millions of pairs of an alert and an admin, so it merges the ranges of an admin
-- first: connections with the same filter that follow one another are one range.

CREATE VIEW audit.unreceived AS
WITH RECURSIVE topics AS (
    -- The distinct topics, each found by one look into the index: a scan of all alerts would take minutes.
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
), filter_ranges AS (
    -- What each admin was sent, and has received, through each filter that they ever used. One connection
    -- begins where another ended, so these are few ranges, however many connections there were.
    SELECT c.recipient, c.min_severity, topic_likes(c.topics) AS likes,
           range_agg(int8range(c.after_seq, sent.seq, '(]')) AS sent,
           range_agg(int8range(c.after_seq, least(coalesce(received.seq, c.after_seq), sent.seq), '(]')) AS received
    FROM connections c
    JOIN nodes n ON n.id = c.node_id
    CROSS JOIN LATERAL (SELECT greatest(c.after_seq, coalesce(c.sent_seq, n.sent_seq)) AS seq) AS sent
    CROSS JOIN LATERAL (SELECT max(seq) AS seq FROM receipts WHERE connection_id = c.id) AS received
    GROUP BY c.recipient, c.min_severity, c.topics
), topic_ranges AS (
    -- The same for each topic and severity that a filter passes, so that events can be hashed to it. What was
    -- received is a row of its own, so that the ranges are dropped right after the join: they are bulky to sort.
    SELECT topic, severity, recipient, range.received, range.seqs
    FROM filter_ranges f
    JOIN topics ON topic LIKE ANY (f.likes)
    CROSS JOIN LATERAL unnest(enum_range(f.min_severity, NULL)) AS severity
    CROSS JOIN LATERAL (VALUES (false, f.sent), (true, f.received)) AS range (received, seqs)
), alert AS (
    -- Who was sent any event of an alert, and who has received one.
    SELECT a.id, a.seq, a.topic, a.recipients, a.created_at,
           array_agg(r.recipient) FILTER (WHERE NOT r.received) AS sent_to,
           coalesce(array_agg(r.recipient) FILTER (WHERE r.received), '{}') AS received_by
    FROM alerts a
    LEFT JOIN events e ON e.alert_id = a.id AND e.seq >= a.seq
    LEFT JOIN topic_ranges r ON r.topic = a.topic AND r.severity = e.severity AND r.seqs @> e.seq
                            AND (e.recipients IS NULL OR r.recipient = ANY (e.recipients))
    GROUP BY a.id, a.seq, a.topic, a.recipients, a.created_at
)
SELECT a.id AS alert_id, a.seq, a.topic, current.severity, current.title, current.status, admin.recipient,
       a.created_at AS occurred_at, now() - a.created_at AS waiting,
       CASE WHEN admin.recipient = ANY (a.sent_to) THEN (
           SELECT min(d.sent_at) FROM audit.deliveries d
           WHERE d.alert_id = a.id AND d.seq >= a.seq AND d.recipient = admin.recipient
       ) END AS sent_at,
       CASE WHEN a.recipients IS NULL OR admin.recipient = ANY (audience.names) THEN true
            WHEN EXISTS (SELECT FROM recipients WHERE id = admin.recipient) THEN false END AS covered,
       sighting.seen_at
FROM alert a
JOIN alerts current ON current.id = a.id
LEFT JOIN audience ON audience.topic = a.topic
CROSS JOIN LATERAL (SELECT DISTINCT unnest(coalesce(a.recipients, audience.names))) AS admin (recipient)
LEFT JOIN sightings sighting ON sighting.alert_id = a.id AND sighting.recipient = admin.recipient
WHERE admin.recipient <> ALL (a.received_by)
  AND admin.recipient NOT IN (SELECT deactivated.recipient FROM deactivated_recipients AS deactivated);

COMMENT ON VIEW audit.unreceived IS
    'One row for each alert and each admin who may see it and has confirmed the receipt of no event'
    ' of it. Where an alert names admins, it is for these, whether they ever connected or not;'
    ' otherwise it is for every admin who ever connected and whose last token covers its topic.'
    ' Nobody is listed while they are deactivated.';
COMMENT ON COLUMN audit.unreceived.alert_id IS 'the alert';
COMMENT ON COLUMN audit.unreceived.seq IS 'position of its first event in the log';
COMMENT ON COLUMN audit.unreceived.topic IS 'its topic';
COMMENT ON COLUMN audit.unreceived.severity IS 'its severity now';
COMMENT ON COLUMN audit.unreceived.title IS 'its title';
COMMENT ON COLUMN audit.unreceived.status IS
    'its status now: open, acknowledged, resolved or expired';
COMMENT ON COLUMN audit.unreceived.recipient IS 'the admin who has not received it';
COMMENT ON COLUMN audit.unreceived.occurred_at IS 'when it was created';
COMMENT ON COLUMN audit.unreceived.waiting IS 'how long ago that was';
COMMENT ON COLUMN audit.unreceived.sent_at IS
    'when an event of it was first sent to the admin; null: never';
COMMENT ON COLUMN audit.unreceived.covered IS
    'whether the last token of the admin covers the topic; false: named by the alert, but not'
    ' reachable; null: named by the alert, and never connected';
COMMENT ON COLUMN audit.unreceived.seen_at IS
    'when the client first reported that the admin saw the alert, for example in a list; null: not yet,'
    ' or never';
