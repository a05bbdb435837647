-- audit.sources: posted alerts, counted by source and hour.

CREATE VIEW audit.sources AS
SELECT source, hour, alerts, repeated, replayed, refused, first_at, last_at FROM source_hours;

COMMENT ON VIEW audit.sources IS
    'One row for each source of alerts and each hour. The counts may be lower than what happened,'
    ' never higher.';
COMMENT ON COLUMN audit.sources.source IS
    'the subject of the token; empty: all sources that a node did not count separately';
COMMENT ON COLUMN audit.sources.hour IS 'the start of the hour, in UTC';
COMMENT ON COLUMN audit.sources.alerts IS 'alerts that were stored';
COMMENT ON COLUMN audit.sources.repeated IS
    'alerts that repeated an unresolved one with the same dedup_key, and were counted there';
COMMENT ON COLUMN audit.sources.replayed IS
    'retries that were answered from their idempotency key, and stored nothing';
COMMENT ON COLUMN audit.sources.refused IS
    'requests, and items of batches, that had a valid token and were answered with an error';
COMMENT ON COLUMN audit.sources.first_at IS 'when the first of these was answered';
COMMENT ON COLUMN audit.sources.last_at IS 'when the last of these was answered';
