-- audit.presence: the admins who are connected now.

CREATE VIEW audit.presence AS
SELECT c.recipient, count(*) AS connections, min(c.opened_at) AS since,
       array_agg(DISTINCT c.node_id ORDER BY c.node_id) AS nodes,
       (SELECT s.name FROM subject_names s WHERE s.subject = c.recipient) AS name
FROM connections c JOIN serving_nodes n ON n.id = c.node_id
WHERE c.closed_at IS NULL AND c.recipient NOT IN (SELECT d.recipient FROM deactivated_recipients d)
GROUP BY c.recipient;

COMMENT ON VIEW audit.presence IS 'One row for each admin who is connected now, to any node.';
COMMENT ON COLUMN audit.presence.recipient IS 'the admin';
COMMENT ON COLUMN audit.presence.connections IS 'the number of open connections';
COMMENT ON COLUMN audit.presence.since IS 'when the oldest of them was opened';
COMMENT ON COLUMN audit.presence.nodes IS 'the nodes that hold them';
COMMENT ON COLUMN audit.presence.name IS 'what the admin is shown by; null: no token of theirs says it';
