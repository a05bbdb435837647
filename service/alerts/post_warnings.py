"""Warnings about alerts that are stored, and may not do what their source meant.

An alert for a name with a typing error in it is stored, and reaches nobody. So the answer to a post
names the recipients whom this service has never seen. It is no refusal: an admin may be about to sign
in for the first time. It says nothing of other names, and ``TOCSIN_WARN_OF_UNKNOWN_RECIPIENTS`` turns
it off where a source must not learn who exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class RecipientDirectory(Protocol):
    """Knows who was ever seen."""

    async def unknown(self, names: Collection[str]) -> Collection[str]:
        """Return those of ``names`` whom nobody has seen, or none where that cannot be found out now."""


def warnings_of(recipients: Sequence[str], unknown: Collection[str]) -> list[dict[str, Any]]:
    """Return a warning for each of the recipients who is unknown."""
    return [
        {"pointer": f"/recipients/{number}", "detail": f"nobody of the name {name!r} has ever connected"}
        for number, name in enumerate(recipients)
        if name in unknown
    ]
