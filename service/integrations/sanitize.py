"""Foreign text cut to the limits of alerts, instead of refused.

What is cut is cut first and then looked at: a foreign text may be as long as a body.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast, get_args

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from service.alerts.fields import (
    ATTRIBUTES_MAX_BYTES,
    ATTRIBUTES_MAX_DEPTH,
    BODY_MAX_BYTES,
    INTEGER_MAX,
    KEY_MAX,
    NOT_IN_TEXT,
    NUMBER_MAX,
    NUMBER_MIN,
    TITLE_MAX,
    URL_MAX,
    Time,
)
from service.alerts.schemas import AlertLink
from service.errors import InvalidRequest
from service.events.idempotency import content_hash
from service.severity import Severity
from service.topics import TOPIC_CHARACTERS, TOPIC_MAX, is_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from service.alerts.ingest import RoomForAlert
    from service.alerts.schemas import AlertIn

ELLIPSIS = "…"
VALUES_MAX = 2_000
"""Values of attributes that are too large, of which more are never shortened one by one."""
_LENGTHS = (4096, 1024, 256, 64)
_ATTRIBUTES_KEPT = 4096
"""Bytes of attributes that are kept before links and the body are cut."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD_MAX = timedelta(days=1)
"""How far the clock of a source may be ahead."""
_TIME = TypeAdapter[Any](Time)
LINE_MAX = ATTRIBUTES_MAX_BYTES
"""Characters of which a line is made."""
_NOT_TOPIC = re.compile(rf"[^{TOPIC_CHARACTERS}]+")


def cut(value: str, length: int) -> str:
    """Return at most ``length`` characters, with a mark where some are missing."""
    return value if len(value) <= length else value[: length - 1] + ELLIPSIS


def line(value: str) -> str:
    """Return text as one line, without control characters; of a very long one its beginning."""
    return " ".join(NOT_IN_TEXT.sub(" ", value.strip()[:LINE_MAX]).split())


def title(*candidates: object) -> str:
    """Return the first of ``candidates`` that is text and not blank, as a title."""
    lines = (line(candidate) for candidate in candidates if isinstance(candidate, str))
    return cut(next(filter(None, lines), "Untitled"), TITLE_MAX)


def body(*candidates: object) -> str | None:
    """Return the first of ``candidates`` that is text and not blank, as a body."""
    for candidate in candidates:
        if not isinstance(candidate, str):
            continue
        if (text := NOT_IN_TEXT.sub(" ", candidate[: BODY_MAX_BYTES + 1])).strip():
            encoded = text.encode()
            if len(encoded) > BODY_MAX_BYTES:
                text = encoded[: BODY_MAX_BYTES - len(ELLIPSIS.encode())].decode(errors="ignore") + ELLIPSIS
            return text
    return None


def key(value: str) -> str | None:
    """Return a deduplication key, or None of a blank text. Of one that is too long, the end is its hash.

    Otherwise two long texts with the same beginning would be one key, and one alert.
    """
    text = line(value)
    if len(text) > KEY_MAX:
        digest = content_hash(value)
        return text[: KEY_MAX - len(digest)] + digest
    return text or None


