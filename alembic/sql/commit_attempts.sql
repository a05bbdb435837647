-- Attempts to commit: a commit whose outcome is unknown is settled by content (docs/decisions/0004-unknown-commits.md).
--
-- Everything is checked inside the transaction that it is about, under the log's lock, so it does not matter which
-- session a pooler chooses. The snapshots of the statements are newer than the lock.

-- Take the log's lock, to the end of the transaction, for an attempt, or raise where recovery has given it up.
CREATE FUNCTION lock_log(attempt bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM require_durability();
    -- A node that has given up does not always cancel its statement.
    IF current_setting('lock_timeout') = '0' THEN
        PERFORM set_config('lock_timeout', '10s', true);
    END IF;
    LOCK TABLE locks.log IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM commit_attempts WHERE id = attempt AND NOT committed) THEN
        RAISE EXCEPTION 'the attempt was given up' USING ERRCODE = 'transaction_rollback';
    END IF;
END $$;

-- Settle an attempt: give it up unless it was committed, and return what of it was.
--
-- `committed` says so of a transaction of commands, which records itself. Of an append, `alert_ids` are those of its
-- alerts that were stored, in the order of the log, and `before_seq` and `before_id` the position before them.
--
-- The attempt may have been committed without its synchronous standbys. The result counts only once this transaction
-- was confirmed by them, so it writes something in any case.
CREATE FUNCTION settle_attempt(
    attempt bigint, INOUT alert_ids uuid[], OUT committed boolean, OUT before_seq bigint, OUT before_id bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_log(NULL);
    INSERT INTO commit_attempts (id, committed, at) VALUES (attempt, false, clock_timestamp()) ON CONFLICT DO NOTHING;
    PERFORM pg_logical_emit_message(true, 'tocsin', '');
    committed := (SELECT c.committed FROM commit_attempts c WHERE id = attempt);
    SELECT coalesce(array_agg(id ORDER BY seq), '{}'), coalesce(min(seq) - 1, 0) INTO alert_ids, before_seq
    FROM alerts WHERE id = ANY (alert_ids);
    before_id := event_id_at(before_seq);
END $$;
