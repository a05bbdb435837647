"""Cursors of paged lists: opaque text for clients, for the service the values of the row that a page ended with."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from uuid import UUID

import orjson
from fastapi import Query

from service.errors import InvalidRequest
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

Keyset: TypeAlias = "tuple[Any, ...] | None"
"""The values of the last row; ``START`` before the first, None after the last."""

START: Keyset = ()
BIGINT_MAX = 2**63 - 1
CURSOR_MAX = 4_000
"""Characters of a cursor: it may hold names of two admins, of 200 characters each."""

Cursor = Annotated[
    str | None,
    Query(
        max_length=100,
        description="the `next` of the page before; absent: the first page",
        json_schema_extra={"format": "cursor"},
    ),
]
"""The query parameter."""


def encode(position: str) -> str:
    """Return the cursor of a position."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def decode(cursor: str) -> str:
    """Return the position of a cursor, or an empty text where it is none of ours."""
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        return ""


def refused() -> InvalidRequest:
    """Make the refusal of a cursor that is none of ours."""
    return InvalidRequest("/cursor: send the `next` of the page before, as it was.")


def encode_cursor(*places: Keyset) -> str | None:
    """Return the cursor of a page that goes on at ``places``, one for each of its lists; None where all have ended."""
    if all(place is None for place in places):
        return None
    texts = [None if place is None else [_text(value) for value in place] for place in places]
    return encode(orjson.dumps(texts).decode())


def decode_cursor(cursor: str | None, *kinds: Sequence[type]) -> list[Keyset]:
    """Return the places that a cursor stands for, each of values of these kinds.

    Raises:
        InvalidRequest: it is none of ours.

    """
    if cursor is None:
        return [START] * len(kinds)
    try:
        texts = orjson.loads(decode(cursor))
        places = [_place(place, kind) for place, kind in zip(texts, kinds, strict=True)]
    except (TypeError, ValueError, OverflowError):
        raise refused() from None
    if all(place is None for place in places):
        raise refused()
    return places


def _place(texts: Any, kinds: Sequence[type]) -> Keyset:
    if texts in (None, []):
        return None if texts is None else START
    return tuple(_value(text, kind) for text, kind in zip(texts, kinds, strict=True))


def _text(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    return value if isinstance(value, int) else str(value)


def _value(text: Any, kind: type) -> Any:
    if kind is int:
        if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= BIGINT_MAX:
            return text
    elif isinstance(text, str):
        if kind is UUID:
            return UUID(text)
        if kind is datetime and (at := datetime.fromisoformat(text)).tzinfo is not None:
            return at.astimezone(UTC)
        if kind is str and text.isprintable():  # which leaves out what PostgreSQL cannot hold
            return text
    raise ValueError(text)
