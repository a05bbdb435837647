"""One connection between a fake transport, a fake ledger and a fan-out with prepared chunks."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from service.auth.issuers import load_keyring
from service.auth.shared_secret import mint
from service.auth.tokens import TokenVerifier
from service.errors import CloseReason, DatabaseUnavailable
from service.events.filter import EventFilter
from service.events.position import HistoryChanged
from service.settings import AuthSettings, StreamSettings
from service.stream import connection as connection_module
from service.stream import frames
from service.stream.frames import FrameBatch
from service.stream.protocol import Phase
from service.stream.replay_reader import Chunk
from tests.fixtures.revocations import KnownRevocations
from tests.harness import PATIENCE
from tests.stream.fakes import FakeLedger, NoLimits, at, connect, fake_hub, phase_of, prepared

if TYPE_CHECKING:
    from service.events.position import Position
    from service.stream.connection import Connection

pytestmark = pytest.mark.unit

SECRET = b"a secret of more than thirty-two bytes"
AUTH = AuthSettings()
VERIFIER = TokenVerifier(load_keyring(AUTH, SECRET), AUTH, KnownRevocations())


class Script:
    """A reader whose chunks, or errors, are given one by one; it is done when all were read."""

    def __init__(self, *chunks: Chunk | Exception) -> None:
        self._chunks = list(chunks)
        self.positions: list[Position] = []

    async def read_chunk(self, position: Position, _event_filter: EventFilter, _recipient: str) -> Chunk:
        self.positions.append(position)
        await asyncio.sleep(0)
        chunk = self._chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk


def chunk(*seqs: int, up_to: int) -> Chunk:
    return Chunk(FrameBatch(*map(prepared, seqs)), len(seqs), at(up_to))


class Case:
    """A connection that starts at 0 on a hub at 10, and what it made of it."""

    def __init__(self, *chunks: Chunk | Exception, topics: tuple[str, ...] = ("*",)) -> None:
        self.ledger = FakeLedger()
        self.hub = fake_hub(StreamSettings(), self.ledger, position=10)
        self.script = Script(*chunks)
        self.connection: Connection
        self.connection, self.transport = connect(
            self.hub,
            "alice",
            EventFilter(topics),
            after=0,
            ledger=self.ledger,
            replays=self.script,
            verifier=VERIFIER,
        )

    def open(self) -> None:
        self.connection.open(FrameBatch(frames.pong("welcome")))

    async def turn(self, phase: Phase) -> None:
        """Let the replay go on until the connection is in ``phase``."""
        async with asyncio.timeout(PATIENCE):
            while phase_of(self.connection) is not phase:  # noqa: ASYNC110 - nothing tells of a phase
                await asyncio.sleep(0)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges that the ledger recorded as sent."""
        return [(after, up_to) for _, after, up_to in self.ledger.of("record_dispatch_to")]


async def test_a_connection_replays_chunk_by_chunk_and_then_goes_live() -> None:
    case = Case(chunk(2, 4, up_to=5), chunk(up_to=7), chunk(9, up_to=10))
    case.open()
    await case.turn(Phase.LIVE)
    case.hub.broadcast([prepared(11)])
    assert case.transport.types() == ["pong", "event", "event", "event", "caught_up", "event"]
    assert case.transport.seqs == [2, 4, 9, 11]
    assert case.script.positions == [at(0), at(5), at(7)]
    assert case.ranges == [(0, 5), (7, 10)]  # an empty chunk moves the position, and no bytes went anywhere
    assert case.ledger.of("record_position") == [(case.connection._entry, 7)]
    assert len(case.ledger.of("record_live")) == 1
    assert case.hub.delivered == 4


async def test_answers_to_a_client_whose_socket_is_full_wait_until_it_drains_within_a_bound() -> None:
    case = Case(chunk(2, up_to=10), chunk(11, up_to=11))
    case.open()
    await case.turn(Phase.LIVE)
    case.transport.is_full = True
    case.hub.broadcast([prepared(11)])
    assert phase_of(case.connection) is Phase.LAGGING
    before = len(case.transport.batches)
    for number in range(20):
        case.connection.receive(json.dumps({"type": "ping", "data": f"{number:10000}"}))
    assert len(case.transport.batches) == before
    case.transport.is_full = False
    case.connection.drained()
    answers = [frame for frame in case.transport.frames if frame["type"] == "pong" and "data" in frame]
    kept = [int(frame["data"]) for frame in answers if frame["data"] != "welcome"]
    assert kept == list(range(7))  # 64 KiB of them
    assert case.transport.types()[-2:] == ["pong", "caught_up"]
    case.transport.is_full = True
    case.hub.broadcast([prepared(12)])
    case.transport.is_full = False
    case.connection.drained()
    assert len([frame for frame in case.transport.frames if frame["type"] == "pong"]) == 1 + 7


