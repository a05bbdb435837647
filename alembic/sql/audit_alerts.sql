-- audit.alerts: what each alert is, what became of it, and for how long it has been open.
--
-- The rows are those of a table whose unresolved alerts have an index, so that `WHERE status = 'open'` is quick
-- however long the past is. Who acknowledged an alert is looked up in the log, for the rows of the answer only.

CREATE VIEW audit.alerts AS
SELECT a.id AS alert_id, a.seq, a.topic, a.source, a.severity, a.title, a.status, a.recipients, a.dedup_key,
       a.occurrences, a.created_at, a.updated_at, a.status_at, a.status_by,
       CASE WHEN a.status = 'open' THEN now() - a.status_at END AS open_for,
       CASE WHEN a.status = 'acknowledged' THEN a.status_at
            ELSE (SELECT e.occurred_at FROM events e WHERE e.alert_id = a.id AND e.kind = 'alert.acknowledged'
                  ORDER BY e.seq DESC LIMIT 1) END AS acknowledged_at,
       CASE WHEN a.status = 'acknowledged' THEN a.status_by
            ELSE (SELECT e.actor FROM events e WHERE e.alert_id = a.id AND e.kind = 'alert.acknowledged'
                  ORDER BY e.seq DESC LIMIT 1) END AS acknowledged_by,
       CASE WHEN a.status = 'resolved' THEN a.status_at END AS resolved_at,
       CASE WHEN a.status = 'resolved' THEN a.status_by END AS resolved_by,
       a.expires_at
FROM alerts a;

COMMENT ON VIEW audit.alerts IS
    'One row for each alert that is kept, as it is now. Open for more than ten minutes:'
    ' WHERE status = ''open'' AND open_for > interval ''10 minutes''.';
COMMENT ON COLUMN audit.alerts.alert_id IS 'the alert';
COMMENT ON COLUMN audit.alerts.seq IS 'position of its first event in the log';
COMMENT ON COLUMN audit.alerts.topic IS 'its topic';
COMMENT ON COLUMN audit.alerts.source IS 'who posted it: the subject of the token';
COMMENT ON COLUMN audit.alerts.severity IS 'its severity now';
COMMENT ON COLUMN audit.alerts.title IS 'its title now';
COMMENT ON COLUMN audit.alerts.status IS
    'its status now: open, acknowledged, resolved or expired; one that was acknowledged is unresolved, and not open';
COMMENT ON COLUMN audit.alerts.recipients IS 'for these admins only; null: for all who may see its topic';
COMMENT ON COLUMN audit.alerts.dedup_key IS 'the key by which its source repeats and resolves it; null: none';
COMMENT ON COLUMN audit.alerts.occurrences IS 'how often it was posted while it was unresolved';
COMMENT ON COLUMN audit.alerts.created_at IS 'when it was posted first';
COMMENT ON COLUMN audit.alerts.updated_at IS 'when it last changed';
COMMENT ON COLUMN audit.alerts.status_at IS 'since when it has its status';
COMMENT ON COLUMN audit.alerts.status_by IS 'who set its status: the source until somebody acts';
COMMENT ON COLUMN audit.alerts.open_for IS
    'how long it has been open: since it was created, or last reopened, by whomever; null: it is not open';
COMMENT ON COLUMN audit.alerts.acknowledged_at IS
    'when it was last acknowledged, also if it was reopened or resolved since; null: never, or the event was purged';
COMMENT ON COLUMN audit.alerts.acknowledged_by IS 'who did';
COMMENT ON COLUMN audit.alerts.resolved_at IS 'when it was resolved; null: it is not';
COMMENT ON COLUMN audit.alerts.resolved_by IS 'who resolved it';
COMMENT ON COLUMN audit.alerts.expires_at IS 'when it expires, or did; null: never';
