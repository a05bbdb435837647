-- Keep every time in the years from 1970 to 9999: beyond them, and for infinity, Python has none, and a row that
-- cannot be read would stop every node, whoever wrote it.

DO $$
DECLARE
    timed record;
BEGIN
    FOR timed IN
        SELECT c.oid::regclass AS name, relname,
               string_agg(format('%1$I >= ''1970-01-01Z'' AND %1$I < ''10000-01-01Z''', attname), ' AND ') AS checked
        FROM pg_class c JOIN pg_attribute ON attrelid = c.oid
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
          AND atttypid = 'timestamptz'::regtype AND NOT attisdropped AND attgenerated = ''
        GROUP BY c.oid
    LOOP
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (%s)', timed.name, 'ck_' || timed.relname || '_times',
                       timed.checked);
    END LOOP;
END $$;