def topic(value: object, otherwise: str) -> str:
    """Return a topic made of ``value``: ``Payments EU`` becomes ``payments-eu``; ``otherwise`` where it is blank.

    Raises:
        InvalidRequest: no topic says the same: letters outside ASCII would be lost, and so who is to be alerted.

    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return otherwise
    if isinstance(value, str) and is_topic(value):
        return value
    if isinstance(value, str) and value.isascii() and len(value) <= LINE_MAX:
        parts = (_NOT_TOPIC.sub("-", part).strip("-") for part in value.lower().split("."))
        if is_topic(made := ".".join(filter(None, parts))):
            return made
    raise InvalidRequest(
        f"{cut(str(value), TOPIC_MAX)!r} is no topic: send dot-separated parts of a-z, 0-9, _ and -,"
        f" at most {TOPIC_MAX} characters."
    )


def severity(value: object) -> Severity | None:
    """Return the severity that ``value`` names in any case, if it names one."""
    named = line(value).lower() if isinstance(value, str) else None
    return cast("Severity", named) if named in get_args(Severity) else None


def link(name: str, url: object) -> AlertLink | None:
    """Return a link, if ``url`` can be one."""
    if not isinstance(url, str) or len(url) > URL_MAX:
        return None
    try:
        return AlertLink(title=name, url=url)
    except ValidationError:
        return None


def time(value: object) -> datetime | None:
    """Return a time of RFC 3339, None where it is none that anything occurred at.

    Those who do not know a time write the first or the last one of their calendar.
    """
    try:
        read: datetime = _TIME.validate_python(value)
    except ValidationError:
        return None
    return read if _EPOCH <= read <= datetime.now(UTC) + _AHEAD_MAX else None


def fit(alert: AlertIn, room: RoomForAlert, shorter: Callable[[int], dict[str, Any]]) -> AlertIn:
    """Return an alert cut to what the service stores: its attributes first, then its links, then its body.

    ``shorter`` returns attributes of at most so many bytes of JSON; they keep ``_ATTRIBUTES_KEPT``, and
    say ``truncated`` where they or the links were cut.
    """
    if (excess := room.excess(alert)) <= 0:
        return alert
    size = len(encoded(alert.attributes))
    if size > _ATTRIBUTES_KEPT:
        alert = alert.model_copy(update={"attributes": shorter(max(_ATTRIBUTES_KEPT, size - excess))})
    while alert.links and room.excess(alert) > 0:
        attributes = {**alert.attributes, "truncated": True}
        alert = alert.model_copy(update={"links": alert.links[:-1], "attributes": attributes})
    if alert.body is not None and (excess := room.excess(alert)) > 0:
        alert = alert.model_copy(update={"body": _cut_json(alert.body, excess)})
    return alert


def _cut_json(text: str, excess: int) -> str | None:
    """Return a text that is shorter by so many bytes of JSON, None where nothing is left."""
    kept = orjson.dumps(text)[: -1 - excess - len(ELLIPSIS.encode())].decode(errors="ignore")
    if (len(kept) - len(kept.rstrip("\\"))) % 2:
        kept = kept[:-1]  # half an escape
    return orjson.loads(f'{kept}{ELLIPSIS}"') if len(kept) > 1 else None


def attributes(value: dict[str, Any], max_bytes: int = ATTRIBUTES_MAX_BYTES) -> dict[str, Any]:
    """Return ``value``, its texts cut to one length if it is too large, and then ``truncated``.

    Where that is not enough, as with thousands of labels, the largest members are left out.

    Raises:
        InvalidRequest: as ``encoded``.

    """
    if not _fits(value, max_bytes):
        value = {**_shorten(_without_crowded(value), _LENGTHS[0]), "truncated": True}
    value = _clean(value, ATTRIBUTES_MAX_DEPTH)
    if _fits(value, max_bytes):
        return value
    for length in _LENGTHS:
        shorter = {**_shorten(value, length), "truncated": True}
        if _fits(shorter, max_bytes):
            return shorter
    return _without_largest(value, shorter, max_bytes)


def encoded(value: Any) -> bytes:
    """Return a value as JSON, with integers of any size, which orjson does not write.

    Raises:
        InvalidRequest: it is nested too deeply.

    """
    try:
        return to_json(value)
    except PydanticSerializationError:
        raise InvalidRequest("The body is nested too deeply.") from None


def _fits(value: dict[str, Any], max_bytes: int) -> bool:
    return len(encoded(value)) <= max_bytes


def _without_crowded(value: dict[str, Any]) -> dict[str, Any]:
    """Leave out the members with the most values until there are at most ``VALUES_MAX`` in all."""
    counts = {name: _count(item) if isinstance(item, dict | list) else 1 for name, item in value.items()}
    room = VALUES_MAX
    kept: set[str] = set()
    for name in sorted(counts, key=counts.__getitem__):
        room -= counts[name]
        if room < 0:
            break
        kept.add(name)
    return {name: member for name, member in value.items() if name in kept}


def _count(value: Any) -> int:
    """Return how many values ``value`` is made of, or that they are more than ``VALUES_MAX``."""
    count, rest = 0, [value]
    while rest and count <= VALUES_MAX:
        count += 1
        match rest.pop():
            case dict() as members:
                rest += members.values()
            case list() as items:
                rest += items
    return count


def _without_largest(value: dict[str, Any], shortest: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """Leave out the largest members of ``value``, until what is ``shortest`` of it fits."""
    excess = len(encoded(shortest)) - max_bytes
    left_out: set[str] = set()
    names = zip(value, shortest, strict=False)  # in the same order; ``truncated`` may be the last one
    for _, short in sorted(names, key=lambda pair: len(encoded(value[pair[0]])), reverse=True):
        if excess <= 0:
            break
        left_out.add(short)
        excess -= len(encoded({short: shortest[short]})) - 1  # braces of two bytes, a comma of one
    return {name: member for name, member in shortest.items() if name not in left_out} | {"truncated": True}


def _shorten(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return cut(value, length)
    if isinstance(value, dict):
        names = _renamed(value, lambda name: cut(name, length))
        return {name: _shorten(item, length) for name, item in zip(names, value.values(), strict=True)}
    if isinstance(value, list):
        return [_shorten(item, length) for item in value]
    return value


def _renamed(names: Iterable[str], rename: Callable[[str], str]) -> Iterable[str]:
    """Return new names, with numbers where two would be one: ``a``, ``a (2)``. Who keeps a name has it first."""
    renamed = {name: rename(name) for name in names}
    if len(set(renamed.values())) == len(renamed):
        return renamed.values()
    taken = {name for name, new in renamed.items() if name == new}
    collisions: Counter[str] = Counter()
    for name, new in renamed.items():
        if name == new:
            continue
        numbered = new
        while numbered in taken:
            collisions[new] += 1
            numbered = f"{new} ({collisions[new] + 1})".lstrip()
        taken.add(numbered)
        renamed[name] = numbered
    return renamed.values()


def _clean(value: Any, depth: int) -> Any:
    """Return ``value`` with a depth, characters and numbers that attributes may have."""
    match value:
        case str():
            return NOT_IN_TEXT.sub(" ", value)
        case dict() | list() if depth == 0:
            return cut(NOT_IN_TEXT.sub(" ", encoded(value).decode()), _LENGTHS[0])
        case dict():
            names = _renamed(value, line)
            return {name: _clean(item, depth - 1) for name, item in zip(names, value.values(), strict=True)}
        case list():
            return [_clean(item, depth - 1) for item in value]
        case _:
            return value if _is_exact(value) else str(value)


def _is_exact(number: float | None) -> bool:
    if isinstance(number, float):
        return not number or (math.isfinite(number) and NUMBER_MIN <= abs(number) <= NUMBER_MAX)
    return number is None or abs(number) <= INTEGER_MAX
