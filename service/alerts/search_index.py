"""Search by text, attributes and recipients: an index beside the alerts, filled behind the log.

Splitting text into words and keeping three GIN indexes costs PostgreSQL as much as storing the
alert, or ten times as much where it has a hundred recipients, and would be paid under the log's
lock. So one node at a time does it afterwards, and pauses nine times as long as it worked. Alerts
that are not indexed yet are searched without an index: an answer is never behind the log.

Alerts never change their words and attributes, and an entry keeps the recipients: it is made once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, literal, literal_column, select, text, union_all
from sqlalchemy.dialects.postgresql import JSONB

from service.alerts.tables import alert_search, alerts
from service.database.locks import TableLock
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from service.database.engine import Database

PAUSE_SECONDS = 0.5
PAUSE_FACTOR = 9
BATCH = 1_000

_TRY_LOCK = text(TableLock.SEARCH_INDEX.try_lock)
_DICTIONARY: ColumnElement[str] = literal_column("'simple'")
_some = alerts.alias("some")
_WORDS = func.to_tsvector(_DICTIONARY, _some.c.title + "\n" + func.coalesce(_some.c.body, ""))
_IS_BEHIND = _some.c.seq > select(func.coalesce(func.max(alert_search.c.seq), 0)).scalar_subquery()
_INDEX = insert(alert_search).from_select(
    ["seq", "words", "attributes", "recipients"],
    select(_some.c.seq, _WORDS, _some.c.attributes, _some.c.recipients)
    .where(_IS_BEHIND)
    .order_by(_some.c.seq)
    .limit(BATCH),
)


def found(words: str | None, attributes: dict[str, Any] | None) -> ColumnElement[bool]:
    """Return the condition that an alert has ``words``, in websearch syntax, and ``attributes``."""
    indexed, behind = select(alert_search.c.seq), select(_some.c.seq).where(_IS_BEHIND)
    if words is not None:
        query = func.websearch_to_tsquery(_DICTIONARY, words)
        indexed = indexed.where(alert_search.c.words.bool_op("@@")(query))
        behind = behind.where(_WORDS.bool_op("@@")(query))
    if attributes is not None:
        held = literal(attributes, JSONB)
        indexed = indexed.where(alert_search.c.attributes.contains(held))
        behind = behind.where(_some.c.attributes.contains(held))
    return alerts.c.seq.in_(union_all(indexed, behind))


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
        """Index the next alerts, unless another node does, and return how many."""
        async with self._database.transaction() as tx:
            if not await tx.scalar(_TRY_LOCK):
                return 0
            return (await tx.execute(_INDEX)).rowcount
