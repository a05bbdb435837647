-- The words of alerts, which GET /v1/alerts?q= searches (service/alerts/search.py).
--
-- A text becomes its words in order, in lower case, each between spaces: ' db1 eu prod '. So a search for `db1.eu` is
-- LIKE '% db1 eu%', which needs no escapes, because %, _ and \ separate words. The characters are listed, because the
-- classes of a regular expression depend on the locale.

-- A character that is a word of its own: of a script that is written without spaces, such as Chinese and Thai, a symbol
-- or an emoji.
CREATE FUNCTION lone_character() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '[\u0e00-\u11ff\u1780-\u17ff\u20a0-\u2bff\u2e80-\ud7ff\uf900-\ufaff\U0001f000-\U0003ffff]';

-- Punctuation separates words. They are broken after 64 characters, because an index bounds its keys. The unit
-- separator, which no alert contains, stays.
CREATE FUNCTION search_words(content text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(
    CASE WHEN content !~ '[^\x01-\x7f]' THEN regexp_replace(' ' || lower(content) || ' ', '[^a-z0-9\x1f]+', ' ', 'g')
    ELSE regexp_replace(
        regexp_replace(
            ' ' || lower(normalize(content, NFKC)) || ' ',
            '[\x01-\x1e\x20-\x2f\x3a-\x40\x5b-\x60\x7b-\xbf\xd7\xf7\u037e\u0387\u055a-\u055f\u0589\u058a\u05be\u05c0'
            '\u05c3\u05f3\u05f4\u060c\u060d\u061b-\u061f\u066a-\u066d\u06d4\u0964\u0965\u1361-\u1368\u1680\u180e'
            '\u2000-\u209f\u20d0-\u20ff\u2e00-\u2e7f\u3000-\u3004\u3008-\u3020\u3030\u30fb\ufe00-\ufe6f\ufeff'
            '\uff00-\uff0f\ufff9-\uffff]+',
            ' ', 'g'
        ),
        '(?<=' || lone_character() || ')(?! )|(?<! )(?=' || lone_character() || ')', ' ', 'g'
    ) END,
    '([^ ]{64})(?=[^ ])', '\1 ', 'g'
);

-- The words of an alert, except its id. Two spaces end a field, so that no phrase reaches into the next one.
CREATE FUNCTION alert_words(title text, body text, source text, topic text, attributes jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN replace(
    search_words(concat_ws(
        E' \x1f ', title, body, source, topic,
        (SELECT string_agg(value #>> '{}', E' \x1f ')
         FROM jsonb_path_query(attributes, 'strict $.** ? (@.type() == "string" || @.type() == "number")') AS value)
    )),
    E'\x1f', ''
);

-- What the index holds of words, in their order. Two lone characters in a row are indexed as a pair, because one of
-- Chinese is in too many alerts. The cost keeps the planner from computing them for every row instead.
CREATE FUNCTION word_lexemes(words text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 1000
RETURN CASE WHEN words !~ '[^\x01-\x7f]' THEN array_remove(string_to_array(words, ' '), '')
ELSE (
    SELECT array_agg(CASE WHEN pair ~ ('^' || lone_character() || '{2}$') THEN pair ELSE word END ORDER BY number)
    FROM (
        SELECT word, word || lead(word) OVER (ORDER BY number) AS pair, number
        FROM unnest(array_remove(string_to_array(words, ' '), '')) WITH ORDINALITY AS each_word (word, number)
    ) AS pairs
) END;
