"""What the ledger claims, against what clients really received and acknowledged, for random histories."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from service.settings import LedgerSettings, LimitSettings, Settings
from service.severity import SEVERITIES
from tests.harness import PATIENCE, Node, serving
from tests.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

NAMES = ("alice", "bob", "carol")
TOPICS = ("payments.eu", "payments.us", "search")
PATTERNS = ("*", "*", "payments.*", "payments.eu,search")
BIG = "x" * 16_000
MOST = 8
# The histories are drawn without a look at what has arrived, which depends on time.
ANY = st.integers(0, 59)

examples = itertools.count()


@dataclass
class Published:
    seq: int
    topic: str
    severity: str
    recipients: list[str] | None
    least_bytes: int
    at: datetime


@dataclass
class Client:
    reader: Reader
    patterns: list[str]
    min_severity: str
    since: datetime
    acked: int = 0
    is_open: bool = True
    resumed: bool = False
    missed_from: int | None = None
    final: list[int] = field(default_factory=list)
    claimed: dict[int, Any] = field(default_factory=dict)

    def sees(self, event: Published) -> bool:
        return (
            event.seq > self.reader.after
            and (self.missed_from is None or event.seq <= self.missed_from)
            and SEVERITIES.index(event.severity) >= SEVERITIES.index(self.min_severity)
            and (event.recipients is None or self.reader.subject in event.recipients)
            and any(
                pattern in ("*", event.topic) or (pattern.endswith(".*") and event.topic.startswith(pattern[:-1]))
                for pattern in self.patterns
            )
        )


def wait_for(condition: Callable[[], Any], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.005)


class Place:
    """A node, and a loop to ask its database from outside."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._loop = asyncio.new_event_loop()
        self._connection = self._run(asyncpg.connect(node.database_url))

    def sql(self, query: str, *arguments: Any) -> list[Any]:
        rows: list[Any] = self._run(self._connection.fetch(query, *arguments))
        return rows

    def close(self) -> None:
        self._run(self._connection.close())
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)


