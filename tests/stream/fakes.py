"""Fakes for the pure tests of the stream: a socket, a ledger, a log; no network, no database, no node."""

from __future__ import annotations

import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, cast

import orjson

from service.auth.principal import Principal
from service.errors import CloseReason, DatabaseUnavailable
from service.events.filter import EventFilter, is_for
from service.events.log import Event
from service.events.position import ORIGIN, HistoryChanged, Position
from service.ledger.recorder import LedgerRecorder
from service.ledger.records import ConnectionEntry
from service.stream import frames
from service.stream.connection import Connection
from service.stream.hub import Hub
from service.stream.protocol import Phase, StreamProtocol, Timing
from service.topics import EVERY_TOPIC
from tests.fixtures.revocations import KnownRevocations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import ModuleType

    import pytest

    from service.auth.tokens import TokenVerifier
    from service.database.engine import Database
    from service.http.rate_limits import ConnectionLimits
    from service.settings import StreamSettings
    from service.severity import Severity
    from service.stream.frames import FrameBatch, PreparedEvent
    from service.stream.replay_reader import ReplayReader
    from service.stream.transports.interface import WindowListener

READS = {"read_head", "read_position", "find_common", "read_first", "read_tail", "read_matching"}
"""What is read of the log, by the names of the functions in ``service/events/log.py``."""
AT = datetime(2026, 11, 21, 9, 41, 7, 5, tzinfo=UTC)


def at(seq: int, history: int = 0) -> Position:
    """Return a position in the log, whose id differs from that in another history in its mark, too."""
    return Position(seq, (1000 * seq + history) << 32)


def event(
    seq: int,
    topic: str = "default",
    severity: Severity = "info",
    recipients: Sequence[str] | None = None,
    *,
    size: int = 0,
    history: int = 0,
) -> Event:
    """Return an event of the log, whose body has ``size`` bytes of text; another ``history`` has another there."""
    to = frozenset(recipients) if recipients is not None else None
    body = b'{"title":"%b"}' % (b"x" * size)
    return Event(*at(seq, history), uuid.UUID(int=seq), "alert.created", topic, severity, to, "billing", AT, body)


def prepared(seq: int, *arguments: Any, **options: Any) -> PreparedEvent:
    """Return the frame of an event."""
    return frames.prepare(event(seq, *arguments, **options))


def principal(subject: str = "alice", topics: tuple[str, ...] = EVERY_TOPIC) -> Principal:
    """Return a bearer whose token is good for a minute."""
    return Principal(subject, frozenset({"alerts:read"}), topics, expires_at=time.time() + 60)


@dataclass
class FakeTransport:
    """A socket that takes everything, or (``is_full``) nothing more than was just written."""

    batches: list[FrameBatch] = field(default_factory=list)
    is_full: bool = False
    listener: WindowListener | None = None
    closed: CloseReason | None = None
    hint: str | None = None
    taken: int = 0

    def attach(self, listener: WindowListener) -> None:
        self.listener = listener

    def taken_bytes(self) -> int:
        return self.taken

    def write_frames(self, batch: FrameBatch) -> bool:
        self.batches.append(batch)
        return not self.is_full

    def close_stream(self, reason: CloseReason, hint: str | None = None) -> bool:
        is_first, self.closed = self.closed is None, self.closed or reason
        self.hint = hint
        return is_first

    @property
    def frames(self) -> list[dict[str, Any]]:
        """All frames that were written."""
        return [orjson.loads(frame.payload) for batch in self.batches for frame in batch.frames]

    @property
    def seqs(self) -> list[int]:
        """The seqs of the events that were written."""
        return [frame["seq"] for frame in self.frames if frame["type"] == "event"]

    def types(self) -> list[str]:
        """Return the types of the frames that were written."""
        return [frame["type"] for frame in self.frames]


class FakeLedger:
    """Records the calls of the methods that the real one has, by their names."""

    def __init__(self) -> None:
        self.is_full = False
        self.may_send = True
        self.position = ORIGIN
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        getattr(LedgerRecorder, name)

        def record(*arguments: Any, **options: Any) -> None:
            self.calls.append((name, (*arguments, *options.values())))

        return record

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of each call of ``name``."""
        getattr(LedgerRecorder, name)
        return [arguments for called, arguments in self.calls if called == name]


class FakeFlusher:
    """Records where the node started over, and the last position in common with the log."""

    def __init__(self) -> None:
        self.calls: list[tuple[Position, Position | None]] = []

    def start_over(self, position: Position, common: Position | None) -> None:
        self.calls.append((position, common))


class NoLimits:
    """Limits that nothing exceeds."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def count_message(self, _connection: str) -> bool:
        return True

    def count_violation(self, _connection: str) -> bool:
        return True

    def drop(self, connection: str) -> None:
        self.dropped.append(connection)


