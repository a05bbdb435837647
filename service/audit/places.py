"""Places in paged lists: the values that a list is ordered by, and the cursors that stand for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import orjson

from service.events.times import rfc3339
from service.web import cursors

if TYPE_CHECKING:
    from collections.abc import Sequence

Place: TypeAlias = "tuple[Any, ...] | None"
"""The values of the last row; ``START`` before the first, None after the last."""

START: Place = ()
BIGINT_MAX = 2**63 - 1
CURSOR_MAX = 4_000
"""Characters of a cursor: it may hold names of two admins, of 200 characters each."""


def cursor_of(*places: Place) -> str | None:
    """Return the cursor of a page that goes on at ``places``, one for each of its lists; None where all have ended."""
    if all(place is None for place in places):
        return None
    texts = [None if place is None else [_text(value) for value in place] for place in places]
    return cursors.encode(orjson.dumps(texts).decode())


def places_of(cursor: str | None, *kinds: Sequence[type]) -> list[Place]:
    """Return the places that a cursor stands for, each of values of these kinds.

    Raises:
        InvalidRequest: it is none of ours.

    """
    if cursor is None:
        return [START] * len(kinds)
    try:
        texts = orjson.loads(cursors.decode(cursor))
        places = [_place(place, kind) for place, kind in zip(texts, kinds, strict=True)]
    except (TypeError, ValueError, OverflowError):
        raise cursors.refused() from None
    if all(place is None for place in places):
        raise cursors.refused()
    return places


def _place(texts: Any, kinds: Sequence[type]) -> Place:
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