class History(RuleBasedStateMachine):
    """Clients come and go, read and do not read, acknowledge some of it, while alerts are published."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.rest = self.place.node.rest()
        self.names = [f"{name}-{next(examples)}" for name in NAMES]
        self.base = self.place.sql("SELECT coalesce(max(seq), 0) FROM events")[0][0]
        self.log: list[Published] = []
        self.clients: list[Client] = []

    @property
    def head(self) -> int:
        return self.log[-1].seq if self.log else self.base

    @property
    def open(self) -> list[Client]:
        return [client for client in self.clients if client.is_open]

    def one(self, which: int) -> Client:
        return self.open[which % len(self.open)]

    def expected(self, client: Client) -> list[int]:
        return [event.seq for event in self.log if client.sees(event)]

    def claims(self, client: Client) -> list[Any]:
        return self.place.sql(
            "SELECT seq, sent_at, received_at, latency FROM audit.deliveries"
            " WHERE connection = $1::text::uuid ORDER BY 1",
            client.reader.id,
        )

    # What happens.

    @rule(
        name=st.integers(0, 2),
        topics=st.sampled_from(PATTERNS),
        min_severity=st.sampled_from(("info", "info", "warning")),
        after=st.one_of(st.sampled_from(("latest", "own")), st.integers(0, 30)),
        small=st.sampled_from((True, True, False)),
    )
    @precondition(lambda self: len(self.open) < 5)
    def connect(self, name: int, topics: str, min_severity: str, after: str | int, small: bool) -> None:  # noqa: FBT001
        subject = self.names[name]
        query: dict[str, Any] = {"topic": topics, "min_severity": min_severity}
        earlier = [
            client
            for client in self.clients
            if (client.reader.subject, client.patterns, client.min_severity)
            == (subject, topics.split(","), min_severity)
        ]
        if after != "own":
            query["after"] = after if after == "latest" else max(self.base, self.head - int(after))
        since = datetime.now(UTC)
        reader = Reader(self.place.node, subject, small=small, **query)
        if after == "own" and any(client.acked or client.resumed for client in earlier):
            # What was sent beyond the acknowledged is more than this client knows: it may fill a hole, or not.
            surely = min(client.reader.after for client in earlier)
            for client in sorted(earlier, key=lambda client: client.reader.after):
                if client.reader.after <= surely:
                    surely = max(surely, client.acked)
            furthest = max(max(client.acked, client.reader.after) for client in earlier)
            assert surely <= reader.after <= furthest
        elif earlier and after == "own":
            assert min(client.reader.after for client in earlier) <= reader.after <= self.head
        elif after in ("own", "latest"):
            # An answered alert is stored; that it was fanned out already is not promised, unless somebody has it.
            fanned_out = max((client.reader.cursor for client in self.clients), default=0)
            assert fanned_out <= reader.after <= self.head
        else:
            assert reader.after == query["after"]
        self.clients.append(Client(reader, topics.split(","), min_severity, since, resumed=after == "own"))

    @rule(
        topic=st.sampled_from(TOPICS),
        severity=st.sampled_from(SEVERITIES),
        to=st.none() | st.none() | st.sets(st.integers(0, 2), min_size=1),
        copies=st.sampled_from((1, 4, MOST)),
        big=st.sampled_from((True, True, False)),
    )
    def publish(self, topic: str, severity: str, to: set[int] | None, copies: int, big: bool) -> None:  # noqa: FBT001
        recipients = [self.names[name] for name in sorted(to)] if to else None
        alert = {"topic": topic, "severity": severity, "title": "It happened", "recipients": recipients}
        for _ in range(copies):
            at = datetime.now(UTC)
            answer = self.rest.post("/v1/alerts", json={**alert, "body": BIG if big else None})
            assert answer.status_code == 201, answer.text
            assert answer.json()["seq"] == self.head + 1
            # The event's frame holds all of the answer but its seq, and more.
            size = len(answer.content) - len(f',"seq":{self.head + 1}')
            self.log.append(Published(self.head + 1, topic, severity, recipients, size, at))

    @rule(which=ANY)
    @precondition(lambda self: self.open)
    def read(self, which: int) -> None:
        self.read_all(self.one(which))

    @rule(which=ANY)
    @precondition(lambda self: self.open)
    def read_a_little(self, which: int) -> None:
        client = self.one(which)
        reader, so_far = client.reader, len(client.reader.seqs)
        if so_far < len(self.expected(client)):
            reader.read_until(lambda: len(reader.seqs) > so_far)

    @rule(which=ANY, of=ANY)
    @precondition(lambda self: self.open)
    def acknowledge(self, which: int, of: int) -> None:
        client = self.one(which)
        waiting = [seq for seq in client.reader.seqs if seq > client.acked]
        if waiting:
            client.acked = waiting[of % len(waiting)]
            client.reader.ack(client.acked)
            query = "SELECT FROM receipts WHERE connection_id = $1::text::uuid AND seq = $2"
            wait_for(lambda: self.place.sql(query, client.reader.id, client.acked))

    @rule(which=ANY, how=st.sampled_from(("say goodbye", "hang up", "vanish")))
    @precondition(lambda self: self.open)
    def leave(self, which: int, how: str) -> None:
        self.end(self.one(which), how)

    @invariant()
    def audit(self) -> None:
        for client in self.open:
            claimed = self.claims(client)
            self.check_claims(client, claimed)
            least = {event.seq: event.least_bytes for event in self.log}
            total = sum(least[row["seq"]] for row in claimed)
            wait_for(lambda c=client, t=total: t <= c.reader.bytes_taken_by_the_kernel(), 2)  # type: ignore[misc]

    def teardown(self) -> None:
        try:
            for client in self.open:
                self.read_all(client)
                wait_for(lambda c=client: [row["seq"] for row in self.claims(c)] == c.reader.seqs)  # type: ignore[misc]
                self.check_claims(client, self.claims(client))
                self.end(client, "hang up")
                assert client.final == client.reader.seqs
            for client in self.clients:
                assert [row["seq"] for row in self.claims(client)] == client.final
        finally:
            for client in self.open:
                client.reader.vanish()
            self.rest.close()

    # What must hold.

    def read_all(self, client: Client) -> None:
        """A client that reads receives what matches its filter, in order, each once, and nothing else."""
        expected = self.expected(client)
        client.reader.read_until(lambda: len(client.reader.seqs) >= len(expected))
        assert client.reader.seqs == expected

    def check_claims(self, client: Client, claimed: list[Any]) -> None:
        now = datetime.now(UTC)
        published = {event.seq: event.at for event in self.log}
        assert {row["seq"] for row in claimed} <= set(self.expected(client))
        # What was claimed once is claimed for good, with the same times.
        for seq, before in client.claimed.items():
            row = next(row for row in claimed if row["seq"] == seq)
            assert row["sent_at"] == before["sent_at"]
            assert row["received_at"] == before["received_at"] or before["received_at"] is None
        client.claimed = {row["seq"]: row for row in claimed}
        for row in claimed:
            assert max(published[row["seq"]], client.since) <= row["sent_at"] <= now
            assert (row["received_at"] is not None) == (row["seq"] <= client.acked)
            if row["received_at"] is not None:
                assert row["sent_at"] <= row["received_at"] <= now
                assert row["latency"] == row["received_at"] - row["sent_at"]

    def end(self, client: Client, how: str) -> None:
        was_up_to_date = client.reader.seqs == self.expected(client)
        ending: dict[str, Callable[[], None]] = {
            "say goodbye": client.reader.say_goodbye,
            "hang up": client.reader.hang_up,
            "vanish": client.reader.vanish,
        }
        ending[how]()
        client.is_open = False
        closed = "SELECT FROM connections WHERE id = $1::text::uuid AND closed_at IS NOT NULL"
        wait_for(lambda: self.place.sql(closed, client.reader.id))
        expected = self.expected(client)
        client.missed_from = self.head
        claimed = self.claims(client)
        self.check_claims(client, claimed)
        client.final = [row["seq"] for row in claimed]
        assert client.final == expected[: len(client.final)]
        if how != "vanish":
            assert client.reader.seqs == expected[: len(client.reader.seqs)]
            assert client.final == client.reader.seqs[: len(client.final)]
        if was_up_to_date:
            assert client.final == client.reader.seqs


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    every = "1000000/second"
    limits = LimitSettings(write_limit=every, read_limit=every, auth_failure_limit=every)
    with serving(database_url, Settings(limits=limits, ledger=LedgerSettings(ledger_flush_seconds=0.02))) as node:
        place = Place(node)
        yield place
        place.close()


@pytest.mark.parametrize("histories", [4, pytest.param(40, marks=pytest.mark.long)])
def test_the_ledger_claims_what_was_sent_and_received_and_no_more(place: Place, histories: int) -> None:
    class Here(History):
        pass

    Here.place = place
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=histories,
            stateful_step_count=30,
            database=None,
            phases=[Phase.generate],  # a history that fails takes long to shrink: it waits for what does not come
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
