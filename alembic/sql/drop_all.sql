-- Drop everything that the baseline created, and the role if no other database uses it.

DROP SCHEMA audit CASCADE;
DROP SCHEMA locks CASCADE;
DROP VIEW serving_nodes;
DROP FUNCTION advance_resume_points, append_alerts, begin_resume_point, closing_line, dispatch_line, end_nodes, ensure_event_partitions, event_id_at,
    event_matches, event_partitions, filter_key, grant_audit, is_addressed, link_log, lock_log, log_blocks, log_holds, microseconds,
    notify_nodes, receipt_line, revoke_from_public, settle_attempt, sighting_line, topic_like, topic_likes,
    try_lock, write_ledger;
DROP VIEW log_head, deactivated_recipients;
DROP FUNCTION require_durability, require_server, server_identity;
DROP TABLE alert_search, alerts, commit_attempts, connections, dispatches, events, handshake_rejections,
    idempotency_keys, ledger_chain, log_chain, message_key, nodes, receipts, recipients, rejection_hours, resolutions, resume_points, retention_runs,
    revocations, search_changes, sightings, source_hours, subject_names;
DROP FUNCTION lock_revocations, notify_revocations;
DROP FUNCTION alert_words, search_words, word_lexemes, lone_character;
DROP TYPE alert_status, severity;

ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON ROUTINES TO PUBLIC;

DO $$
BEGIN
    DROP ROLE IF EXISTS tocsin_auditor;
EXCEPTION
    WHEN dependent_objects_still_exist THEN NULL;  -- another database uses it
    WHEN insufficient_privilege THEN NULL;
END $$;