def fake_hub(settings: StreamSettings, ledger: FakeLedger | None = None, position: int = 0) -> Hub:
    """Return a hub that reports to a fake ledger."""
    hub = Hub(cast("LedgerRecorder", ledger or FakeLedger()), settings, KnownRevocations())
    hub.position = at(position)
    return hub


def connect(
    hub: Hub,
    recipient: str = "alice",
    event_filter: EventFilter | None = None,
    *,
    transport: Any = None,
    after: int | Position | None = None,
    ledger: FakeLedger | None = None,
    replays: Any = None,
    timing: Timing | None = None,
    verifier: Any = None,
) -> tuple[Connection, FakeTransport]:
    """Make a connection on a fake transport, which is not open yet."""
    transport = transport if transport is not None else FakeTransport()
    bearer = principal(recipient)
    start = at(after) if isinstance(after, int) else after or hub.position
    entry = ConnectionEntry(
        node_id=uuid.UUID(int=1),
        recipient=recipient,
        transport="websocket",
        filter=event_filter or EventFilter(),
        token_topics=bearer.topics,
        remote_addr=None,
        user_agent=None,
        jti=None,
        token_expires_at=datetime.fromtimestamp(bearer.expires_at, UTC),
        after_seq=start.seq,
        sent_seq=start.seq,
    )
    protocol = StreamProtocol(
        start,
        token_expires_at=bearer.expires_at,
        timing=timing or Timing(heartbeat=15, slow_consumer=30),
        now=0,
        may_send=lambda: True,
        retry_after=lambda: 1,
        may_stay=lambda: True,
        taken=transport.taken_bytes,
    )
    connection = Connection(
        transport,
        protocol,
        entry,
        bearer,
        hub=hub,
        replays=cast("ReplayReader", replays),
        ledger=cast("LedgerRecorder", ledger or FakeLedger()),
        verifier=cast("TokenVerifier", verifier),
        limits=cast("ConnectionLimits", NoLimits()),
    )
    return connection, transport


def live(hub: Hub, recipient: str = "alice", event_filter: EventFilter | None = None, **options: Any) -> FakeTransport:
    """Open a connection that has nothing to catch up, and return its transport without what it was greeted with."""
    connection, transport = connect(hub, recipient, event_filter, **options)
    connection.open(frames.FrameBatch())
    assert connection.is_live
    transport.batches.clear()
    return transport


def phase_of(connection: Connection) -> Phase:
    return connection._protocol.phase


class FakeLog:
    """A log in memory, in the place of PostgreSQL."""

    def __init__(self, *events: Event) -> None:
        self.events = list(events)
        self.is_reachable = True
        self.read_count = 0

    @asynccontextmanager
    async def transaction(self, **_options: object) -> AsyncIterator[FakeLog]:
        self.read_count += 1
        if not self.is_reachable:
            raise DatabaseUnavailable("the database is away")
        yield self

    @property
    def reads(self) -> Self:
        """The budget, which has room for everybody."""
        return self

    ledger = reads

    @property
    def database(self) -> Database:
        return cast("Database", self)

    def rewrite(self, keep: int, *events: Event) -> None:
        """Fail over: lose the events after ``keep``, and go on with others."""
        self.events = [event for event in self.events if event.seq <= keep] + list(events)

    @property
    def position(self) -> Position:
        """The position of its head."""
        return self.events[-1].position if self.events else ORIGIN

    @staticmethod
    def install(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        """Let ``modules`` read this kind of log."""
        for module in modules:
            for name in READS & vars(module).keys():
                monkeypatch.setattr(module, name, getattr(FakeLog, name))

    @staticmethod
    async def read_head(tx: FakeLog) -> Position:
        return tx.position

    @staticmethod
    async def read_position(tx: FakeLog, seq: int) -> Position | None:
        return next((event.position for event in tx.events if event.seq == seq), None if seq else ORIGIN)

    @staticmethod
    async def find_common(tx: FakeLog, positions: Sequence[Position]) -> Position | None:
        held = [position for position in positions if await tx.read_position(tx, position.seq) == position]
        return max(held, default=None)

    @staticmethod
    async def read_first(tx: FakeLog) -> int:
        return tx.events[0].seq if tx.events else 1

    @staticmethod
    async def read_tail(tx: FakeLog, position: Position, limit: int) -> list[Event]:
        if await tx.read_position(tx, position.seq) != position:
            raise HistoryChanged(position)
        return [event for event in tx.events if event.seq > position.seq][:limit]

    @staticmethod
    async def read_matching(
        tx: FakeLog, after: int, up_to: int, event_filter: EventFilter, recipient: str, *, limit: int, max_bytes: int
    ) -> tuple[list[Event], bool]:
        matching = [
            event
            for event in tx.events
            if after < event.seq <= up_to and event_filter.matches(event) and is_for(recipient, event)
        ]
        size, some = 0, []
        for one in matching[:limit]:
            if size >= max_bytes:
                break
            some.append(one)
            size += len(one.body)
        return some, len(some) == len(matching)
