"""``audit.unreceived`` on random histories, against its definition: by ``audit.deliveries``, pair by pair."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import event

from service.audit import queries
from service.audit.queries import LISTS, PageRequest, TimeRange
from service.database.engine import Database, parse_url
from service.http.pagination import START
from service.settings import StorageSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

TOPICS = ("pay.eu", "pay.us", "search", "pay_eu")
PATTERNS = ("*", "pay.*", "pay.eu", "search", "pay_eu")
SEVERITIES = ("info", "warning", "error", "critical")
NAMES = ("alice", "bob", "carol", "dora")
BEGUN = datetime(2026, 11, 21, 9, tzinfo=UTC)
NEVER_CONNECTED = "erin"

# It says what the view is, as plainly as possible: it compares each alert with each admin.
DEFINITION = """
SELECT a.id AS alert_id, a.seq, a.topic, a.severity, a.title, a.status, admin.recipient,
       a.created_at AS occurred_at, now() - a.created_at AS waiting, sent.sent_at,
       (SELECT a.topic LIKE ANY (topic_likes(topics)) FROM recipients WHERE id = admin.recipient) AS covered,
       (SELECT seen_at FROM sightings s WHERE s.alert_id = a.id AND s.recipient = admin.recipient) AS seen_at
FROM alerts a
CROSS JOIN LATERAL (
    SELECT DISTINCT unnest(coalesce(
        a.recipients, ARRAY(
            SELECT id FROM recipients WHERE a.topic LIKE ANY (topic_likes(topics)) AND first_seen_seq < a.seq
            UNION SELECT unnest(recipients) FROM events WHERE alert_id = a.id
        )
    ))
) AS admin (recipient)
CROSS JOIN LATERAL (
    SELECT min(sent_at) AS sent_at, count(received_at) AS received FROM audit.deliveries d
    WHERE d.alert_id = a.id AND d.seq >= a.seq AND d.recipient = admin.recipient
) AS sent
WHERE sent.received = 0 AND admin.recipient NOT IN (SELECT recipient FROM deactivated_recipients)
"""
COLUMNS = "alert_id, seq, topic, severity, title, status, recipient, occurred_at, waiting, sent_at, covered, seen_at"
DIFFERENCE = f"""
WITH defined AS ({DEFINITION}), shown AS (SELECT {COLUMNS} FROM audit.unreceived)
(SELECT 'missing', * FROM (TABLE defined EXCEPT ALL TABLE shown) AS missing)
UNION ALL (SELECT 'invented', * FROM (TABLE shown EXCEPT ALL TABLE defined) AS invented)
"""


class History:
    """A log, and what a few admins were sent of it and confirmed, by the rows of the tables."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.head = 0
        self.rows: dict[str, list[tuple[Any, ...]]] = {
            name: [] for name in ("nodes", "recipients", "alerts", "events", "connections", "receipts", "sightings")
        }
        self.node = self._id()
        for _ in range(self.chance.randint(1, 25)):
            self._alert()
        self.chance.shuffle(self.rows["alerts"])
        self.rows["nodes"].append((self.node, "host", 1, BEGUN, BEGUN, self.chance.randint(0, self.head)))
        for name in self.chance.sample(NAMES, self.chance.randint(1, len(NAMES))):
            self.rows["recipients"].append((name, self._topics(), BEGUN, BEGUN, self._first_seen()))
            for _ in range(self.chance.randint(0, 6)):
                self._connection(name)
        for alert in self.chance.sample(self.rows["alerts"], min(3, len(self.rows["alerts"]))):
            self.rows["sightings"].append((alert[0], self.chance.choice(NAMES), self.head, BEGUN, 1))

    def _id(self) -> UUID:
        return UUID(int=self.chance.getrandbits(128))

    def _topics(self) -> list[str]:
        return self.chance.sample(PATTERNS, self.chance.randint(1, 2))

    def _first_seen(self) -> int:
        return self.chance.choice((0, self.chance.randint(0, self.head)))

    def _alert(self) -> None:
        """Create an alert, and let some more happen to it: it may become more severe, or escalate to everybody."""
        alert_id, topic, first_seq = self._id(), self.chance.choice(TOPICS), self.head + 1
        severity = self.chance.choice(SEVERITIES)
        names = self.chance.sample((*NAMES, NEVER_CONNECTED), 2) if self.chance.random() < 0.3 else None
        escalate_after = 60 if names else None
        for number in range(self.chance.choice((1, 1, 2, 4))):
            self.head += 1
            if number and self.chance.random() < 0.3:
                names = None
            if number and self.chance.random() < 0.5:
                severity = self.chance.choice(SEVERITIES)
            event = (self.head, self.head, alert_id, "alert.repeated", topic, severity, names, "billing", self._at())
            self.rows["events"].append((*event, "{}"))
        last = (self._at(), self._at(first_seq), self._at(), escalate_after)
        self.rows["alerts"].append(
            (alert_id, first_seq, "billing", topic, severity, "t", "{}", "[]", names, "open", "billing", *last)
        )

    def _at(self, seq: int | None = None) -> datetime:
        return BEGUN + timedelta(minutes=seq or self.head)

    def _connection(self, name: str) -> None:
        identity, after = self._id(), self.chance.randint(0, self.head)
        sent = self.chance.choice((None, self.chance.randint(0, self.head)))
        severity = self.chance.choice(SEVERITIES)
        self.rows["connections"].append(
            (identity, self.node, name, "websocket", self._topics(), severity, BEGUN, BEGUN, after, sent)
        )
        for seq in {self.chance.randint(after, self.head) for _ in range(self.chance.randint(0, 3))}:
            self.rows["receipts"].append((identity, seq, BEGUN, 1))

    async def store(self, connection: asyncpg.Connection) -> None:
        """Replace all that the tables hold."""
        await connection.execute(f"TRUNCATE {', '.join(self.rows)} CASCADE")
        for table, rows in self.rows.items():
            await connection.copy_records_to_table(table, records=rows, columns=_COLUMNS[table].split())


