-- Drop everything that the baseline created, and the role if no other database uses it.

DROP SCHEMA audit CASCADE;
DROP FUNCTION append_alerts, closing_line, dispatch_line, ensure_event_partitions, event_matches, event_partitions,
    filter_matches, grant_audit, link_log, log_blocks, microseconds, receipt_line, topic_likes, write_ledger;
DROP TABLE alert_search, alerts, callers, connections, dispatches, events, handshake_rejections, idempotency_keys,
    ledger_chain, log_chain, nodes, purges, receipts, recipients, revocations;
DROP TYPE alert_status, severity;

DO $$
BEGIN
    DROP ROLE IF EXISTS tocsin_auditor;
EXCEPTION  -- another database uses it, or it is not ours to drop
    WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL;
END $$;
