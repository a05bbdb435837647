"""The recipients: who they are, and the last change of each, a deactivation or a reactivation."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from sqlalchemy import Text, column, select, text

from service.database.pages import read_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

# Whom an alert names may never have connected; whom nothing names may be deactivated all the same.
_RECIPIENTS = text(
    """
    SELECT id, topics, first_seen_at, last_seen_at, deactivated_at, deactivated_by, reason
    FROM (
        SELECT id COLLATE "C" AS id, topics, first_seen_at, last_seen_at FROM recipients
        UNION ALL
        SELECT recipient COLLATE "C", NULL, NULL, NULL FROM deactivated_recipients
        WHERE NOT EXISTS (SELECT FROM recipients WHERE id = recipient)
    ) AS known
    LEFT JOIN deactivated_recipients ON recipient = known.id
    """
)
_recipient = _RECIPIENTS.columns(
    column("id", Text),
    *(
        column(name)
        for name in ("topics", "first_seen_at", "last_seen_at", "deactivated_at", "deactivated_by", "reason")
    ),
).subquery("recipient")
_IS_KNOWN = text(
    """
    SELECT EXISTS (SELECT FROM recipients WHERE id = :id)
        OR EXISTS (SELECT FROM revocations WHERE subject = :id)
        OR EXISTS (SELECT FROM source_hours WHERE source = :id)
        OR EXISTS (SELECT FROM alert_search WHERE recipients @> ARRAY[:id])
        OR EXISTS (
            SELECT FROM alerts
            WHERE seq > (SELECT coalesce(max(seq), 0) FROM alert_search) AND recipients @> ARRAY[:id]
        )
    """
)


_NAMES = text(
    """
    SELECT id FROM recipients UNION SELECT recipient FROM deactivated_recipients UNION SELECT source FROM source_hours
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
) -> tuple[list[Recipient], bool]:
    """Return a page of the recipients with an id above ``after``, by id, and whether there are more.

    ``deactivated`` or not; None: both.
    """
    statement = select(_recipient).where(_recipient.c.id > after)
    if deactivated is not None:
        statement = statement.where(_recipient.c.deactivated_at.is_not(None) == deactivated)
    rows, has_more = await read_page(tx, statement, (_recipient.c.id,), limit, newest_first=False)
    return [Recipient(**{column.name: row[column.name] for column in _recipient.c}) for row in rows], has_more


async def is_known(tx: AsyncConnection, subject: str) -> bool:
    """Return whether a subject ever connected, is named by an alert, posted one, or was revoked."""
    known: bool = (await tx.execute(_IS_KNOWN, {"id": subject})).scalar_one()
    return known


async def nearest(tx: AsyncConnection, subject: str) -> str | None:
    """Return the subject that ever connected, posted or was deactivated and resembles this one most."""
    names = (await tx.execute(_NAMES)).scalars()
    return next(iter(get_close_matches(subject, names, 1)), None)
