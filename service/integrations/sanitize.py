"""Foreign text cut to the limits of alerts, instead of refused."""

from __future__ import annotations

import math
import re
from typing import Any

import orjson
from pydantic import ValidationError

from service.alerts.fields import (
    ATTRIBUTES_MAX_BYTES,
    ATTRIBUTES_MAX_DEPTH,
    BODY_MAX_BYTES,
    INTEGER_MAX,
    NOT_IN_TEXT,
    NUMBER_MAX,
    NUMBER_MIN,
    TITLE_MAX,
)
from service.alerts.schemas import AlertLink
from service.topics import TOPIC_CHARACTERS, TOPIC_MAX, is_topic

ELLIPSIS = "…"
_LENGTHS = (4096, 1024, 256, 64)
_NOT_TOPIC = re.compile(rf"[^{TOPIC_CHARACTERS}]+")


def cut(value: str, length: int) -> str:
    """Return at most ``length`` characters, with a mark where some are missing."""
    return value if len(value) <= length else value[: length - 1] + ELLIPSIS


def line(value: str) -> str:
    """Return text as one line, without control characters."""
    return " ".join(NOT_IN_TEXT.sub(" ", value).split())


def title(*candidates: object) -> str:
    """Return the first of ``candidates`` that is text and not blank, as a title."""
    lines = (line(candidate) for candidate in candidates if isinstance(candidate, str))
    return cut(next(filter(None, lines), "Untitled"), TITLE_MAX)


def body(*candidates: object) -> str | None:
    """Return the first of ``candidates`` that is text and not blank, as a body."""
    for candidate in candidates:
        if isinstance(candidate, str) and (text := NOT_IN_TEXT.sub(" ", candidate)).strip():
            encoded = text.encode()
            if len(encoded) > BODY_MAX_BYTES:
                text = encoded[: BODY_MAX_BYTES - len(ELLIPSIS.encode())].decode(errors="ignore") + ELLIPSIS
            return text
    return None


def topic(value: object, otherwise: str) -> str:
    """Return a topic made of ``value``: ``Payments EU`` becomes ``payments-eu``."""
    if not isinstance(value, str) or not value:
        return otherwise
    if is_topic(value):
        return value
    parts = (_NOT_TOPIC.sub("-", part).strip("-") for part in value.lower().split("."))
    made = ".".join(filter(None, parts))[:TOPIC_MAX].rstrip(".-")
    return made or otherwise


def link(name: str, url: object) -> AlertLink | None:
    """Return a link, if ``url`` can be one."""
    if not isinstance(url, str):
        return None
    try:
        return AlertLink(title=name, url=url)
    except ValidationError:
        return None


def attributes(value: dict[str, Any]) -> dict[str, Any]:
    """Return ``value``, its texts cut to one length if it is too large, and then ``truncated``.

    Where that is not enough, as with thousands of labels, the largest members are left out.
    """
    value = _clean(value, ATTRIBUTES_MAX_DEPTH)
    if _fits(value):
        return value
    for length in _LENGTHS:
        shorter = {**_shorten(value, length), "truncated": True}
        if _fits(shorter):
            return shorter
    while value:
        del value[max(value, key=lambda name: len(orjson.dumps(value[name])))]
        shorter = {**_shorten(value, _LENGTHS[-1]), "truncated": True}
        if _fits(shorter):
            return shorter
    return {"truncated": True}


def _fits(value: dict[str, Any]) -> bool:
    return len(orjson.dumps(value)) <= ATTRIBUTES_MAX_BYTES


def _shorten(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return cut(value, length)
    if isinstance(value, dict):
        return {cut(name, length): _shorten(item, length) for name, item in value.items()}
    if isinstance(value, list):
        return [_shorten(item, length) for item in value]
    return value


def _clean(value: Any, depth: int) -> Any:
    """Return ``value`` with a depth, characters and numbers that attributes may have."""
    match value:
        case str():
            return NOT_IN_TEXT.sub(" ", value)
        case dict() | list() if depth == 0:
            return cut(NOT_IN_TEXT.sub(" ", orjson.dumps(value).decode()), _LENGTHS[0])
        case dict():
            return {line(name): _clean(item, depth - 1) for name, item in value.items()}
        case list():
            return [_clean(item, depth - 1) for item in value]
        case _:
            return value if _is_exact(value) else str(value)


def _is_exact(number: float | None) -> bool:
    if isinstance(number, float):
        return not number or (math.isfinite(number) and NUMBER_MIN <= abs(number) <= NUMBER_MAX)
    return number is None or abs(number) <= INTEGER_MAX