async def test_answers_to_a_client_that_has_to_read_go_after_the_next_part_of_what_waits() -> None:
    case = Case(chunk(2, up_to=10))
    case.open()
    await case.turn(Phase.LIVE)
    case.transport.is_full = True
    case.hub.broadcast([prepared(11), prepared(12)])
    case.connection.receive(json.dumps({"type": "ping", "data": 1}))
    assert case.transport.frames[-1]["type"] == "event"
    case.connection.part_sent(11)
    assert case.transport.frames[-1] == {"type": "pong", "data": 1}
    assert case.ranges == [(0, 10), (10, 11)]
    assert phase_of(case.connection) is Phase.LAGGING
    written = len(case.transport.batches)
    case.connection.part_sent(11)
    assert len(case.transport.batches) == written


async def test_what_waits_may_go_while_the_node_holds_its_lease() -> None:
    case = Case()
    assert case.connection.may_send
    case.ledger.may_send = False
    assert not case.connection.may_send


async def test_answers_that_fill_the_socket_again_wait_no_longer_and_the_stream_goes_on() -> None:
    case = Case(chunk(2, up_to=10))
    case.open()
    await case.turn(Phase.LIVE)
    case.transport.is_full = True
    case.hub.broadcast([prepared(11)])
    case.connection.receive(json.dumps({"type": "ping", "data": 1}))
    case.connection.drained()  # the answer fills it
    await asyncio.sleep(0)
    assert phase_of(case.connection) is Phase.LAGGING
    case.transport.is_full = False
    case.connection.drained()
    await case.turn(Phase.LIVE)
    case.hub.broadcast([prepared(12)])
    assert case.transport.seqs == [2, 11, 12]
    assert case.ranges == [(0, 10), (10, 11)]


async def test_a_replay_waits_while_the_node_holds_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "RETRY_READ_SECONDS", 0.5)
    case = Case(chunk(2, 4, up_to=5), chunk(2, 4, up_to=5), chunk(9, up_to=10))
    case.ledger.may_send = False
    case.open()
    for _ in range(10):
        await asyncio.sleep(0)
    assert (case.script.positions, case.transport.seqs, case.ranges) == ([at(0)], [], [])
    case.ledger.may_send = True
    await case.turn(Phase.LIVE)
    assert case.transport.seqs == [2, 4, 9]
    assert case.ranges == [(0, 5), (5, 10)]


async def test_a_full_socket_stops_the_replay_until_it_drains() -> None:
    case = Case(chunk(1, 2, up_to=5), chunk(8, up_to=10))
    case.open()
    case.transport.is_full = True
    await case.turn(Phase.LAGGING)
    assert case.ranges == []
    assert case.ledger.of("record_position") == [(case.connection._entry, 0, 5)]
    case.transport.is_full = False
    case.connection.drained()
    await case.turn(Phase.LIVE)
    assert case.transport.seqs == [1, 2, 8]
    assert case.ranges == [(0, 5), (5, 10)]


async def test_an_event_during_a_replay_is_read_and_not_sent_twice() -> None:
    case = Case(chunk(1, up_to=10), chunk(11, up_to=11))
    case.open()
    case.hub.broadcast([prepared(11)])
    await case.turn(Phase.LIVE)
    assert case.transport.seqs == [1, 11]


async def test_a_live_socket_that_was_full_reads_what_it_missed_and_joins_again() -> None:
    case = Case(chunk(1, up_to=10), chunk(12, 13, up_to=13))
    case.open()
    await case.turn(Phase.LIVE)
    case.transport.is_full = True
    case.hub.broadcast([prepared(11)])
    case.transport.is_full = False
    case.hub.broadcast([prepared(12), prepared(13)])
    case.connection.drained()
    await case.turn(Phase.LIVE)
    assert case.transport.seqs == [1, 11, 12, 13]
    assert case.transport.types()[-1] == "caught_up"
    assert case.ranges == [(0, 10), (10, 11), (11, 13)]


async def test_a_replay_waits_for_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "RETRY_READ_SECONDS", 0.01)
    case = Case(DatabaseUnavailable("away"), DatabaseUnavailable("away"), chunk(3, up_to=10))
    case.open()
    await case.turn(Phase.LIVE)
    assert (case.transport.seqs, case.script.positions) == ([3], [at(0)] * 3)


async def test_a_replay_of_another_history_closes_the_stream() -> None:
    case = Case(chunk(3, up_to=5), HistoryChanged(at(5)))
    case.open()
    await case.turn(Phase.CLOSED)
    assert case.transport.closed is CloseReason.HISTORY_CHANGED
    assert case.transport.seqs == [3]


@pytest.mark.parametrize("start", [at(10, history=1), at(11)])
async def test_a_connection_whose_history_ended_while_it_was_opened_does_not_go_live(start: Position) -> None:
    script = Script(HistoryChanged(start))
    connection, transport = connect(fake_hub(StreamSettings(), position=10), after=start, replays=script)
    connection.open(FrameBatch())
    async with asyncio.timeout(PATIENCE):
        while transport.closed is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    assert (transport.types(), script.positions) == ([], [start])


