-- audit.retention_runs: what retention deleted.

CREATE VIEW audit.retention_runs AS
SELECT id AS run, at, first_seq, last_seq, older_than, events, alerts, unresolved_alerts, connections,
       dispatches, receipts, sightings, rejections, rejection_hours, idempotency_keys, source_hours,
       log_hash, ledger_link_id, ledger_hash, archive, dropped_at
FROM retention_runs;

COMMENT ON VIEW audit.retention_runs IS
    'One row for each partition of the log that retention deleted, and for each run that deleted'
    ' something else.';
COMMENT ON COLUMN audit.retention_runs.run IS 'its number, in order';
COMMENT ON COLUMN audit.retention_runs.at IS 'when it began';
COMMENT ON COLUMN audit.retention_runs.first_seq IS
    'the first event of the deleted partition of the log; null: none was deleted';
COMMENT ON COLUMN audit.retention_runs.last_seq IS
    'the last event of the deleted partition; the log begins after the highest one';
COMMENT ON COLUMN audit.retention_runs.older_than IS 'what was older than this was deleted';
COMMENT ON COLUMN audit.retention_runs.events IS 'the number of deleted events';
COMMENT ON COLUMN audit.retention_runs.alerts IS 'the number of deleted alerts';
COMMENT ON COLUMN audit.retention_runs.unresolved_alerts IS
    'how many of them were open or acknowledged';
COMMENT ON COLUMN audit.retention_runs.connections IS 'the number of deleted closed connections';
COMMENT ON COLUMN audit.retention_runs.dispatches IS
    'the number of deleted dispatches: fan-out passes and replayed chunks';
COMMENT ON COLUMN audit.retention_runs.receipts IS 'the number of deleted receipts';
COMMENT ON COLUMN audit.retention_runs.sightings IS
    'the number of deleted sightings (audit.sightings)';
COMMENT ON COLUMN audit.retention_runs.rejections IS
    'the number of deleted rejected handshakes (audit.rejections)';
COMMENT ON COLUMN audit.retention_runs.rejection_hours IS
    'the number of deleted hourly counts of rejected handshakes (audit.rejection_counts)';
COMMENT ON COLUMN audit.retention_runs.idempotency_keys IS
    'the number of idempotency keys deleted with the event that they answered with';
COMMENT ON COLUMN audit.retention_runs.source_hours IS
    'the number of deleted hours of sources (audit.sources)';
COMMENT ON COLUMN audit.retention_runs.log_hash IS
    'the hash of the log''s link that ended at last_seq, which the rest of the chain follows';
COMMENT ON COLUMN audit.retention_runs.ledger_link_id IS
    'the last deleted link of the ledger''s chain; null: none was deleted';
COMMENT ON COLUMN audit.retention_runs.ledger_hash IS
    'the hash of that link, which the rest of the chain follows';
COMMENT ON COLUMN audit.retention_runs.archive IS
    'the file that holds the events; null: they were not archived';
COMMENT ON COLUMN audit.retention_runs.dropped_at IS
    'when the partition was dropped; null: not yet, or there was none';
