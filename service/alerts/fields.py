"""Constrained field types of requests: text, names, topics, times, attributes.

Each type checks a value, with a message that says what was wrong, and says in its JSON Schema what
a schema can say. The regular expressions are those that ECMAScript, Python and Rust read alike, and
take linear time in engines that backtrack, too: some clients check them.

Refused is what PostgreSQL, a browser or a log line could not hold: control characters (Unicode
category Cc) and surrogates (Cs), which UTF-8 has no form for. Numbers are limited to those that
every JSON reader holds exactly (RFC 8259, section 6), and that PostgreSQL, which writes a number
out in digits, does not turn into megabytes.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from fastapi import Path, Query
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, TypeAdapter

from service.alerts.search import parse
from service.auth.principal import SUBJECT_MAX, is_subject
from service.http.query import invalid_parameter
from service.topics import PATTERN_REGEX, TOPIC_MAX, TOPIC_REGEX, is_topic, is_topic_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

TITLE_MAX = 200
BODY_MAX_BYTES = 16 * 1024
ATTRIBUTES_MAX_BYTES = 16 * 1024
ATTRIBUTES_MAX_DEPTH = 8
RECIPIENTS_MAX = 100
LINKS_MAX = 20
URL_MAX = 2000
KEY_MAX = 200
ESCALATE_MAX = 7 * 86_400
TIME_MAX = 64
WORDS_MAX = 200
"""Characters of the words of a search."""
EXCLUDED_MAX = 20
"""Terms of a search that exclude, with which an index does not help."""
LISTED_MAX = 100
"""Values of one parameter that may be repeated, such as topics."""
TOPICS_MAX_LENGTH = LISTED_MAX * (TOPIC_MAX + 1)
"""Characters of one list of topics, with a comma after each."""
_SHOWN = 30
"""Characters of a wrong topic that a refusal repeats; a close frame has little room."""
NUMBER_MIN, NUMBER_MAX = 1e-30, 1e30
"""The range of the absolute value of a number that is not an integer."""
INTEGER_MAX = 2**53 - 1

_IN_LINE = r"[^\x00-\x1f\x7f-\x9f]"
_IN_TEXT = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_BLANK_IN_LINE = r"[^\S\x00-\x1f\x7f-\x9f]"
_BLANK_IN_TEXT = r"[^\S\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"

VISIBLE_PATTERN = r"[^\s\x00-\x1f\x7f-\x9f]"
"""A character that is neither blank nor a control character."""
LINE_PATTERN = f"^{_BLANK_IN_LINE}*{VISIBLE_PATTERN}{_IN_LINE}*$"
TEXT_PATTERN = f"^{_IN_TEXT}*$"
COMMENT_PATTERN = f"^{_BLANK_IN_TEXT}*{VISIBLE_PATTERN}{_IN_TEXT}*$"
ATTRIBUTE_PATTERN = f"^{_IN_LINE}*$"
"""The name of an attribute."""
NAME_PATTERN = f"^{VISIBLE_PATTERN}({_IN_LINE}*{VISIBLE_PATTERN})?$"
URL_PATTERN = f"^https?://{VISIBLE_PATTERN}+$"

_URL = re.compile(URL_PATTERN)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_NOT_IN_LINES = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
NOT_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""The characters that text of several lines must not contain."""


def documented(**keywords: Any) -> Any:
    """Return an annotation that adds ``keywords`` to the JSON Schema of a type."""
    return Field(json_schema_extra=keywords)


def _characters(value: str, forbidden: re.Pattern[str]) -> str:
    if (found := forbidden.search(value)) is not None:
        raise ValueError(f"the character U+{ord(found.group()):04X} is not allowed")
    return value