async def test_a_replay_that_fails_closes_the_stream(capfd: pytest.CaptureFixture[str]) -> None:
    case = Case(RuntimeError("a defect"))
    case.open()
    await case.turn(Phase.CLOSED)
    assert case.transport.closed is CloseReason.INTERNAL_ERROR
    assert "a defect" in capfd.readouterr().out


async def test_a_connection_that_ends_while_it_replays_sends_nothing_more() -> None:
    case = Case(chunk(1, up_to=10))
    case.open()
    await asyncio.sleep(0)
    case.connection.disconnected(1006, "")
    await asyncio.sleep(0.01)
    assert case.transport.seqs == []
    assert case.ledger.of("record_closing") == [(case.connection._entry, 1006, "connection_lost")]


@pytest.mark.parametrize(
    ("code", "reason", "kept"),
    [(1006, "", "connection_lost"), (1005, "", "no_code"), (1000, "", "client"), (4001, "lunch", "lunch")],
)
async def test_the_ledger_keeps_the_code_and_reason_of_a_client_that_closes(code: int, reason: str, kept: str) -> None:
    case = Case(chunk(up_to=10))
    case.open()
    case.connection.disconnected(code, reason)
    case.connection.close(CloseReason.KICKED)
    assert case.ledger.of("record_closing") == [(case.connection._entry, code, kept)]
    assert cast("NoLimits", case.connection._limits).dropped == [str(case.connection.id)]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"type": "ping", "data": 1}, {"type": "pong", "data": 1}),
        ({"type": "ack", "seq": 11}, {"type": "error", "code": "ack_ahead", "detail": "Only 10 was sent."}),
    ],
)
async def test_a_message_is_answered(message: dict[str, Any], answer: dict[str, Any]) -> None:
    case = Case(chunk(up_to=10))
    case.open()
    await case.turn(Phase.LIVE)
    case.connection.receive(json.dumps(message))
    assert case.transport.frames[-1] == {"retry_after": None, **answer} if "code" in answer else answer


async def test_an_ack_reaches_the_ledger_and_one_by_a_request_of_its_own_never_counts_ahead() -> None:
    case = Case(chunk(4, 10, up_to=10))
    case.open()
    await case.turn(Phase.LIVE)
    case.connection.receive('{"type":"ack","seq":4}')
    assert case.connection.acknowledge(99) == 10
    assert [seq for _, seq in case.ledger.of("record_receipt")] == [4, 10]


async def test_a_binary_message_closes_the_stream() -> None:
    case = Case(chunk(up_to=10))
    case.open()
    case.connection.receive(None)
    assert case.transport.closed is CloseReason.BINARY_MESSAGE


# A fresh token.


def authenticate(**claims: Any) -> str:
    claims = {"subject": "alice", "scope": "alerts:read", **claims}
    return json.dumps({"type": "authenticate", "token": mint(SECRET, AUTH, **claims)})


@pytest.mark.parametrize("seconds", [600, 3])
async def test_a_fresh_token_of_the_same_admin_bounds_the_stream_later_or_earlier(seconds: float) -> None:
    case = Case(chunk(up_to=10))
    case.open()
    await case.turn(Phase.LIVE)
    case.connection.receive(authenticate(ttl_seconds=seconds, jti="fresh"))
    [(entry, jti, expires_at)] = case.ledger.of("record_token")
    assert (entry, jti) == (case.connection._entry, "fresh")
    assert case.transport.types()[-1] == "authenticated"
    assert case.connection.principal.jti == "fresh"
    case.hub.tick(now=0, wall=expires_at.timestamp() - 0.001)
    assert case.transport.closed is None
    case.hub.tick(now=0, wall=expires_at.timestamp() + 0.001)  # the entry has no more than microseconds
    assert case.transport.closed is CloseReason.TOKEN_EXPIRED


async def test_a_fresh_token_may_cover_more_than_the_stream_shows() -> None:
    case = Case(chunk(up_to=10), topics=("a.*",))
    case.open()
    case.connection.receive(authenticate(topics=["a.*", "b"]))
    assert case.transport.types()[-1] == "authenticated"
    assert case.connection.filter == EventFilter(("a.*",))


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"subject": "somebody else"}, "subject_changed"),
        ({"scope": "alerts:write"}, "scope_missing"),
        ({"topics": ["a"]}, "topic_forbidden"),
        ({"topics": ["a.b"]}, "topic_forbidden"),
        ({"topics": []}, "topic_forbidden"),
        ({"ttl_seconds": -1}, "token_expired"),
    ],
)
async def test_a_fresh_token_that_would_not_have_opened_the_stream_is_an_error_and_extends_nothing(
    claims: dict[str, Any], code: str
) -> None:
    case = Case(chunk(up_to=10), topics=("a", "a.*"))
    case.open()
    before = case.connection.principal
    case.connection.receive(authenticate(**claims))
    assert (case.transport.frames[-1]["type"], case.transport.frames[-1]["code"]) == ("error", code)
    assert case.connection.principal is before
    assert case.ledger.of("record_token") == []
    case.hub.tick(now=0, wall=before.expires_at)
    assert case.transport.closed is CloseReason.TOKEN_EXPIRED
