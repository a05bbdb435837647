"""Search by text: the query that people type, and the conditions that it means in SQL.

::

    a b         both                          a or b      either; "a b or c" is "(a b) or c"
    pay         words that begin with it      "a b"       these whole words, in this order
    db1.eu      its parts, in this order      -a          what ``a`` does not find

``alembic/sql/search_words.sql`` says what a word is. An alert is also found by its id, or the
beginning of that. LIKE on the words of an alert decides what matches; the index finds candidates.

A page is looked for among the newest alerts first, where a frequent word soon fills it. What they do
not fill is read from the index; or, where many alerts have the words and few pass the other filters,
from those few.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import BigInteger, Text, and_, any_, cast, false, func, literal, not_, or_, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY

from service.alerts.search_index import LEXEMES, current_words, split_from, unindexed
from service.alerts.tables import alert_search, alerts
from service.database.pages import read_page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement, RowMapping, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

FEW = 5_000
"""How many alerts are looked at one by one."""

_TERM = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))')
_QUOTES = str.maketrans(dict.fromkeys("“”„«»", '"'))
_ID = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,28}", re.ASCII | re.IGNORECASE)
_ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Term:
    """A word, or words in a row, of a query."""

    text: str
    is_quoted: bool = False
    is_excluded: bool = False


@dataclass(frozen=True, slots=True)
class _SoughtTerm:
    """A term in words of the database, each between spaces, and in lexemes of the index."""

    term: Term
    words: str
    lexemes: Sequence[str]

    def is_in(self, words: ColumnElement[str]) -> ColumnElement[bool]:
        """Return the condition that ``words`` have what the term asks for."""
        pattern = self.words if self.term.is_quoted else self.words.rstrip(" ")
        return words.like(f"%{pattern}%")

    @property
    def is_id(self) -> ColumnElement[bool]:
        """The condition that the id of an alert begins with the term."""
        between = _id_range(self.term.text)
        return alerts.c.id.between(*between) if between is not None else false()

    @property
    def tsquery(self) -> str:
        """The lexemes that the alerts must have; a last character is in the pair before it."""
        *lexemes, last = self.lexemes
        exact = [f"'{lexeme}'" for lexeme in lexemes]
        return " & ".join(exact if lexemes and lexemes[-1].endswith(last) else [*exact, f"'{last}':*"])


def parse(query: str) -> list[list[Term]]:
    """Return groups of terms; an alert matches a query if it matches each term of a group."""
    groups: list[list[Term]] = [[]]
    for minus, quoted, plain in _TERM.findall(unicodedata.normalize("NFKC", query).translate(_QUOTES)):
        if plain.lower() == "or" and not minus:
            groups.append([])
        else:
            groups[-1].append(Term(plain or quoted, is_quoted=not plain, is_excluded=bool(minus)))
    return groups


def _id_range(text: str) -> tuple[UUID, UUID] | None:
    """Return the first and the last id that begins with ``text``, None if none does."""
    digits = text.replace("-", "")
    if not _ID.fullmatch(text) or len(digits) > _ID_DIGITS:
        return None
    return UUID(digits.ljust(_ID_DIGITS, "0")), UUID(digits.ljust(_ID_DIGITS, "f"))


async def read_found(
    tx: AsyncConnection, query: str, listed: Select[Any], end: int, limit: int
) -> tuple[list[RowMapping], bool]:
    """Return a page of ``listed`` alerts, all before the position ``end``, that match, and whether there are more."""
    groups = await _sought_groups(tx, parse(query))
    if not groups:
        return [], False
    first_split = await split_from(tx)
    current = current_words(first_split)
    has_terms = _has_terms(groups, lambda term: or_(term.is_in(current.c.words), term.is_id))
    matching = listed.where(select(literal(1)).select_from(current).where(has_terms).exists())
    newest = await _read(tx, matching.where(alerts.c.seq >= end - FEW), limit)
    if newest[1] or end <= FEW:
        return newest
    indexed, passing = _indexed(groups), listed.with_only_columns(alerts.c.seq)
    if (few := await _few(tx, indexed)) is not None:
        is_candidate = _is_candidate(groups, select(func.unnest(few)), first_split)
    elif (few := await _few(tx, passing)) is not None:
        is_candidate = alerts.c.seq == any_(few)
    else:
        is_candidate = _is_candidate(groups, indexed, first_split)
    return await _read(tx, matching.where(is_candidate), limit)


async def _read(tx: AsyncConnection, statement: Select[Any], limit: int) -> tuple[list[RowMapping], bool]:
    return await read_page(tx, statement, (alerts.c.seq,), limit, newest_first=True)


async def _few(tx: AsyncConnection, statement: Select[tuple[int]]) -> ColumnElement[Sequence[int]] | None:
    """Return what a statement selects as an array, None where that is more than ``FEW``."""
    seqs = (await tx.scalars(statement.limit(FEW + 1))).all()
    return literal(seqs, ARRAY(BigInteger)) if len(seqs) <= FEW else None


async def _sought_groups(tx: AsyncConnection, groups: list[list[Term]]) -> list[list[_SoughtTerm]]:
    """Return the groups without the terms that have no words, such as ``&``."""
    texts = literal(list({term.text for group in groups for term in group}), ARRAY(Text))
    text = func.unnest(texts).column_valued("text")
    words = func.search_words(text)
    known = {row[0]: row[1:] for row in await tx.execute(select(text, words, func.word_lexemes(words)))}
    sought = ([_SoughtTerm(term, *known[term.text]) for term in group] for group in groups)
    return [found for group in sought if (found := [term for term in group if term.lexemes])]


def _has_terms(
    groups: list[list[_SoughtTerm]], has: Callable[[_SoughtTerm], ColumnElement[bool]]
) -> ColumnElement[bool]:
    """Return the condition that for one of the groups, an alert has its terms, and none that it excludes."""
    return or_(
        *(and_(*(not_(has(term)) if term.term.is_excluded else has(term) for term in group)) for group in groups)
    )


def _indexed(groups: list[list[_SoughtTerm]]) -> Select[tuple[int]]:
    """Return the alerts whose entries in the index match by their words."""
    indexed = select(alert_search.c.seq).where(_has_terms(groups, lambda term: term.is_in(alert_search.c.words)))
    required = [[term.tsquery for term in group if not term.term.is_excluded] for group in groups]
    if not all(required):
        return indexed
    query = " | ".join(f"({' & '.join(terms)})" for terms in required)
    return indexed.where(LEXEMES.bool_op("@@")(cast(query, TSQUERY)))


def _is_candidate(
    groups: list[list[_SoughtTerm]], indexed: Select[tuple[int]], first_split: int
) -> ColumnElement[bool]:
    """Return the condition that an alert is ``indexed``, has an id of the groups, or is split by the search."""
    named = select(alerts.c.seq).where(or_(*(term.is_id for group in groups for term in group)))
    split = unindexed(first_seq=first_split)
    return alerts.c.seq == any_(func.array(union_all(indexed, *split, named).scalar_subquery()))
