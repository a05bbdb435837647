"""Foreign text made to fit our limits: cut, not refused."""

from __future__ import annotations

import math
import re
from typing import Any

import orjson
from pydantic import ValidationError

from service.alerts.schemas import (
    ATTRIBUTES_MAX_BYTES,
    ATTRIBUTES_MAX_DEPTH,
    BODY_MAX_BYTES,
    INTEGER_MAX,
    LARGEST,
    SMALLEST,
    TITLE_MAX,
    Link,
)
from service.topics import TOPIC_CHARACTERS, TOPIC_MAX, is_topic

CUT = "…"
_LENGTHS = (4096, 1024, 256, 64)
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_TOPIC = re.compile(rf"[^{TOPIC_CHARACTERS}]+")


def cut(value: str, length: int) -> str:
    """Return at most ``length`` characters, with a mark where some are missing."""
    return value if len(value) <= length else value[: length - 1] + CUT


def line(value: str) -> str:
    """Return text as one line, without what no line may hold."""
    return " ".join(_NOT_TEXT.sub(" ", value).split())


def title(*candidates: object) -> str:
    """Return the first of ``candidates`` that is text and shows something, as a title."""
    shown = (line(candidate) for candidate in candidates if isinstance(candidate, str))
    return cut(next(filter(None, shown), "Untitled"), TITLE_MAX)


def body(*candidates: object) -> str | None:
    """Return the first of ``candidates`` that is text and shows something, as a body."""
    for candidate in candidates:
        if isinstance(candidate, str) and (text := _NOT_TEXT.sub(" ", candidate)).strip():
            encoded = text.encode()
            if len(encoded) > BODY_MAX_BYTES:
                text = encoded[: BODY_MAX_BYTES - len(CUT.encode())].decode(errors="ignore") + CUT
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


def link(name: str, url: object) -> Link | None:
    """Return a link, if ``url`` can be one."""
    if not isinstance(url, str):
        return None
    try:
        return Link(title=name, url=url)
    except ValidationError:
        return None


def attributes(value: dict[str, Any]) -> dict[str, Any]:
    """Return ``value`` with its texts cut, all to the same length, so that it fits; ``truncated`` says that it was.

    What cannot be made to fit that way, such as thousands of labels, loses its largest member.
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
    """Return JSON that every reader holds: see ``alerts/schemas.py`` for what it must not have."""
    match value:
        case str():
            return _NOT_TEXT.sub(" ", value)
        case dict() | list() if depth == 0:
            return cut(_NOT_TEXT.sub(" ", orjson.dumps(value).decode()), _LENGTHS[0])
        case dict():
            return {line(name): _clean(item, depth - 1) for name, item in value.items()}
        case list():
            return [_clean(item, depth - 1) for item in value]
        case _:
            return value if _is_exact(value) else str(value)


def _is_exact(number: float | None) -> bool:
    if isinstance(number, float):
        return not number or (math.isfinite(number) and SMALLEST <= abs(number) <= LARGEST)
    return number is None or abs(number) <= INTEGER_MAX
