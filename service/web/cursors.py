"""Cursors of paged lists: opaque text for the caller, a position for us."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import Query

from service.errors import InvalidRequest

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
