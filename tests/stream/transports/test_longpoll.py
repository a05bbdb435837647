"""The state of a long poll's session, with a fake socket: what is answered, when, and what counts as received."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import orjson
import pytest

from service.errors import CloseReason
from service.events.filter import EventFilter
from service.http.server_protocol import EXTENSION
from service.settings import StreamSettings
from service.stream import frames
from service.stream.frames import Frame, FrameBatch
from service.stream.protocol import Phase, Timing
from service.stream.replay_reader import Chunk
from service.stream.transports import longpoll
from service.stream.transports.longpoll import Identity, Poll, PollResponse, PollSession, PollSessions
from tests.harness import PATIENCE
from tests.stream.fakes import FakeLedger, at, connect, fake_hub, phase_of, prepared

if TYPE_CHECKING:
    from service.events.position import Position
    from service.http.server_protocol import HttpServerProtocol
    from service.stream.connection import Connection
    from service.stream.frames import PreparedEvent

pytestmark = pytest.mark.unit

WELCOME = Frame("welcome", None, b'{"type":"welcome"}')
ALICE = Identity("alice", "", EventFilter(), "192.0.2.1", "curl")
START = 10
SHORT = 0.01


class FakeHttp:
    """The server's protocol of one request."""

    def __init__(self, *, flushes: bool = True) -> None:
        self.listener: Any = None
        self.is_aborted = False
        self.transport = self
        self._flushes = flushes

    def attach(self, listener: Any, *, streams: bool) -> None:
        assert not streams
        self.listener = listener

    def detach(self) -> None:
        self.listener = None

    def abort(self) -> None:
        self.is_aborted = True

    async def flushed(self, slow_seconds: float) -> bool:
        assert slow_seconds == SLOW
        if not self._flushes:
            raise TimeoutError
        return True

    @property
    def protocol(self) -> HttpServerProtocol:
        return cast("HttpServerProtocol", self)


