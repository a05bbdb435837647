"""Search by text against a definition of it in Python, for random alerts and queries."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import REGISTRY

from service.alerts import search, search_index
from service.alerts.queries import AlertQuery, list_alerts
from service.alerts.search import Term, parse
from service.alerts.search_index import SearchIndexer
from service.auth.principal import Principal
from service.database.engine import Database, parse_url
from service.settings import StorageSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ALERTS = 60
QUERIES = 80
ALPHABET = "aAb1é" * 4 + "._-/ :," * 2 + " " * 6 + "数据库错\uff0cข้อมサバ🔥%\\"
PIECE = re.compile(r"[数据库错ข้อมサバ🔥]|[0-9a-zé]+")
INSERT = """
INSERT INTO alerts (id, seq, source, topic, severity, title, body, attributes, links, recipients, status_by, status_at,
                    created_at, updated_at)
VALUES ($1, $2, $3, $4, 'info', $5, $6, $7, '[]', $8, $3, now(), now(), now())
"""
HEAD = "INSERT INTO log_chain VALUES ($1, 1, $1, now(), '')"
CHANGE = """
WITH changed AS (UPDATE alerts SET title = $1, attributes = $2 WHERE seq = $3 RETURNING seq)
INSERT INTO search_changes (seq) SELECT seq FROM changed
"""


@dataclass
class Alert:
    seq: int
    title: str
    body: str | None
    source: str
    topic: str
    attributes: dict[str, Any]
    recipients: list[str] | None
    id: UUID

    def fields(self) -> Iterator[str]:
        yield from (self.title, self.body or "", self.source, self.topic)
        yield from (self.attributes["a"], *self.attributes["nested"]["list"])


def words(text: str) -> list[str]:
    return PIECE.findall(text.lower())


def has(alert: Alert, term: Term) -> bool:
    if len(term.text) >= 8 and str(alert.id).startswith(term.text):
        return True
    sought = words(term.text)
    for held in map(words, alert.fields()):
        for start in range(len(held) - len(sought) + 1):
            *exact, last = held[start : start + len(sought)]
            if exact == sought[:-1] and (last == sought[-1] if term.is_quoted else last.startswith(sought[-1])):
                return True
    return False


def matches(alert: Alert, groups: list[list[Term]]) -> bool:
    searched = [[term for term in group if words(term.text) or len(term.text) >= 8] for group in groups]
    return any(all(has(alert, term) != term.is_excluded for term in group) for group in searched if group)


def visible(alert: Alert, principal: Principal) -> bool:
    addressed = alert.recipients is None or principal.subject in alert.recipients
    return addressed and (principal.topics == ("*",) or alert.topic in principal.topics)


def rendered(groups: list[list[Term]]) -> str:
    def one(term: Term) -> str:
        return "-" * term.is_excluded + (f'"{term.text}"' if term.is_quoted else term.text)

    return " or ".join(" ".join(map(one, group)) for group in groups)


class Chance(random.Random):
    def text(self, most: int) -> str:
        return "".join(self.choices(ALPHABET, k=self.randint(1, most)))

    def alert(self, seq: int) -> Alert:
        return Alert(
            seq,
            "a" + self.text(30),
            self.choice((None, self.text(60))),
            self.choice(("a1", "b.b")),
            self.choice(("aa.b", "b_1")),
            {"a": self.text(10), "nested": {"list": [self.text(10), self.text(10)]}},
            self.choice((None, ["alice"], ["bob", "alice"], ["bob"])),
            UUID(int=self.getrandbits(128)),
        )

    def term(self, alerts: list[Alert]) -> Term:
        alert = self.choice(alerts)
        is_quoted = self.random() < 0.3
        if self.random() < 0.1:
            return Term(str(alert.id)[: self.randint(8, 36)], is_quoted, self.random() < 0.3)
        text = self.choice(list(alert.fields()))
        start = self.randrange(len(text) or 1)
        cut = text[start : start + self.randint(1, 8)]
        if not is_quoted:
            cut = "".join(cut.split()).lstrip("-")
        return Term(cut or "b", is_quoted, self.random() < 0.2)

    def query(self, alerts: list[Alert]) -> list[list[Term]]:
        return [[self.term(alerts) for _ in range(self.randint(1, 2))] for _ in range(self.choice((1, 1, 1, 2)))]


PRINCIPALS = [
    Principal("alice", frozenset(), ("*",), 0),
    Principal("carol", frozenset(), ("*",), 0),
    Principal("bob", frozenset(), ("aa.b",), 0),
]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(parse_url(database_url), StorageSettings())
    yield opened
    await opened.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database_url)
    await opened.execute(HEAD, ALERTS)
    yield opened
    await opened.close()


async def found(database: Database, principal: Principal, query: str, limit: int = ALERTS) -> set[int]:
    """Return the alerts of all pages."""
    seqs: set[int] = set()
    before: tuple[int, ...] = ()
    while True:
        async with database.transaction(snapshot=True) as tx:
            page, more, _ = await list_alerts(tx, principal, AlertQuery(words=query, limit=limit, before=before))
        assert not seqs.intersection(alert.seq for alert in page)
        seqs.update(alert.seq for alert in page)
        if more is None:
            return seqs
        before = (page[-1].seq,)


async def insert(connection: asyncpg.Connection, alerts: list[Alert]) -> None:
    for alert in alerts:
        values = alert.source, alert.topic, alert.title, alert.body, json.dumps(alert.attributes), alert.recipients
        await connection.execute(INSERT, alert.id, alert.seq, *values)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_search_finds_what_its_definition_says_and_the_bearer_may_see(
    database: Database, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Alerts that are indexed, that are not yet, and that changed since, each found in every way."""
    chance = Chance(seed)
    alerts = [chance.alert(seq) for seq in range(1, ALERTS + 1)]
    await insert(connection, alerts[: ALERTS // 2])
    await SearchIndexer(database).advance()
    await insert(connection, alerts[ALERTS // 2 :])
    for alert in alerts[::5]:
        alert.title, alert.attributes["a"] = "b" + chance.text(30), chance.text(10)
        await connection.execute(CHANGE, alert.title, json.dumps(alert.attributes), alert.seq)
    hits = 0
    for number in range(QUERIES):
        if number == QUERIES // 2:
            assert await SearchIndexer(database).advance() == ALERTS // 2
        groups, principal = chance.query(alerts), chance.choice(PRINCIPALS)
        monkeypatch.setattr(search, "FEW", chance.choice((0, ALERTS // 3, ALERTS)))
        expected = {alert.seq for alert in alerts if matches(alert, groups) and visible(alert, principal)}
        query = rendered(groups)
        assert await found(database, principal, query, chance.choice((7, ALERTS))) == expected, (query, groups)
        hits += 0 < len(expected) < ALERTS // 3
    assert hits > QUERIES // 3  # the queries tell alerts apart


@pytest.mark.parametrize(
    ("query", "groups"),
    [
        ("a b", [["a", "b"]]),
        ("a or b c OR d", [["a"], ["b", "c"], ["d"]]),
        ('-a -"b c" "-d"', [["-a", '-"b c"', '"-d"']]),
        ("payment-service - --x", [["payment-service", "-", "--x"]]),
        ('a"b c"d', [["a", '"b c"', "d"]]),
        ('"a b', [["a", "b"]]),
        ("“a b” «c» \uff02d\uff02", [['"a b"', '"c"', '"d"']]),
        ("\uff44\uff42\uff11 \uff0d\uff41\u3000\uff42", [["db1", "-a", "b"]]),
        ('"or" -or order', [['"or"', "-or", "order"]]),
        ("or a or", [[], ["a"], []]),
    ],
)
def test_a_query_is_read_as_people_write_it(query: str, groups: list[list[str]]) -> None:
    def text(term: Term) -> str:
        return "-" * term.is_excluded + (f'"{term.text}"' if term.is_quoted else term.text)

    assert [[text(term) for term in group] for group in parse(query)] == groups


CHINESE = "数据库错" * 1_300
"""As many bytes as a body may have, of which each character is a word."""


def large(seq: int) -> Alert:
    return Alert(
        seq, f"n{seq}", CHINESE, "a1", "aa.b", {"a": "", "nested": {"list": ["", ""]}}, None, UUID(int=seq << 96)
    )


async def test_a_batch_of_the_indexer_is_bounded_by_its_text(
    database: Database, connection: asyncpg.Connection
) -> None:
    """A statement that reached its time-out would be tried again with the same batch."""
    bounded = search_index.BATCH_BYTES // len(CHINESE.encode()) + 1
    alerts = [large(seq) for seq in range(1, 2 * bounded)]
    await insert(connection, alerts)
    indexer = SearchIndexer(database)
    assert [await indexer.advance() for _ in range(3)] == [bounded, bounded - 1, 0]
    for alert in alerts:
        await connection.execute(CHANGE, "changed", "{}", alert.seq)
    assert [await indexer.advance() for _ in range(3)] == [bounded, bounded - 1, 0]
    changed = "SELECT count(*) FROM alert_search WHERE words LIKE ' changed %'"
    assert await connection.fetchval(changed) == len(alerts)


async def test_an_alert_that_is_larger_than_a_batch_is_indexed(
    database: Database, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "BATCH_BYTES", 1)
    await insert(connection, [large(1), large(2)])
    assert [await SearchIndexer(database).advance() for _ in range(3)] == [1, 1, 0]


@pytest.mark.parametrize("few", [0, 5_000])
async def test_a_search_splits_a_bounded_amount_of_text_itself(
    database: Database, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Alerts that are not indexed are found from the newest back to the bound; the others when they are indexed."""
    monkeypatch.setattr(search, "FEW", few)
    monkeypatch.setattr(search_index, "SPLIT_BYTES", 3 * 17_000)
    everyone = PRINCIPALS[0]
    await insert(connection, [large(seq) for seq in (1, 2)])
    await SearchIndexer(database).advance()
    await insert(connection, [large(seq) for seq in range(3, 8)])
    await connection.execute(CHANGE, "changed", "{}", 1)
    assert await found(database, everyone, "数据库") == {1, 2, 5, 6, 7}
    assert await found(database, everyone, "-n6") == {1, 2, 5, 7}
    assert await found(database, everyone, "n1 or n4 or changed") == {1}  # as it was when it was indexed
    assert await found(database, everyone, "00000003 or 00000001") == {1, 3}  # ids need no words
    await SearchIndexer(database).advance()
    assert await found(database, everyone, "数据库") == set(range(1, 8))
    assert await found(database, everyone, "n1 or n4 or changed") == {1, 4}
    await connection.execute(CHANGE, "again", "{}", 2)
    assert await found(database, everyone, "n2 or again") == {2}
    assert await found(database, everyone, "n2") == set()


async def test_a_search_splits_a_bounded_number_of_alerts_itself(
    database: Database, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "SPLIT_BYTES", 10 * search_index.SPLIT_ALERT_BYTES)
    chance = Chance(3)
    await insert(connection, [chance.alert(seq) for seq in range(1, 31)])
    number = len(await found(database, PRINCIPALS[0], "a or -a"))
    assert 0 < number < 10


async def test_the_lag_of_the_index_is_measured(database: Database, connection: asyncpg.Connection) -> None:
    await insert(connection, [large(seq) for seq in (1, 7)])
    lags = []
    for _ in range(2):
        await SearchIndexer(database).advance()
        lags.append(REGISTRY.get_sample_value("tocsin_search_lag_events"))
    assert lags == [7, 0]
