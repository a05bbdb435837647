-- The locks: one empty table each, in a schema that nobody but its owner may enter (service/database/locks.py).
--
-- service/database/locks.py makes the schema and locks.migration, before the first migration.

COMMENT ON SCHEMA locks IS 'One empty table per lock: LOCK TABLE … IN EXCLUSIVE MODE.';
COMMENT ON TABLE locks.migration IS 'One migration at a time.';

CREATE TABLE locks.retention ();
CREATE TABLE locks.housekeeping ();
CREATE TABLE locks.partitions ();
CREATE TABLE locks.revocations ();
CREATE TABLE locks.search_index ();
CREATE TABLE locks.log ();
CREATE TABLE locks.ledger ();

COMMENT ON TABLE locks.retention IS 'One retention run at a time.';
COMMENT ON TABLE locks.housekeeping IS 'One node at a time cleans up.';
COMMENT ON TABLE locks.partitions IS 'One node at a time creates partitions of the log.';
COMMENT ON TABLE locks.revocations IS 'One revocation at a time.';
COMMENT ON TABLE locks.search_index IS 'One node at a time fills the search index.';
COMMENT ON TABLE locks.log IS 'One append to the log at a time.';
COMMENT ON TABLE locks.ledger IS 'One flush of the ledger at a time.';

-- Take a lock to the end of the transaction, or return false where another transaction has it.
CREATE FUNCTION try_lock(name text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('LOCK TABLE locks.%I IN EXCLUSIVE MODE NOWAIT', name);
    RETURN true;
EXCEPTION
    WHEN lock_not_available THEN RETURN false;
END $$;
