"""What to say of a name that does not exist, of a query parameter or a member of a body: the one that was meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_USUAL_NAMES = {
    "alert": "alert_id",
    "alias": "dedup_key",
    "before": "until",
    "count": "limit",
    "description": "body",
    "end": "until",
    "fingerprint": "dedup_key",
    "from": "since",
    "id": "alert_id",
    "ids": "alert_id",
    "key": "dedup_key",
    "labels": "attributes",
    "level": "severity",
    "message": "body",
    "per_page": "limit",
    "priority": "severity",
    "query": "q",
    "search": "q",
    "size": "limit",
    "start": "since",
    "state": "status",
    "summary": "title",
    "tags": "attributes",
    "to": "until",
}
"""What other services call that which exists here under another name."""
_COMPARED_MAX = 200
"""Characters of a name that are compared."""


def unknown_name(kind: str, name: str, names: Sequence[str]) -> str:
    """Return what to say of a ``kind`` of ``name``, which is none of ``names``."""
    usual = _USUAL_NAMES.get(name.lower(), "")
    near = [usual] if usual in names else get_close_matches(name[:_COMPARED_MAX].lower().replace("-", "_"), names, 1)
    return f"there is no such {kind}; did you mean {near[0]}" if near else f"there is no such {kind}"
