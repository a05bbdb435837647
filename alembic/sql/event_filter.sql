-- Topic patterns, and which events pass the filter of a connection.
--
-- The Python twins are service/topics.py, service/auth/authorization.py and service/events/filter.py; property tests hold them equal.

-- A pattern of topics as a pattern of LIKE.
CREATE FUNCTION topic_like(pattern text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN pattern = '*' THEN '%'
            WHEN right(pattern, 2) = '.*' THEN replace(left(pattern, -1), '_', '\_') || '%'
            ELSE replace(pattern, '_', '\_') END;

CREATE FUNCTION topic_likes(patterns text[]) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(array_agg(topic_like(pattern)), '{}') FROM unnest(patterns) AS pattern);

-- Whether what is for `recipients` is for a subject; null is everybody, and an empty list is nobody. The Python twin
-- is in service/auth/authorization.py.
CREATE FUNCTION is_addressed(recipients text[], subject text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN recipients IS NULL OR subject = ANY (recipients);

-- `likes` are the topic_likes of the filter, made once and not per event. The function is an expression
-- without a query of its own, so the planner inlines it; for tens of thousands of events that is the
-- difference between milliseconds and a tenth of a second.
CREATE FUNCTION event_matches(
    likes text[], min_severity severity, recipient text,
    event_topic text, event_severity severity, event_recipients text[]
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN event_severity >= min_severity
   AND is_addressed(event_recipients, recipient)
   AND event_topic LIKE ANY (likes);