def _line(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return _characters(value, _NOT_IN_LINES)


def _text(value: str) -> str:
    if len(value.encode(errors="surrogatepass")) > BODY_MAX_BYTES:
        raise ValueError(f"must be at most {BODY_MAX_BYTES} bytes of UTF-8")
    return _characters(value, NOT_IN_TEXT)


def _words(value: str) -> str:
    if len(unicodedata.normalize("NFKC", value)) > WORDS_MAX:
        raise ValueError(f"must have at most {WORDS_MAX} characters when ligatures and the like are written out")
    if sum(term.is_excluded for group in parse(value) for term in group) > EXCLUDED_MAX:
        raise ValueError(f"must exclude at most {EXCLUDED_MAX} terms")
    return value


def _comment(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return _text(value)


def _topic(value: str) -> str:
    if not is_topic(value):
        raise ValueError("must be dot-separated parts of a-z, 0-9, _ and -, at most 100 characters")
    return value


def _name(value: str) -> str:
    if not is_subject(value):
        raise ValueError("must be 1 to 200 printable characters")
    return value


def _rfc3339(value: object) -> object:
    """Accept a time as text; pydantic would take numbers, and guess what they count."""
    if isinstance(value, datetime) or (isinstance(value, str) and len(value) <= TIME_MAX and _TIME.fullmatch(value)):
        return value
    raise ValueError("must be a time such as 2026-11-21T09:41:07Z (RFC 3339)")


def _in_utc(value: datetime) -> datetime:
    """Convert to UTC, where the years 1 and 9999 are limits too."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time such as 2026-11-21T09:41:07Z (RFC 3339)") from None


def _url(value: str) -> str:
    if _URL.fullmatch(value) is None:
        raise ValueError("must be an address that begins with http:// or https:// and has no blanks")
    try:
        host = urlsplit(value).hostname
    except ValueError:
        host = None
    if host is None:
        raise ValueError("must be an address with a host")
    return _line(value)


def _whole(value: object) -> object:
    """Accept what JSON calls an integer; pydantic would read ``"5"`` and ``true``, too."""
    if isinstance(value, str | bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic makes a fault of this one
    return value


def _distinct(value: list[str]) -> list[str]:
    if len(set(value)) != len(value):
        raise ValueError("must not name anybody twice")
    return value


def _json(value: Any, depth: int = ATTRIBUTES_MAX_DEPTH) -> Any:
    """Accept JSON that PostgreSQL, a browser and the encoder can hold."""
    if isinstance(value, str):
        _characters(value, NOT_IN_TEXT)
    elif isinstance(value, float) and value and not NUMBER_MIN <= abs(value) <= NUMBER_MAX:
        raise ValueError("numbers must lie between 1e-30 and 1e30: send others as text")
    elif isinstance(value, int) and abs(value) > INTEGER_MAX:
        raise ValueError("integers beyond 2^53 lose digits in browsers: send them as text")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"must not be nested deeper than {ATTRIBUTES_MAX_DEPTH} levels")
        for name in value if isinstance(value, dict) else ():
            _characters(name, _NOT_IN_LINES)
        for item in value.values() if isinstance(value, dict) else value:
            _json(item, depth - 1)
    return value


def _attributes(value: dict[str, Any]) -> dict[str, Any]:
    if not _is_small(value):
        raise ValueError(f"must be at most {ATTRIBUTES_MAX_BYTES} bytes as JSON")
    _json(value)
    return value


def _is_small(value: dict[str, Any]) -> bool:
    """Say whether attributes have so few bytes that every value in them can be looked at."""
    try:
        return len(orjson.dumps(value)) <= ATTRIBUTES_MAX_BYTES
    except orjson.JSONEncodeError:
        return True  # it holds a value that is refused by itself


_LINE = (AfterValidator(_line), documented(pattern=LINE_PATTERN, minLength=1))
"""One line of text that is not blank. Its length is checked before, as characters; afterwards it would be items."""

Title = Annotated[str, Field(max_length=TITLE_MAX), *_LINE]

Key = Annotated[str, Field(max_length=KEY_MAX), *_LINE]
"""The key of a deduplication."""

Words = Annotated[str, Field(max_length=WORDS_MAX), *_LINE, AfterValidator(_words)]
"""The words of a search: ``search.py`` reads them."""

Text = Annotated[str, AfterValidator(_text), documented(pattern=TEXT_PATTERN, maxLength=BODY_MAX_BYTES)]
"""Lines of text."""

CommentBody = Annotated[
    str, AfterValidator(_comment), documented(pattern=COMMENT_PATTERN, minLength=1, maxLength=BODY_MAX_BYTES)
]
"""Lines of text that are not blank."""

Topic = Annotated[
    str,
    AfterValidator(_topic),
    documented(pattern=TOPIC_REGEX, minLength=1, maxLength=TOPIC_MAX, examples=["payments.eu"]),
]

TopicPattern = Annotated[str, documented(pattern=PATTERN_REGEX, maxLength=TOPIC_MAX)]
"""A parameter that ``topic_patterns`` checks."""

Name = Annotated[
    str,
    AfterValidator(_name),
    documented(pattern=NAME_PATTERN, format="name", minLength=1, maxLength=SUBJECT_MAX, examples=["billing"]),
]
"""Printable characters, without blanks at the ends."""

Recipients = Annotated[list[Name], AfterValidator(_distinct), documented(uniqueItems=True)]

Url = Annotated[
    str,
    Field(max_length=URL_MAX),
    AfterValidator(_url),
    documented(format="link", pattern=URL_PATTERN),
]
"""An address that a browser can open."""

WHOLE = BeforeValidator(_whole)
"""Stands after the bounds of a whole number, which the schema would not show otherwise."""

Time = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_in_utc), documented(maxLength=TIME_MAX)]

Attributes = Annotated[
    dict[str, Any],
    AfterValidator(_attributes),
    documented(propertyNames={"pattern": ATTRIBUTE_PATTERN}),
]

SEARCHED_ATTRIBUTES: TypeAdapter[dict[str, Any]] = TypeAdapter(Annotated[dict[str, Any], AfterValidator(_json)])
"""Reads the attributes that a search asks for."""

AlertId = Annotated[UUID, Path(description="the alert's id", examples=["01a1fd87-65c3-71a6-ba06-3929d3197295"])]


def listed(description: str) -> Any:
    """Return a query parameter that may be repeated."""
    return Query(max_length=LISTED_MAX, description=description)


def topic_patterns(values: Sequence[str]) -> list[str]:
    """Return topics and patterns of topics, each a value or several with commas between, which no topic has.

    Raises:
        InvalidRequest: one of them is neither, or there are more than ``LISTED_MAX``.

    """
    patterns = [pattern for value in values for pattern in value.split(",")]
    if len(patterns) > LISTED_MAX:
        raise invalid_parameter("topic", f"this takes at most {LISTED_MAX} topics or patterns")
    for pattern in patterns:
        if not is_topic_pattern(pattern):
            detail = f"{pattern[:_SHOWN]!r} is no topic, and no pattern such as payments.* or *"
            raise invalid_parameter("topic", detail)
    return patterns
