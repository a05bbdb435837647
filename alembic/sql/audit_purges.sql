-- audit.purges: what retention deleted.

CREATE VIEW audit.purges AS
SELECT id AS purge, at, first_seq, last_seq, older_than, events, alerts, unresolved_alerts, connections, dispatches,
       receipts, rejections, idempotency_keys, callers, log_hash, ledger_number, ledger_hash, archive, dropped_at
FROM purges;

COMMENT ON VIEW audit.purges IS 'One row for each time that something old was let go.';
COMMENT ON COLUMN audit.purges.purge IS 'its number, in order';
COMMENT ON COLUMN audit.purges.at IS 'when it began';
COMMENT ON COLUMN audit.purges.first_seq IS
    'the first event of the part of the log that went; null: none did';
COMMENT ON COLUMN audit.purges.last_seq IS
    'the last event of the part of the log that went; the log begins after the highest one';
COMMENT ON COLUMN audit.purges.older_than IS 'what was older than this was let go';
COMMENT ON COLUMN audit.purges.events IS 'how many events went';
COMMENT ON COLUMN audit.purges.alerts IS 'how many alerts went';
COMMENT ON COLUMN audit.purges.unresolved_alerts IS 'how many of them were open or acknowledged';
COMMENT ON COLUMN audit.purges.connections IS 'how many closed connections went';
COMMENT ON COLUMN audit.purges.dispatches IS
    'how many dispatches went: fan-out passes and replayed chunks';
COMMENT ON COLUMN audit.purges.receipts IS 'how many acknowledgements went';
COMMENT ON COLUMN audit.purges.rejections IS 'how many refused handshakes went';
COMMENT ON COLUMN audit.purges.idempotency_keys IS
    'how many idempotency keys went, because the event that they answered with did';
COMMENT ON COLUMN audit.purges.callers IS 'how many hours of callers went';
COMMENT ON COLUMN audit.purges.log_hash IS
    'the hash of the link of the log that ended at last_seq; what is left of the chain follows it';
COMMENT ON COLUMN audit.purges.ledger_number IS
    'the last link of the chain of the ledger that went; null: none did';
COMMENT ON COLUMN audit.purges.ledger_hash IS
    'its hash; what is left of the chain of the ledger follows it';
COMMENT ON COLUMN audit.purges.archive IS
    'the file that keeps the events; null: they are kept nowhere';
COMMENT ON COLUMN audit.purges.dropped_at IS
    'when the part of the log was gone; null: it is under way, or none went';
