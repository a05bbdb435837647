-- audit.callers: posted alerts, counted by source and hour.

CREATE VIEW audit.callers AS
SELECT source, hour, alerts, repeated, replayed, refused, first_at, last_at FROM callers;

COMMENT ON VIEW audit.callers IS
    'One row for each source of alerts and each hour. It may say less than happened, never more.';
COMMENT ON COLUMN audit.callers.source IS
    'who posted: the subject of the token; empty: all those together that a node did not count'
    ' apart';
COMMENT ON COLUMN audit.callers.hour IS 'when the hour began, in UTC';
COMMENT ON COLUMN audit.callers.alerts IS 'alerts that were stored';
COMMENT ON COLUMN audit.callers.repeated IS
    'alerts that repeated an unresolved one with the same dedup_key, and were counted there';
COMMENT ON COLUMN audit.callers.replayed IS
    'retries that were answered from their idempotency key, and stored nothing';
COMMENT ON COLUMN audit.callers.refused IS
    'requests, and items of batches, that brought a valid token and were answered with an error';
COMMENT ON COLUMN audit.callers.first_at IS 'when the first of these was answered';
COMMENT ON COLUMN audit.callers.last_at IS 'when the last of these was answered';
