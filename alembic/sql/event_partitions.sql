-- The partitions of the log: list them, and create them ahead of need.

-- `ends` is the first seq after the partition; `detaching` says that it is no longer visible in `events`
-- and not yet detached.
CREATE FUNCTION event_partitions() RETURNS TABLE (name text, begins bigint, ends bigint, detaching boolean)
LANGUAGE sql STABLE AS $$
SELECT c.relname, bounds[1]::bigint, bounds[2]::bigint, i.inhdetachpending
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
     regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(\d+)''\) TO \(''(\d+)''\)') AS bounds
WHERE i.inhparent = 'events'::regclass
$$;

-- Create partitions of `size` events until there is room for `room` events after the head, but no more
-- than `most` ahead of it. The first one begins where the last one ends, whatever its size was. They are
-- created as tables of their own and then attached, which blocks neither appends nor reads.
CREATE FUNCTION ensure_event_partitions(size bigint, room bigint, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    next bigint;
    ahead bigint;
BEGIN
    LOCK TABLE locks.partitions IN EXCLUSIVE MODE;
    SELECT coalesce(max(last_seq), 0) INTO head FROM log_chain;
    SELECT coalesce(max(ends), head / size * size), count(*) FILTER (WHERE begins > head) INTO next, ahead
    FROM event_partitions();
    WHILE next <= head + room AND (next <= head OR ahead < most) LOOP
        EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)',
                       'events_p' || next);
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                       'events_p' || next, next, next + size);
        ahead := ahead + (next > head)::integer;
        next := next + size;
    END LOOP;
END $$;
