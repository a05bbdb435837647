"""Cursors of paged lists: opaque to clients; they hold the keys of the row that a page ended with.

A page may consist of several lists, each paged by a keyset of its own: ``encode_cursor`` takes one
for each, and ``decode_cursor`` the kinds of its values::

    [after] = decode_cursor(cursor, (int, UUID))
    people, times = decode_cursor(cursor, (str,), (datetime, int))
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from uuid import UUID

import orjson
from fastapi import Query

from service.http.query import invalid_parameter
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi.params import Query as QueryParameter

Keyset: TypeAlias = "tuple[Any, ...] | None"
"""The keys of the last row; ``START`` before the first, None after the last."""

START: Keyset = ()
BIGINT_MAX = 2**63 - 1
CURSOR_MAX = 4_000
"""Characters of a cursor: it may hold names of two admins, of 200 characters each."""


def cursor_parameter(kind: str = "cursor", max_length: int = 100) -> QueryParameter:
    """Return the query parameter of a list; ``kind`` is its format in OpenAPI, one for each keyset."""
    description = "the `next` of the page before; absent: the first page"
    parameter: QueryParameter = Query(
        max_length=max_length, description=description, json_schema_extra={"format": kind}
    )
    return parameter


Cursor = Annotated[str | None, cursor_parameter()]
"""The query parameter of a list that is paged by one number."""


def encode_cursor(*keysets: Keyset) -> str | None:
    """Return the cursor after ``keysets``, one for each list of a page; None if all lists have ended."""
    if all(keyset is None for keyset in keysets):
        return None
    texts = [None if keyset is None else [_text(value) for value in keyset] for keyset in keysets]
    return base64.urlsafe_b64encode(orjson.dumps(texts)).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: Sequence[type]) -> list[Keyset]:
    """Return the keysets of a cursor, each with values of these types.

    A type is ``int``, ``str``, ``UUID`` or ``datetime``.

    Raises:
        InvalidRequest: ``encode_cursor`` made no such cursor.

    """
    if cursor is None:
        return [START] * len(kinds)
    try:
        texts = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        keysets = [_keyset(values, kind) for values, kind in zip(texts, kinds, strict=True)]
    except (TypeError, ValueError, OverflowError):
        keysets = []
    if all(keyset is None for keyset in keysets):
        raise invalid_parameter("cursor", "send the `next` of the page before, as it was")
    return keysets


def _keyset(texts: Any, kinds: Sequence[type]) -> Keyset:
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
