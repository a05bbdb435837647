-- What each role of the database may do (docs/audit.md, "What an auditor can do").
--
-- A role may do what PUBLIC may, and PostgreSQL lets PUBLIC do more than read. These functions are called with every
-- migration; call them again after adding a function.

-- Take from PUBLIC what the owner of the database can take: to create temporary tables, to create tables in `public`,
-- to call functions of ours. Returns whether temporary tables were among it: only the owner of the database, or a
-- superuser, can do that. A node asks for it at its start as well, because a copy of the database or a restored dump
-- does not keep it.
CREATE FUNCTION revoke_from_public() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ours regprocedure;
BEGIN
    IF has_database_privilege('public', current_database(), 'TEMPORARY')
       AND pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')
    THEN
        LOCK TABLE locks.migration IN EXCLUSIVE MODE;
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    END IF;
    IF has_schema_privilege('public', 'public', 'CREATE')
       AND pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = 'public'), 'USAGE')
    THEN
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    END IF;
    FOR ours IN
        SELECT oid::regprocedure FROM pg_proc p
        WHERE pronamespace IN ('public'::regnamespace, 'audit'::regnamespace) AND pg_has_role(proowner, 'USAGE')
          AND has_function_privilege('public', oid, 'EXECUTE')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', ours);
    END LOOP;
    RETURN NOT has_database_privilege('public', current_database(), 'TEMPORARY');
END $$;

-- Grant the schema audit to the role tocsin_auditor, and nothing else. Returns whether there is such a role.
--
-- Roles belong to the whole cluster, in which other databases may be migrated at the same moment. The role has a login
-- and no password, so that nobody logs in with it until one is set, or pg_hba.conf says so. It can lift its own limits
-- of time again, but not its number of connections and, where a superuser migrates, not its temporary files.
CREATE FUNCTION grant_audit() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    is_superuser CONSTANT boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
BEGIN
    PERFORM revoke_from_public();
    ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
    IF is_superuser THEN
        REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
    END IF;
    IF to_regrole('tocsin_auditor') IS NULL THEN
        BEGIN
            CREATE ROLE tocsin_auditor LOGIN CONNECTION LIMIT 20;
            ALTER ROLE tocsin_auditor SET default_transaction_read_only = on;
            ALTER ROLE tocsin_auditor SET statement_timeout = '5min';
            ALTER ROLE tocsin_auditor SET idle_in_transaction_session_timeout = '1min';
            IF is_superuser THEN
                ALTER ROLE tocsin_auditor SET temp_file_limit = '2GB';
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;  -- another database was faster
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'the role tocsin_auditor is missing, and % may not create it', current_user;
                RETURN false;
        END;
    END IF;
    GRANT USAGE ON SCHEMA audit TO tocsin_auditor;
    GRANT SELECT ON ALL TABLES IN SCHEMA audit TO tocsin_auditor;
    ALTER DEFAULT PRIVILEGES IN SCHEMA audit GRANT SELECT ON TABLES TO tocsin_auditor;
    -- What the views call, which only computes: a function in a view runs with the rights of whoever reads it.
    GRANT EXECUTE ON FUNCTION event_matches, is_addressed, log_blocks, topic_like, topic_likes TO tocsin_auditor;
    RETURN true;
END $$;
