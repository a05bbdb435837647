-- audit.presence: the admins who are connected now.

CREATE VIEW audit.presence AS
SELECT c.recipient, count(*) AS connections, min(c.opened_at) AS since,
       array_agg(DISTINCT n.id ORDER BY n.id) AS nodes
FROM connections c JOIN nodes n ON n.id = c.node_id
WHERE closed_at IS NULL AND n.ended_at IS NULL
  -- The lease: the connections of a node that was lost are closed a moment after it.
  AND n.seen_at >= now() - make_interval(secs => n.lease_seconds)
GROUP BY c.recipient;

COMMENT ON VIEW audit.presence IS 'One row for each admin who is connected now, to any node.';
COMMENT ON COLUMN audit.presence.recipient IS 'the admin';
COMMENT ON COLUMN audit.presence.connections IS 'how many connections they have';
COMMENT ON COLUMN audit.presence.since IS 'when the oldest of these was opened';
COMMENT ON COLUMN audit.presence.nodes IS 'the serving processes that hold them';