_COLUMNS: Mapping[str, str] = {
    "nodes": "id host pid started_at seen_at sent_seq",
    "recipients": "id topics first_seen_at last_seen_at first_seen_seq",
    "alerts": "id seq source topic severity title attributes links recipients status status_by status_at created_at"
    " updated_at escalate_after",
    "events": "seq id alert_id kind topic severity recipients actor occurred_at body",
    "connections": "id node_id recipient transport topics min_severity token_expires_at opened_at after_seq sent_seq",
    "receipts": "connection_id seq received_at ledger_link_id",
    "sightings": "alert_id recipient seq seen_at ledger_link_id",
}


@pytest.mark.parametrize("seed", range(80))
async def test_the_view_shows_what_its_definition_says(shared_url: str, seed: int) -> None:
    connection = await asyncpg.connect(shared_url)
    try:
        await History(seed).store(connection)
        assert await connection.fetch(DIFFERENCE) == []
    finally:
        await connection.close()


@pytest.mark.parametrize("seed", range(5))
async def test_pages_from_parts_of_the_alerts_are_the_whole_list(
    shared_url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "ALERTS_IN_A_PART", 2)
    connection = await asyncpg.connect(shared_url)
    database = Database(parse_url(shared_url), StorageSettings())
    try:
        await History(seed).store(connection)
        times = TimeRange(BEGUN + timedelta(minutes=3), BEGUN + timedelta(days=1))
        whole = await connection.fetch(
            "SELECT seq, recipient FROM audit.unreceived WHERE occurred_at >= $1 AND severity = ANY ($2::severity[])"
            " ORDER BY seq DESC, recipient DESC",
            times.since,
            ["info", "error"],
        )
        for limit in (1, 3, 100):
            found: list[tuple[int, str]] = []
            after: Any = START
            while after is not None:
                async with database.audit.transaction(snapshot=True) as tx:
                    rows, after = await LISTS["unreceived"].page(
                        tx, times, PageRequest(limit, after), {"severity": ["info", "error"]}
                    )
                found += [(row["seq"], row["recipient"]) for row in rows]
                assert after is None or len(rows) == limit
            assert found == [tuple(row) for row in whole]
    finally:
        await connection.close()
        await database.close()


async def test_an_export_queries_the_view_once_however_many_rows_it_has(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query of the view makes the same ranges first, which took most of the time of an export."""
    monkeypatch.setattr(queries, "ALERTS_IN_A_PART", 2)
    monkeypatch.setattr(queries, "STREAMED_ROWS", 3)
    statements: list[str] = []
    connection = await asyncpg.connect(shared_url)
    database = Database(parse_url(shared_url), StorageSettings())
    try:
        await History(1).store(connection)
        whole = await connection.fetch("SELECT seq, recipient FROM audit.unreceived ORDER BY seq DESC, recipient DESC")
        async with database.audit.transaction(snapshot=True) as tx:
            event.listen(tx.sync_connection, "before_cursor_execute", lambda *call: statements.append(call[2]))
            for limit in (None, 5):
                rows = LISTS["unreceived"].all_rows(tx, TimeRange(), {}, limit)
                assert [(row["seq"], row["recipient"]) async for row in rows] == [tuple(row) for row in whole[:limit]]
        assert len(whole) > 5
        assert sum("audit.unreceived" in statement for statement in statements) == 2
    finally:
        await connection.close()
        await database.close()
