"""The search index: a table beside the alerts, filled behind the log.

Splitting text into words and keeping three GIN indexes costs PostgreSQL as much as storing the
alert, or ten times as much where it has a hundred recipients or 16 KiB of Chinese, and would be
paid under the log's lock. So one node at a time does it afterwards, in batches that are bounded by
their text too, and pauses nine times as long as it worked.

Alerts that are not indexed yet are searched without an index, from the newest back to
``SPLIT_BYTES`` of text: as long as the index is behind by less, an answer is not behind the log.

A repetition may change the words and the attributes of an alert, and leaves a row in
``search_changes`` if it does. Until its alert is indexed again, the alert counts as one that is not
indexed; beyond ``SPLIT_BYTES``, its entry stays valid. An entry keeps the recipients.
"""

from __future__ import annotations

import time
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    literal_column,
    not_,
    select,
    text,
    union,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from service.alerts.tables import alert_search, alerts, search_changes
from service.database.locks import TableLock
from service.metrics import SEARCH_LAG
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause, Select
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql.selectable import LateralFromClause

    from service.database.engine import Database

PAUSE_SECONDS = 0.5
PAUSE_FACTOR = 9
BATCH = 1_000
BATCH_BYTES = 512 * 1024
"""Half a second where each character is a word, far from the time-out of a statement."""

SPLIT_BYTES = 8 * 1024 * 1024
"""How much text a search splits into words itself: a second where each character is a word."""
SPLIT_ALERT_BYTES = 256
"""What an alert counts for beside its text."""

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
_BYTES = (
    func.octet_length(_some.c.title)
    + func.coalesce(func.octet_length(_some.c.body), 0)
    + func.octet_length(cast(_some.c.attributes, Text))
)
_INDEX_BYTES = _BYTES + func.coalesce(func.octet_length(cast(_some.c.recipients, Text)), 0)
_LAG = select(func.coalesce(func.max(alerts.c.seq), 0) - _LAST_INDEXED)
_BEHIND = select(_some.c.seq, _INDEX_BYTES).where(_IS_BEHIND).order_by(_some.c.seq).limit(BATCH)
_INDEX = insert(alert_search).from_select(
    ["seq", "words", "attributes", "recipients"],
    select(_some.c.seq, _words(_some), _some.c.attributes, _some.c.recipients)
    .where(_some.c.seq == any_(bindparam("seqs", type_=ARRAY(BigInteger))))
    .order_by(_some.c.seq),
)
_CHANGES = (
    select(search_changes.c.id, func.coalesce(_INDEX_BYTES, 0))
    .outerjoin(_some, _some.c.seq == search_changes.c.seq)
    .order_by(search_changes.c.id)
    .limit(BATCH)
)
_TAKE_CHANGED = (
    delete(search_changes)
    .where(search_changes.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
    .returning(search_changes.c.seq)
)
_INDEX_CHANGED = (
    update(alert_search)
    .values(words=_words(_some), attributes=_some.c.attributes)
    .where(alert_search.c.seq == _some.c.seq, alert_search.c.seq == any_(bindparam("seqs", type_=ARRAY(BigInteger))))
)


async def split_from(tx: AsyncConnection) -> int:
    """Return the position from which a search splits the alerts that the index does not know as they are now."""
    most = SPLIT_BYTES // SPLIT_ALERT_BYTES
    sized = select(_some.c.seq, (_BYTES + SPLIT_ALERT_BYTES).label("bytes"))
    behind = sized.where(_IS_BEHIND).order_by(_some.c.seq.desc()).limit(most).subquery()
    changed = _CHANGED.distinct().order_by(search_changes.c.seq.desc()).limit(most).scalar_subquery()
    newest = union(select(behind), sized.where(_some.c.seq == any_(func.array(changed)))).subquery()
    total = func.sum(newest.c.bytes).over(order_by=newest.c.seq.desc()).label("total")
    added = select(newest.c.seq, total).subquery()
    beyond = func.max(added.c.seq).filter(added.c.total > SPLIT_BYTES)
    first: int = (await tx.execute(select(func.coalesce(beyond + 1, 0)))).scalar_one()
    return first


def current_words(first_split: int) -> LateralFromClause:
    """Return the words of an alert as a row beside it: from the index if they are there, else made from the alert.

    Before ``first_split``, they are those in the index, or null.
    """
    is_split = alerts.c.seq >= first_split
    is_current = not_(and_(is_split, alert_search.c.seq.in_(_CHANGED)))
    entry = select(alert_search.c.words).where(alert_search.c.seq == alerts.c.seq, is_current)
    made = case((is_split, _words(alerts)))
    words = func.coalesce(entry.correlate(alerts).scalar_subquery(), made).label("words")
    return select(words).correlate(alerts).offset(0).lateral("current")  # with an offset, it is computed once


def unindexed(*conditions: ColumnElement[bool], first_seq: int = 0) -> list[Select[tuple[int]]]:
    """Return the alerts from ``first_seq`` on that the index does not know as they are now.

    ``conditions`` on ``_some`` narrow them.
    """
    conditions = (*conditions, _some.c.seq >= first_seq)
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

    async def _index(self) -> float:
        begun = time.monotonic()
        await self.advance()
        return max(PAUSE_SECONDS, PAUSE_FACTOR * (time.monotonic() - begun))

    async def advance(self) -> int:
        """Index the next alerts and changes, unless another node does, and return how many of the more frequent."""
        async with self._database.transaction() as tx:
            SEARCH_LAG.set(max(0, await tx.scalar(_LAG) or 0))
            if not await tx.scalar(_TRY_LOCK):
                return 0
            # A repetition that is committed from here on leaves a row that is not among these.
            changed = (await tx.scalars(_TAKE_CHANGED, {"ids": await _next_batch(tx, _CHANGES)})).all()
            if changed:
                await tx.execute(_INDEX_CHANGED, {"seqs": changed})
            behind = await _next_batch(tx, _BEHIND)
            if behind:
                await tx.execute(_INDEX, {"seqs": behind})
            return max(len(changed), len(behind))


async def _next_batch(tx: AsyncConnection, oldest: Select[int, int]) -> list[int]:
    """Return the first of the ``oldest`` keys, until their texts add up to ``BATCH_BYTES``: one at least."""
    rows = (await tx.execute(oldest)).all()
    before = accumulate((size for _, size in rows), initial=0)
    return [key for (key, _), total in zip(rows, before, strict=False) if total < BATCH_BYTES]
