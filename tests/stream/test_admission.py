"""The query of a stream, the client as the ledger records it, and the welcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import uuid4

import orjson
import pytest

from service.alerts.fields import LISTED_MAX
from service.errors import InvalidRequest, RateLimited, TokenRevoked, TopicForbidden
from service.events.filter import EventFilter
from service.events.position import Cursor, HistoryChanged
from service.http.rate_limits import RestLimits
from service.ledger.resume_points import ResumePoint
from service.settings import LimitSettings, StreamSettings
from service.stream import frames
from service.stream.admission import Admission, ClientInfo, StreamRequest
from service.stream.cursor_check import Start
from service.stream.protocol import SEQ_MAX
from service.topics import intersect
from tests.stream.fakes import FakeLedger, FakeTransport, at, fake_hub, principal

if TYPE_CHECKING:
    from uuid import UUID

    from service.auth.principal import Principal
    from service.events.position import Position

pytestmark = pytest.mark.unit

ANYTHING = StreamRequest(None, EventFilter())
CLIENT = ClientInfo("192.0.2.1", "curl", None)


def request(granted: tuple[str, ...] = ("*",), /, **query: str) -> StreamRequest:
    topics = [query.pop("topic")] if "topic" in query else []
    return StreamRequest.of(principal(topics=granted), topics=topics, **query)


# The query.


@pytest.mark.parametrize(
    "after",
    ["", "-1", "x", "1.5", "\u00b2", "\u0661", "LATEST", "9223372036854775808", "9" * 5000, "1 ", "1-", "1-9F3A2C1D"],
)
def test_after_is_a_cursor_a_seq_or_latest(after: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        request(after=after)
    detail = "must be a cursor such as 4711-9f3a2c1d, a seq, or latest"
    assert refusal.value.errors == [{"pointer": "/query/after", "detail": detail}]


@pytest.mark.parametrize(
    ("after", "read"),
    [
        ("0", Cursor(0, None)),
        ("007", Cursor(7, None)),
        (str(SEQ_MAX), Cursor(SEQ_MAX, None)),
        ("4711-9f3a2c1d", Cursor(4711, "9f3a2c1d")),
        ("latest", "latest"),
    ],
)
def test_after_is_read(after: str, read: Cursor | str) -> None:
    assert request(after=after).after == read


@pytest.mark.parametrize("severity", ["fatal", "", "Info", "info,error"])
def test_min_severity_is_a_severity(severity: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        request(min_severity=severity)
    detail = "must be info, warning, error or critical"
    assert refusal.value.errors == [{"pointer": "/query/min_severity", "detail": detail}]


@pytest.mark.parametrize(
    "topic", ["", "A", "a..b", "a,*.b", ",a,", "a" * 101, "a" * 99_999, ",".join(["a"] * (LISTED_MAX + 1))]
)
def test_topics_are_a_bounded_number_of_patterns(topic: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        request(topic=topic)
    [fault] = refusal.value.errors or []
    assert fault["pointer"] == "/query/topic"
    assert len(fault["detail"]) < 100


def test_topics_are_repeated_or_listed() -> None:
    of = StreamRequest.of(principal(), topics=["b,a.*", "c"])
    assert of.filter.topics == ("a.*", "b", "c")


@pytest.mark.parametrize("consumer", ["", "a b", "a/b", "\u00e4", "a" * 101, "a\n"])
def test_a_consumer_has_a_short_plain_name(consumer: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        request(consumer=consumer)
    detail = "must be 1 to 100 of a-z, A-Z, 0-9, dot, _ and -"
    assert refusal.value.errors == [{"pointer": "/query/consumer", "detail": detail}]
    assert request(consumer="Night.shift_2-b").consumer == "Night.shift_2-b"


@pytest.mark.parametrize(
    ("granted", "topics", "covered"),
    [
        (("*",), "b,a,b", ("a", "b")),
        (("*",), ",".join(["a"] * LISTED_MAX), ("a",)),
        (("a.*", "c"), "*", ("a.*", "c")),
        (("a.b",), "a.*", ("a.b",)),
        (("payments.*",), "billing", None),
        (("payments.*",), "payments.eu,billing", None),
        ((), "a", None),
    ],
)
def test_the_filter_is_what_token_and_query_both_cover(
    granted: tuple[str, ...], topics: str, covered: tuple[str, ...] | None
) -> None:
    if covered is None:
        with pytest.raises(TopicForbidden):
            request(granted, topic=topics)
    else:
        requested = request(granted, topic=topics, min_severity="error")
        assert set(requested.filter.topics) == set(covered)
        assert requested.filter.min_severity == "error"
        assert set(requested.filter.topics) == set(intersect(granted, requested.filter.topics))


def test_without_a_query_a_stream_is_of_all_that_the_token_covers() -> None:
    assert request() == StreamRequest(None, EventFilter(("*",), "info"))


# The client.


def test_a_client_is_recorded_in_printable_text() -> None:
    headers = {"user-agent": "a\0b\n" + "x" * 500, "origin": "https://example.org"}
    client = ClientInfo.of(headers, ("192.0.2.1", 4711))
    assert client == ClientInfo("192.0.2.1", "ab" + "x" * 298, "https://example.org")
    assert ClientInfo.of({}, None) == ClientInfo(None, None, None)


# The connection, and its rejection.


class Revoking:
    """A verifier; whose tokens are revoked is in ``subjects``."""

    def __init__(self, *subjects: str) -> None:
        self.subjects = subjects

    def check_not_revoked(self, bearer: Principal) -> None:
        if bearer.subject in self.subjects:
            raise TokenRevoked("The token was revoked.")


class Log:
    """A fan-out, and a check of cursors that finds each of them in the log, which ends at 20."""

    replays = None

    def __init__(self) -> None:
        self.left: list[Position] = []

    async def leave(self, position: Position) -> None:
        self.left.append(position)

    async def start_after(self, cursor: Cursor, _recipient: str) -> Start:
        if cursor.seq > 20:
            return Start(at(20), reset=frames.reset(at(20), is_common=False))
        return Start(at(cursor.seq), received=cursor.seq)


class StoredCursor(FakeLedger):
    """A ledger that knows where each recipient goes on."""

    node_id = uuid4()

    def __init__(self, stored: list[int | ResumePoint | HistoryChanged]) -> None:
        super().__init__()
        self.stored = stored

    async def resume_point(self, *_: Any) -> ResumePoint:
        self.calls.append(("resume_point", ()))
        point = self.stored.pop(0)
        if isinstance(point, HistoryChanged):
            raise point
        return ResumePoint(point, 0) if isinstance(point, int) else point

    async def is_written(self, connection: UUID, subject: str) -> bool:
        self.calls.append(("is_written", (connection, subject)))
        return True

    async def record_late_receipt(self, connection: UUID, _principal: Principal, seq: int) -> int:
        self.calls.append(("record_late_receipt", (connection, seq)))
        return seq


def admission(
    *stored: int | ResumePoint | HistoryChanged, revoked: tuple[str, ...] = (), rejections: int = 10, connects: int = 10
) -> tuple[Admission, StoredCursor]:
    settings = StreamSettings()
    ledger = StoredCursor(list(stored))
    log = Log()
    made = Admission(
        hub=fake_hub(settings, ledger, position=20),
        fanout=cast("Any", log),
        cursor_check=cast("Any", log),
        ledger=cast("Any", ledger),
        verifier=cast("Any", Revoking(*revoked)),
        rest_limits=RestLimits(
            LimitSettings(auth_failure_limit=f"{rejections}/minute", connect_limit=f"{connects}/minute")
        ),
        limits=cast("Any", None),
        settings=settings,
    )
    return made, ledger


@pytest.mark.parametrize(
    ("after", "start"),
    [
        (Cursor(7, at(7).mark), Start(at(7), received=7)),
        (Cursor(99, None), Start(at(20), reset=frames.reset(at(20), is_common=False))),
        ("latest", Start(at(20))),
    ],
)
async def test_a_stream_starts_where_it_asks(after: Cursor | Literal["latest"], start: Start) -> None:
    made, _ = admission()
    assert await made.start_of(principal(), StreamRequest(after, EventFilter())) == start


@pytest.mark.parametrize(("stored", "starts"), [(7, 7), (99, 20)])
async def test_a_stream_without_a_cursor_starts_where_the_recipient_stopped_and_resets_nothing(
    stored: int, starts: int
) -> None:
    made, _ = admission(stored)
    assert await made.start_of(principal(), ANYTHING) == Start(at(starts))


async def test_a_resume_point_is_asked_for_again_once_the_node_has_left_a_history_that_the_log_does_not_hold() -> None:
    made, _ = admission(HistoryChanged(at(20)), 7)
    assert await made.start_of(principal(), ANYTHING) == Start(at(7))
    assert cast("Log", made._fanout).left == [at(20)]


ANSWERED = uuid4()
ACKNOWLEDGES = [("resume_point", ()), ("record_late_receipt", (ANSWERED, 9)), ("resume_point", ())]


async def test_a_poll_acknowledges_the_last_answer_of_its_own_node_without_waiting_for_another() -> None:
    made, ledger = admission(ResumePoint(7, 0, ANSWERED, 9), 9)
    assert await made.start_of(principal(), ANYTHING, polls=True) == Start(at(9))
    assert ledger.calls == ACKNOWLEDGES


@pytest.mark.parametrize(("later", "starts"), [(9, 9), (0, 7)])
async def test_a_poll_reads_again_what_another_node_wrote_of_its_last_answer(later: int, starts: int) -> None:
    points = [ResumePoint(7, 0, ANSWERED, polled, polled_elsewhere=True) for polled in (9, later)]
    made, ledger = admission(*points, 9)
    assert await made.start_of(principal(), ANYTHING, polls=True) == Start(at(starts))
    asked = [("resume_point", ()), ("is_written", (ANSWERED, "alice"))]
    assert ledger.calls == asked + (ACKNOWLEDGES if later else ACKNOWLEDGES[:1])


def greeted(start: Start) -> list[dict[str, Any]]:
    return greeted_by(admission()[0], start)


def greeted_by(made: Admission, start: Start) -> list[dict[str, Any]]:
    _, welcome = made.connection(FakeTransport(), "websocket", CLIENT, principal(), request=ANYTHING, start=start)
    return [orjson.loads(frame.payload) for frame in welcome.frames]


def test_the_welcome_names_the_connection_and_where_it_starts() -> None:
    [welcome] = greeted(Start(at(7)))
    assert (welcome["type"], welcome["recipient"], welcome["head"]) == ("welcome", "alice", 20)
    assert (welcome["after"], welcome["cursor"]) == (7, at(7).cursor)
    assert welcome["event_bytes"] == 32768
    assert welcome["limits"] == {"message_bytes": 16384, "messages": "200/second; 3000/minute"}


def test_a_reset_comes_right_after_the_welcome() -> None:
    welcome, reset = greeted(Start(at(5), received=5, reset=frames.reset(at(5), is_common=True)))
    assert welcome["after"] == 5
    assert reset == {"type": "reset", "after": 5, "cursor": at(5).cursor}


def test_a_token_that_was_revoked_meanwhile_opens_nothing() -> None:
    made, ledger = admission(revoked=("alice",))
    with pytest.raises(TokenRevoked):
        made.connection(FakeTransport(), "sse", CLIENT, principal(), request=ANYTHING, start=Start(at(0)))
    assert not ledger.calls


def test_rejections_of_an_address_are_recorded_up_to_its_limit() -> None:
    made, ledger = admission(rejections=2)
    for _ in range(4):
        made.record_rejection("token_invalid", "/v1/ws", CLIENT, None)
    assert len(ledger.of("record_rejection")) == 2
    [rejection] = ledger.of("record_rejection")[0]
    assert (rejection.reason, rejection.path, rejection.remote_addr) == ("token_invalid", "/v1/ws", "192.0.2.1")


def test_a_subject_may_open_so_many_streams_and_then_has_to_wait() -> None:
    made, ledger = admission(connects=3)
    for _ in range(3):
        made.check_pace(principal())
        greeted_by(made, Start(at(7)))
    with pytest.raises(RateLimited) as refused:
        made.check_pace(principal())
    assert 1 <= (refused.value.retry_after or 0) <= 20
    with pytest.raises(RateLimited):
        greeted_by(made, Start(at(7)))
    made.check_pace(principal("bob"))
    assert not ledger.calls
