-- Grant the schema audit to the role tocsin_auditor, and nothing else.
--
-- Call it again after adding a function; new views are readable by default. Roles belong to the whole
-- cluster, in which other databases may be migrated at the same moment.

CREATE FUNCTION grant_audit() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ours regprocedure;
BEGIN
    FOR ours IN
        SELECT oid::regprocedure FROM pg_proc p
        WHERE pronamespace = 'public'::regnamespace AND provolatile <> 'i' AND pg_has_role(proowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', ours);
    END LOOP;
    IF to_regrole('tocsin_auditor') IS NULL THEN
        BEGIN
            CREATE ROLE tocsin_auditor NOLOGIN;
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
    RETURN true;
END $$;
