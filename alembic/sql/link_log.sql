-- The hash chain over the log (see service/events/hash_chain.py).

CREATE FUNCTION microseconds(at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(epoch FROM at) * 1000000)::bigint;

-- Link the events after `after_seq`, under the lock of the log. `ids` holds the id of each of them, `digests` 32
-- bytes for each. No link crosses a multiple of 10,000, so that whole partitions of the log hold whole links.
CREATE FUNCTION link_log(after_seq bigint, ids bigint[], digests bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    stored bigint := after_seq + cardinality(ids);
    first bigint := after_seq + 1;
    last bigint;
    at timestamptz := clock_timestamp();
    link bytea := coalesce((SELECT hash FROM log_chain WHERE last_seq = after_seq), decode(repeat('00', 32), 'hex'));
BEGIN
    WHILE first <= stored LOOP
        last := least(stored, (first / 10000 + 1) * 10000 - 1);
        link := sha256(
            link || int8send(first) || int8send(microseconds(at))
            || substr(digests, (first - after_seq - 1)::integer * 32 + 1, (last - first + 1)::integer * 32));
        INSERT INTO log_chain (last_seq, first_seq, last_id, linked_at, hash)
        VALUES (last, first, ids[last - after_seq], at, link);
        first := last + 1;
    END LOOP;
END $$;
