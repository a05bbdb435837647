"""The search index: a table beside the alerts, filled behind the log.

Splitting text into words and keeping three GIN indexes costs PostgreSQL as much as storing the
alert, or ten times as much where it has a hundred recipients, and would be paid under the log's
lock. So one node at a time does it afterwards, and pauses nine times as long as it worked. Alerts
that are not indexed yet are searched without an index: an answer is never behind the log.

A repetition may change the words and the attributes of an alert, and leaves a row in
``search_changes`` if it does. Until its alert is indexed again, the alert counts as one that is not
indexed. An entry keeps the recipients.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    any_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from service.alerts.tables import alert_search, alerts, search_changes
from service.database.locks import TableLock
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause, Select
    from sqlalchemy.sql.selectable import LateralFromClause

    from service.database.engine import Database

PAUSE_SECONDS = 0.5
PAUSE_FACTOR = 9
BATCH = 1_000

LEXEMES: ColumnElement[Any] = literal_column("array_to_tsvector(word_lexemes(words))")
"""What the index of ``alert_search.words`` holds."""

_TRY_LOCK = text(TableLock.SEARCH_INDEX.try_lock)
_some = alerts.alias("some")


def _words(alert: FromClause) -> ColumnElement[str]:
    return func.alert_words(*(alert.c[name] for name in ("title", "body", "source", "topic", "attributes")))


_LAST_INDEXED = select(func.coalesce(func.max(alert_search.c.seq), 0)).scalar_subquery()
_IS_BEHIND = _some.c.seq > _LAST_INDEXED
_CHANGED = select(search_changes.c.seq)
_IS_CURRENT = alert_search.c.seq.not_in(_CHANGED)
_INDEX = insert(alert_search).from_select(
    ["seq", "words", "attributes", "recipients"],
    select(_some.c.seq, _words(_some), _some.c.attributes, _some.c.recipients)
    .where(_IS_BEHIND)
    .order_by(_some.c.seq)
    .limit(BATCH),
)
_TAKE_CHANGED = (
    delete(search_changes)
    .where(search_changes.c.id.in_(select(search_changes.c.id).order_by(search_changes.c.id).limit(BATCH)))
    .returning(search_changes.c.seq)
)
_INDEX_CHANGED = (
    update(alert_search)
    .values(words=_words(_some), attributes=_some.c.attributes)
    .where(alert_search.c.seq == _some.c.seq, alert_search.c.seq == any_(bindparam("seqs", type_=ARRAY(BigInteger))))
)


def current_words() -> LateralFromClause:
    """Return the words of an alert as a row beside it: from the index if they are there, else made from the alert."""
    entry = select(alert_search.c.words).where(alert_search.c.seq == alerts.c.seq, _IS_CURRENT)
    words = func.coalesce(entry.correlate(alerts).scalar_subquery(), _words(alerts)).label("words")
    return select(words).correlate(alerts).offset(0).lateral("current")  # with an offset, it is computed once


def unindexed(*conditions: ColumnElement[bool]) -> list[Select[tuple[int]]]:
    """Return the alerts that the index does not know as they are now, and that satisfy ``conditions`` on ``_some``."""
    return [select(_some.c.seq).where(which, *conditions) for which in (_IS_BEHIND, _some.c.seq.in_(_CHANGED))]


def has_attributes(attributes: dict[str, Any]) -> ColumnElement[bool]:
    """Return the condition that an alert's attributes contain ``attributes``."""
    held = literal(attributes, JSONB)
    indexed = select(alert_search.c.seq).where(alert_search.c.attributes.contains(held), _IS_CURRENT)
    return alerts.c.seq.in_(union_all(indexed, *unindexed(_some.c.attributes.contains(held))))


class SearchIndexer:
    """Fills the index, on one node at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.task = PeriodicTask("search_index", self._index, PAUSE_SECONDS, first_seconds=0)

    async def _index(self) -> float | None:
        begun = time.monotonic()
        entries = await self.advance()
        return PAUSE_FACTOR * (time.monotonic() - begun) if entries == BATCH else None

    async def advance(self) -> int:
        """Index the next alerts and changes, unless another node does, and return how many of the more frequent."""
        async with self._database.transaction() as tx:
            if not await tx.scalar(_TRY_LOCK):
                return 0
            # A repetition that is committed from here on leaves a row that is not among these.
            changed = (await tx.scalars(_TAKE_CHANGED)).all()
            if changed:
                await tx.execute(_INDEX_CHANGED, {"seqs": changed})
            return max(len(changed), (await tx.execute(_INDEX)).rowcount)
