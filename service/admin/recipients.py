"""The recipients: who they are, and the last change of each, a deactivation or a reactivation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

# Whom an alert names may never have connected; whom nothing names may be deactivated all the same.
_PAGE = text(
    """
    SELECT id, topics, first_seen_at, last_seen_at, deactivated_at, deactivated_by, reason
    FROM (
        SELECT id COLLATE "C" AS id, topics, first_seen_at, last_seen_at FROM recipients
        UNION ALL
        SELECT recipient COLLATE "C", NULL, NULL, NULL FROM deactivated_recipients
        WHERE NOT EXISTS (SELECT FROM recipients WHERE id = recipient)
    ) AS known
    LEFT JOIN deactivated_recipients ON recipient = known.id
    WHERE id > :after AND (cast(:deactivated AS boolean) IS NULL OR (recipient IS NOT NULL) = :deactivated)
    ORDER BY id LIMIT :limit
    """
)
_IS_KNOWN = text(
    """
    SELECT EXISTS (SELECT FROM recipients WHERE id = :id)
        OR EXISTS (SELECT FROM revocations WHERE subject = :id)
        OR EXISTS (SELECT FROM source_hours WHERE source = :id)
        OR EXISTS (SELECT FROM alerts WHERE recipients @> ARRAY[:id])
    """
)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient; the times are None for one who never connected, or is not deactivated."""

    id: str
    topics: Sequence[str] | None
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    deactivated_at: datetime | None
    deactivated_by: str | None
    reason: str | None


async def recipients_after(
    tx: AsyncConnection, after: str, limit: int, *, deactivated: bool | None = None
) -> list[Recipient]:
    """Return the recipients with an id above ``after``, by id; ``deactivated`` or not, None: both."""
    parameters = {"after": after, "limit": limit, "deactivated": deactivated}
    return [Recipient(*row) for row in await tx.execute(_PAGE, parameters)]


async def is_known(tx: AsyncConnection, subject: str) -> bool:
    """Return whether a subject ever connected, is named by an alert, posted one, or was revoked."""
    known: bool = (await tx.execute(_IS_KNOWN, {"id": subject})).scalar_one()
    return known
