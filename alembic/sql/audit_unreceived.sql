-- audit.unreceived: alerts that an admin may see and has not received.
--
-- The view answers for millions of pairs of an alert and an admin, so a pair costs a join by topic and a
-- comparison of two multiranges of seqs: the events of the alert, and what the admin has received. Both
-- are made first, once per alert and once per topic and admin. What a row shows besides is looked up
-- outside of the subquery: with ORDER BY and LIMIT, for the rows of the page only.

CREATE VIEW audit.unreceived AS
SELECT pair.id AS alert_id, pair.seq, pair.topic, pair.severity, pair.title, pair.status, pair.recipient,
       pair.created_at AS occurred_at, now() - pair.created_at AS waiting,
       (SELECT min(d.sent_at) FROM audit.deliveries d
        WHERE d.alert_id = pair.id AND d.seq >= pair.seq AND d.recipient = pair.recipient) AS sent_at,
       CASE WHEN pair.covered THEN true
            WHEN EXISTS (SELECT FROM recipients WHERE id = pair.recipient) THEN false END AS covered,
       (SELECT seen_at FROM sightings WHERE alert_id = pair.id AND recipient = pair.recipient) AS seen_at
FROM (
    WITH RECURSIVE topics AS (
        -- The distinct topics, each found by one look into the index: a scan of all alerts would take minutes.
        SELECT min(topic) AS topic FROM alerts
        UNION ALL
        SELECT (SELECT min(alerts.topic) FROM alerts WHERE alerts.topic > topics.topic)
        FROM topics WHERE topic IS NOT NULL
    ), filter_ranges AS (
        -- What each admin has received through each filter that they ever used. One connection begins where
        -- another ended, so these are few ranges, however many connections there were.
        SELECT c.recipient, c.min_severity, topic_likes(c.topics) AS likes,
               range_agg(int8range(c.after_seq, least(receipt.seq, sent.seq), '(]')) AS seqs
        FROM connections c
        JOIN nodes n ON n.id = c.node_id
        CROSS JOIN LATERAL (SELECT greatest(c.after_seq, coalesce(c.sent_seq, n.sent_seq)) AS seq) AS sent
        JOIN LATERAL (SELECT max(seq) AS seq FROM receipts WHERE connection_id = c.id) AS receipt
          ON receipt.seq > c.after_seq
        GROUP BY c.recipient, c.min_severity, c.topics
    ), received AS (
        -- The same for each topic, by the severity of the event; and who may see the topic.
        SELECT topic AS of_topic, recipient, bool_or(covered) AS covered, min(first_seen_seq) AS first_seen_seq,
               range_agg(seqs) FILTER (WHERE min_severity <= 'info') AS info,
               range_agg(seqs) FILTER (WHERE min_severity <= 'warning') AS warning,
               range_agg(seqs) FILTER (WHERE min_severity <= 'error') AS error,
               range_agg(seqs) FILTER (WHERE min_severity <= 'critical') AS critical
        FROM (
            SELECT topic, id AS recipient, true AS covered, first_seen_seq,
                   NULL::severity AS min_severity, NULL::int8multirange AS seqs
            FROM topics
            JOIN (SELECT id, first_seen_seq, topic_likes(topics) AS likes FROM recipients OFFSET 0) AS admin
              ON topic LIKE ANY (likes)
            UNION ALL
            SELECT topic, recipient, false, NULL, min_severity, seqs FROM topics JOIN filter_ranges ON topic LIKE ANY (likes)
        ) AS by_filter
        GROUP BY topic, recipient
    ), alert AS NOT MATERIALIZED (
        -- The events of an alert by severity, where they are for all who may see its topic.
        SELECT a.id, a.seq, a.topic, a.severity, a.title, a.status, a.recipients, a.created_at, a.escalate_after,
               range_agg(event.seqs) FILTER (WHERE e.recipients IS NULL AND e.severity = 'info') AS info_events,
               range_agg(event.seqs) FILTER (WHERE e.recipients IS NULL AND e.severity = 'warning') AS warning_events,
               range_agg(event.seqs) FILTER (WHERE e.recipients IS NULL AND e.severity = 'error') AS error_events,
               range_agg(event.seqs) FILTER (WHERE e.recipients IS NULL AND e.severity = 'critical') AS critical_events,
               max(e.recipients) AS named
        FROM alerts a
        LEFT JOIN events e ON e.alert_id = a.id AND e.seq >= a.seq
        CROSS JOIN LATERAL (SELECT int8range(e.seq, e.seq, '[]') AS seqs) AS event
        GROUP BY a.id
    ), addressed AS NOT MATERIALIZED (
        SELECT a.*, r.*
        FROM alert a JOIN received r ON r.of_topic = a.topic AND r.covered AND r.first_seen_seq < a.seq
        WHERE a.recipients IS NULL AND (a.named IS NULL OR r.recipient <> ALL (a.named))
        UNION ALL
        -- Those whom an alert names, or named until it escalated.
        SELECT a.*, a.topic, admin.name, r.covered, r.first_seen_seq, r.info, r.warning, r.error, r.critical
        FROM alert a
        CROSS JOIN LATERAL (SELECT DISTINCT unnest(coalesce(a.recipients, a.named))) AS admin (name)
        LEFT JOIN received r ON r.of_topic = a.topic AND r.recipient = admin.name
        WHERE a.recipients IS NOT NULL OR a.escalate_after IS NOT NULL
    )
    SELECT * FROM addressed
    WHERE recipient NOT IN (SELECT deactivated.recipient FROM deactivated_recipients AS deactivated)
      AND (info_events && info) IS NOT TRUE AND (warning_events && warning) IS NOT TRUE
      AND (error_events && error) IS NOT TRUE AND (critical_events && critical) IS NOT TRUE
      -- An event that names admins counts for these; the alert is for them, or was until it escalated.
      AND NOT (named IS NOT NULL AND EXISTS (
          SELECT FROM events e
          WHERE e.alert_id = addressed.id AND e.seq >= addressed.seq AND addressed.recipient = ANY (e.recipients)
            AND e.seq <@ CASE e.severity WHEN 'info' THEN info WHEN 'warning' THEN warning
                                         WHEN 'error' THEN error ELSE critical END
      ))
) AS pair;

COMMENT ON VIEW audit.unreceived IS
    'One row for each alert and each admin who may see it and has confirmed the receipt of no event'
    ' of it. Where an alert names admins, it is for these, whether they ever connected or not;'
    ' otherwise, and also once it has escalated, it is for every admin whose last token covers its topic'
    ' and who had connected before it was created, with whatever token. Nobody is listed while they are'
    ' deactivated; once they are reactivated, what they have missed is listed.';
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
