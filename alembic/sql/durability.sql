-- What the answer "stored" depends on: a durable commit, on the server that holds the log.
--
-- The service sets and verifies this on each connection (service/database/durability.py). These functions hold
-- the transaction itself to it, whoever opened the connection, and also behind a connection pooler. SQLSTATEs 57T01
-- and, for a standby, 57T02 mean that nothing may be stored here at the moment; the message says why.

-- Make the commit of this transaction durable, or raise.
CREATE FUNCTION require_durability() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'PostgreSQL is a standby' USING ERRCODE = '57T02';
    END IF;
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'PostgreSQL is read-only' USING ERRCODE = 'read_only_sql_transaction';
    END IF;
    -- The callers need statements whose snapshots are newer than the locks that they take.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the transaction is not READ COMMITTED' USING ERRCODE = '57T01';
    END IF;
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END $$;

-- What tells this run of this server, and this database, from any other.
CREATE FUNCTION server_identity() RETURNS text LANGUAGE sql STABLE
RETURN (SELECT extract(epoch FROM pg_postmaster_start_time()) || '/' || oid
        FROM pg_database WHERE datname = current_database());

-- Raise unless this is the primary with that identity: a pooler may lead to another one.
CREATE FUNCTION require_server(identity text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'PostgreSQL is a standby' USING ERRCODE = '57T02';
    END IF;
    IF identity <> server_identity() THEN
        RAISE EXCEPTION 'TOCSIN_DATABASE_URL does not lead to the database of TOCSIN_LISTEN_URL'
        USING ERRCODE = '57T01';
    END IF;
END $$;