class FakeReader:
    """A reader whose chunks come when a test puts them here."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[Chunk] = asyncio.Queue()

    async def read_chunk(self, _position: Position, _event_filter: EventFilter, _recipient: str) -> Chunk:
        return await self.chunks.get()


class Client:
    """A client of long polls, and the node that it asks."""

    def __init__(self, *, behind: int = 0) -> None:
        self.hub = fake_hub(StreamSettings(), position=START)
        self.ledger = FakeLedger()
        self.sessions = PollSessions()
        self.replays = FakeReader()
        self.session = PollSession(ALICE, self.hub, self.sessions)
        self.connection: Connection
        self.connection, _ = connect(
            self.hub,
            transport=self.session,
            after=START - behind,
            ledger=self.ledger,
            replays=self.replays,
            timing=Timing(15, 60, CloseReason.POLL_TIMEOUT),
        )
        self.session.connection = self.connection
        self.session.cursor = at(START - behind)
        self.sessions.add(self.session)

    def first(self, seconds: float = 60, *, has_cursor: bool = True) -> Poll:
        poll = self.session.begin(FakeHttp().protocol, seconds, with_welcome=True, has_cursor=has_cursor)
        self.connection.open(FrameBatch(WELCOME))
        return poll

    def next(self, seconds: float = 60, *, with_welcome: bool = False, has_cursor: bool = True) -> Poll:
        poll = self.session.begin(FakeHttp().protocol, seconds, with_welcome=with_welcome, has_cursor=has_cursor)
        self.session.acknowledge_answer()
        return poll

    def flush(self, poll: Poll) -> None:
        self.session.response_ended(poll, flushed=True)


async def answer(poll: Poll) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        read: dict[str, Any] = orjson.loads(await poll.answer)
    return read


async def test_a_poll_is_answered_the_moment_there_is_an_event() -> None:
    client = Client()
    poll = client.first()
    assert not poll.answer.done()
    client.hub.broadcast([prepared(11), prepared(12)])
    assert await answer(poll) == {
        "connection": str(client.connection.id),
        "welcome": {"type": "welcome"},
        "events": [orjson.loads(prepared(seq).payload) for seq in (11, 12)],
        "next": at(12).cursor,
        "caught_up": True,
        "gap": None,
        "reset": None,
        "closed": None,
    }
    assert client.session.is_idle
    assert phase_of(client.connection) is Phase.LAGGING  # nothing more can be written until the next poll


async def test_events_are_sent_when_the_answer_is_flushed_and_received_with_the_next_poll() -> None:
    client = Client()
    poll = client.first()
    client.hub.broadcast([prepared(11)])
    await answer(poll)
    assert client.ledger.of("record_dispatch_to") == client.ledger.of("record_receipt") == []
    client.flush(poll)
    assert [call[1:] for call in client.ledger.of("record_dispatch_to")] == [(10, 11)]
    assert client.ledger.of("record_receipt") == []
    following = client.next()
    assert [call[1:] for call in client.ledger.of("record_receipt")] == [(11,)]
    client.hub.broadcast([prepared(12)])
    assert [event["seq"] for event in (await answer(following))["events"]] == [12]


async def test_an_answer_to_a_poll_without_a_cursor_is_received_with_the_next_such_poll() -> None:
    client = Client()
    poll = client.first(has_cursor=False)
    client.hub.broadcast([prepared(11)])
    await answer(poll)
    client.session.acknowledge_arrived()  # it has not gone to the socket yet
    assert client.ledger.of("record_receipt") == []
    client.flush(poll)
    assert [call[1:] for call in client.ledger.of("record_polled")] == [(11,)]
    client.session.acknowledge_arrived()
    assert [call[1:] for call in client.ledger.of("record_receipt")] == [(11,)]


async def test_an_answer_that_was_lost_or_went_to_a_poll_with_a_cursor_is_not_received() -> None:
    client = Client()
    poll = client.first(has_cursor=False)
    client.hub.broadcast([prepared(11)])
    await answer(poll)
    client.flush(poll)
    poll.reset()
    client.session.acknowledge_arrived()
    assert [call[1:] for call in client.ledger.of("record_polled")] == [(11,), (0,)]
    following = client.next(has_cursor=True)
    client.hub.broadcast([prepared(12)])
    await answer(following)
    client.flush(following)
    poll.reset()  # of an answer before
    client.session.acknowledge_arrived()
    assert [call[1:] for call in client.ledger.of("record_receipt")] == [(11,)]  # by the cursor of `following`
    assert [call[1:] for call in client.ledger.of("record_polled")] == [(11,), (0,), (0,)]


async def test_only_the_first_answer_and_one_to_a_poll_without_a_connection_have_the_welcome() -> None:
    client = Client()
    poll = client.first()
    for seq, with_welcome in ((11, True), (12, False), (13, True)):
        client.hub.broadcast([prepared(seq)])
        assert ((await answer(poll))["welcome"] is not None) == with_welcome
        client.flush(poll)
        poll = client.next(with_welcome=seq == 12)


async def test_frames_that_are_no_events_answer_nothing() -> None:
    client = Client()
    poll = client.first()
    client.hub.send_to_all(frames.presence([], ["bob"], present=1, truncated=False))
    client.hub.tick(now=15, wall=0)
    assert not poll.answer.done()
    assert client.connection.is_live


async def test_a_poll_is_answered_empty_when_its_time_is_over() -> None:
    client = Client()
    poll = client.first(SHORT)
    got = await answer(poll)
    assert (got["events"], got["next"], got["caught_up"]) == ([], at(START).cursor, True)


async def test_events_between_two_polls_are_replayed_to_the_next() -> None:
    client = Client()
    poll = client.first(SHORT)
    await answer(poll)
    client.flush(poll)
    client.hub.broadcast([prepared(11)])
    following = client.next()
    client.replays.chunks.put_nowait(Chunk(FrameBatch(prepared(11)), 1, at(11)))
    assert [event["seq"] for event in (await answer(following))["events"]] == [11]


async def test_a_poll_that_catches_up_has_a_moment_more(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(behind=5)
    poll = client.first(SHORT)
    await asyncio.sleep(3 * SHORT)
    assert not poll.answer.done()
    client.replays.chunks.put_nowait(Chunk(FrameBatch(), 0, at(START)))  # nothing of it was for this recipient
    got = await answer(poll)
    assert (got["events"], got["next"], got["caught_up"]) == ([], at(START).cursor, True)

    monkeypatch.setattr(longpoll, "CATCH_UP_SECONDS", SHORT)
    stuck = Client(behind=5)
    got = await answer(stuck.first(SHORT))
    assert (got["events"], got["next"], got["caught_up"]) == ([], at(START - 5).cursor, False)


@pytest.mark.parametrize(
    ("gap", "events", "cursor"),
    [
        (frames.gap(6, 8, up_to=at(8)), [], at(8)),
        (frames.gap(6, 8), [prepared(9)], at(9)),
    ],
)
async def test_a_gap_is_answered_with_the_cursor_behind_it(
    gap: Frame, events: list[PreparedEvent], cursor: Position
) -> None:
    client = Client(behind=5)
    poll = client.first()
    client.replays.chunks.put_nowait(Chunk(FrameBatch(gap, *events), len(events), at(9)))
    got = await answer(poll)
    assert got["gap"] == orjson.loads(gap.payload)
    assert [event["seq"] for event in got["events"]] == [event.position.seq for event in events]
    assert (got["next"], got["caught_up"]) == (cursor.cursor, False)


async def test_a_reset_is_answered_at_once_and_the_polls_go_on_from_where_it_says() -> None:
    client = Client(behind=5)
    poll = client.session.begin(FakeHttp().protocol, 60, with_welcome=True, has_cursor=True)
    client.connection.open(FrameBatch(WELCOME, frames.reset(at(START - 5), is_common=True)))
    got = await answer(poll)
    assert got["reset"] == {"type": "reset", "after": START - 5, "cursor": at(START - 5).cursor}
    assert (got["events"], got["next"], got["caught_up"]) == ([], at(START - 5).cursor, False)
    client.flush(poll)
    following = client.next()
    client.replays.chunks.put_nowait(Chunk(FrameBatch(prepared(6)), 1, at(START)))
    assert [event["seq"] for event in (await answer(following))["events"]] == [6]
    assert client.ledger.of("record_receipt") == []  # nothing was sent with the reset that could be received


async def test_a_close_answers_the_poll_that_waits() -> None:
    client = Client()
    poll = client.first()
    client.connection.close(CloseReason.TOKEN_EXPIRED)
    got = await answer(poll)
    assert got["closed"] == {"type": "close", "code": 1008, "reason": "token_expired"}
    assert (got["events"], got["next"]) == ([], at(START).cursor)
    assert [call[1:] for call in client.ledger.of("record_closing")] == [(1008, "token_expired")]
    assert client.sessions.following(ALICE, client.connection.id, at(START)) is None


async def test_a_client_that_asks_again_while_a_poll_waits_has_the_first_answered_empty() -> None:
    client = Client()
    first = client.first()
    second = client.next()
    got = await answer(first)
    assert (got["events"], got["next"]) == ([], at(START).cursor)
    client.hub.broadcast([prepared(11)])
    assert [event["seq"] for event in (await answer(second))["events"]] == [11]


async def test_a_client_that_drops_its_poll_may_come_back() -> None:
    client = Client()
    poll = client.first()
    poll.disconnected()
    assert client.session.is_idle
    client.hub.broadcast([prepared(11)])
    assert client.connection.is_live is False
    following = client.next()
    client.replays.chunks.put_nowait(Chunk(FrameBatch(prepared(11)), 1, at(11)))
    assert [event["seq"] for event in (await answer(following))["events"]] == [11]


async def test_a_client_that_stays_away_is_closed() -> None:
    client = Client()
    poll = client.first(SHORT)
    await answer(poll)
    client.hub.tick(now=1e9, wall=0)
    assert [call[1:] for call in client.ledger.of("record_closing")] == [(1001, "poll_timeout")]


async def test_a_server_that_stops_closes_the_connection_of_a_poll() -> None:
    client = Client()
    poll = client.first()
    poll.shut_down()
    assert (await answer(poll))["closed"]["reason"] == "shutting_down"


# Which connection a poll goes on with.

OTHERS = [
    ALICE._replace(recipient="bob"),
    ALICE._replace(filter=EventFilter(("a",))),
    ALICE._replace(remote_addr="192.0.2.2"),
    ALICE._replace(user_agent="wget"),
]


async def idle() -> Client:
    client = Client()
    poll = client.first(SHORT)
    await answer(poll)
    client.flush(poll)
    return client


async def test_a_poll_goes_on_with_the_connection_that_it_names() -> None:
    client = await idle()
    assert client.sessions.following(ALICE, client.connection.id, at(START)) is client.session
    moved = ALICE._replace(remote_addr="192.0.2.2", user_agent="wget")
    assert client.sessions.following(moved, client.connection.id, at(START)) is client.session
    for another in OTHERS[:2]:
        assert client.sessions.following(another, client.connection.id, at(START)) is None
    assert client.hub.open == 1


async def test_a_poll_that_names_none_goes_on_with_that_of_the_same_client_if_it_is_idle() -> None:
    client = await idle()
    for connection in (None, UUID(int=5)):
        assert client.sessions.following(ALICE, connection, at(START)) is client.session
    for another in OTHERS:
        assert client.sessions.following(another, None, at(START)) is None
    client.next()
    assert client.sessions.following(ALICE, None, at(START)) is None
    assert client.hub.open == 1


@pytest.mark.parametrize("after", [None, at(START - 1), at(START + 1), at(START, history=1)])
async def test_a_poll_that_does_not_follow_on_the_last_answer_ends_the_connection(after: Position | None) -> None:
    client = await idle()
    assert client.sessions.following(ALICE, client.connection.id, after) is None
    assert [call[1:] for call in client.ledger.of("record_closing")] == [(1006, "connection_lost")]
    assert client.hub.open == 0
    assert client.sessions.following(ALICE, None, at(START)) is None


# The response.


SLOW = 30


async def respond(client: Client, poll: Poll, http: FakeHttp) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "extensions": {EXTENSION: {"transport": lambda: http}}}
    await PollResponse(client.session, poll, SLOW)(scope, cast("Any", None), send)
    return sent


async def test_a_response_reports_when_the_kernel_has_all_of_it() -> None:
    client = Client()
    poll = client.first()
    client.hub.broadcast([prepared(11)])
    await answer(poll)
    sent = await respond(client, poll, FakeHttp())
    assert [message.get("more_body") for message in sent] == [None, True, None]
    assert orjson.loads(sent[1]["body"])["next"] == at(11).cursor
    assert [call[1:] for call in client.ledger.of("record_dispatch_to")] == [(10, 11)]


async def test_a_client_that_does_not_read_its_answer_is_closed_and_nothing_counts_as_sent() -> None:
    client = Client()
    poll = client.first()
    client.hub.broadcast([prepared(11)])
    await answer(poll)
    http = FakeHttp(flushes=False)
    await respond(client, poll, http)
    assert http.is_aborted
    assert client.ledger.of("record_dispatch_to") == []
    assert [call[1:] for call in client.ledger.of("record_closing")] == [(1013, "slow_consumer")]


async def test_an_old_response_that_is_flushed_late_counts_for_nothing() -> None:
    client = Client()
    old = client.first(SHORT)
    await answer(old)
    client.flush(old)
    client.next()
    client.hub.broadcast([prepared(11)])
    client.flush(old)
    client.session.response_ended(old, flushed=False)
    assert client.ledger.of("record_dispatch_to") == client.ledger.of("record_closing") == []


# Polls at the pace at which the client is sent events.


async def test_a_poll_that_acknowledges_events_is_paced_and_no_other() -> None:
    client = Client()
    poll = client.first()
    assert not client.sessions.is_paced(ALICE, client.connection.id, at(START).cursor)  # it waits
    client.hub.broadcast([prepared(11)])
    client.flush(poll)
    for connection in (client.connection.id, None, UUID(int=7)):
        assert client.sessions.is_paced(ALICE, connection, at(11).cursor)
        assert client.sessions.is_paced(ALICE, connection, "11")
        for after in (None, "latest", at(START).cursor, at(11, history=1).cursor, "12"):
            assert not client.sessions.is_paced(ALICE, connection, after)
    assert not client.sessions.is_paced(ALICE._replace(recipient="bob"), client.connection.id, at(11).cursor)
    client.session.acknowledge_answer()
    assert not client.sessions.is_paced(ALICE, client.connection.id, at(11).cursor)
