"""The query of a stream, the client as the ledger records it, and the welcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, RateLimited, TokenRevoked, TopicForbidden
from service.events.filter import EventFilter
from service.settings import StreamSettings
from service.stream.admission import PATTERNS_MAX, Admission, ClientInfo, StreamRequest, is_seq
from service.stream.protocol import SEQ_MAX
from service.topics import intersect
from tests.stream.fakes import FakeLedger, FakeTransport, fake_hub, principal

if TYPE_CHECKING:
    from service.auth.principal import Principal

pytestmark = pytest.mark.unit

CLIENT = ClientInfo("192.0.2.1", "curl", None)


def request(granted: tuple[str, ...] = ("*",), /, **query: str) -> StreamRequest:
    return StreamRequest.of(query, principal(topics=granted))


# The query.


@pytest.mark.parametrize(
    "after", ["", "-1", "x", "1.5", "\u00b2", "\u0661", "LATEST", "9223372036854775808", "9" * 5000, "1 "]
)
def test_after_is_a_seq_or_latest(after: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        request(after=after)
    assert refusal.value.errors == [
        {"pointer": "/query", "detail": "after must be a seq or latest, topics a list of patterns"}
    ]


@pytest.mark.parametrize(
    ("after", "names_seq"), [("0", True), ("007", True), (str(SEQ_MAX), True), ("latest", False), (None, False)]
)
def test_only_a_seq_says_that_the_client_has_what_came_before(after: str | None, names_seq: bool) -> None:  # noqa: FBT001
    requested = request() if after is None else request(after=after)
    assert (requested.after, requested.names_seq) == (after, names_seq)


@given(st.text(st.characters(codec="utf-8"), max_size=25) | st.integers(0, 2**64).map(str))
def test_is_seq_is_true_of_what_python_reads_as_a_seq_in_ascii(text: str) -> None:
    expected = text.isascii() and text.isdigit() and int(text) <= SEQ_MAX and len(text) <= len(str(SEQ_MAX))
    assert is_seq(text) == expected


@pytest.mark.parametrize("severity", ["fatal", "", "Info", "info,error"])
def test_min_severity_is_a_severity(severity: str) -> None:
    with pytest.raises(InvalidRequest):
        request(min_severity=severity)


@pytest.mark.parametrize("topics", ["A", "a..b", "a,*.b", "a" * 101, ",".join(["a"] * (PATTERNS_MAX + 1))])
def test_topics_are_a_bounded_number_of_patterns(topics: str) -> None:
    with pytest.raises(InvalidRequest):
        request(topics=topics)


@pytest.mark.parametrize(
    ("granted", "topics", "covered"),
    [
        (("*",), "", ("*",)),
        (("*",), ",a,", ("a",)),
        (("*",), ",".join(["a"] * PATTERNS_MAX), ("a",)),
        (("a.*", "c"), "", ("a.*", "c")),
        (("a.*", "c"), "*", ("a.*", "c")),
        (("a.b",), "a.*", ("a.b",)),
        (("payments.*",), "billing", None),
        (("payments.*",), "payments.eu,billing", None),
        ((), "", None),
    ],
)
def test_the_filter_is_what_token_and_query_both_cover(
    granted: tuple[str, ...], topics: str, covered: tuple[str, ...] | None
) -> None:
    if covered is None:
        with pytest.raises(TopicForbidden):
            request(granted, topics=topics)
    else:
        requested = request(granted, topics=topics, min_severity="error")
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


class Counting:
    """REST limits that let so many rejections of an address be recorded."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def hit(self, kind: str, who: str, cost: int = 1) -> None:
        assert (kind, who) == ("auth_failure", "192.0.2.1")
        self.left -= cost
        if self.left < 0:
            raise RateLimited("too many")


class Log:
    """A fan-out that reaches every cursor at once."""

    def __init__(self) -> None:
        self.waited: list[int] = []

    async def wait_until(self, seq: int) -> None:
        self.waited.append(seq)


class StoredCursor(FakeLedger):
    """A ledger that knows where each recipient goes on."""

    node_id = uuid4()

    def __init__(self, cursor: int) -> None:
        super().__init__()
        self.cursor = cursor

    async def resume_seq(self, *_: Any) -> int:
        return self.cursor


def admission(*, cursor: int = 0, revoked: tuple[str, ...] = (), limit: int = 10) -> tuple[Admission, StoredCursor]:
    settings = StreamSettings()
    ledger = StoredCursor(cursor)
    made = Admission(
        hub=fake_hub(settings, ledger, position=20),
        fanout=cast("Any", Log()),
        ledger=cast("Any", ledger),
        verifier=cast("Any", Revoking(*revoked)),
        rest_limits=cast("Any", Counting(limit)),
        limits=cast("Any", None),
        settings=settings,
    )
    return made, ledger


@pytest.mark.parametrize(
    ("after", "stored", "starts"),
    [("7", 0, 7), ("99", 0, 99), ("latest", 0, 20), (None, 7, 7), (None, 99, 20)],
)
async def test_a_stream_starts_where_it_asks_or_where_the_recipient_stopped(
    after: str | None, stored: int, starts: int
) -> None:
    made, _ = admission(cursor=stored)
    requested = StreamRequest(after, EventFilter())
    assert await made.starting_cursor(principal(), requested) == starts


def greeted(after: int) -> list[dict[str, Any]]:
    made, _ = admission()
    _, welcome = made.connection(
        FakeTransport(), "websocket", CLIENT, principal(), event_filter=EventFilter(), after=after
    )
    return [orjson.loads(frame.payload) for frame in welcome.frames]


def test_the_welcome_names_the_connection_and_where_it_starts() -> None:
    [welcome] = greeted(7)
    assert (welcome["type"], welcome["recipient"], welcome["head"], welcome["after"]) == ("welcome", "alice", 20, 7)
    assert welcome["limits"] == {"message_bytes": 16384, "messages": "200/second; 3000/minute"}


def test_a_cursor_ahead_of_the_log_is_named_in_a_gap() -> None:
    welcome, gap = greeted(99)
    assert welcome["after"] == 20
    assert gap == {"type": "gap", "from": 21, "to": 99, "reason": "reset"}


def test_a_token_that_was_revoked_meanwhile_opens_nothing() -> None:
    made, ledger = admission(revoked=("alice",))
    with pytest.raises(TokenRevoked):
        made.connection(FakeTransport(), "sse", CLIENT, principal(), event_filter=EventFilter(), after=0)
    assert not ledger.calls


def test_rejections_of_an_address_are_recorded_up_to_its_limit() -> None:
    made, ledger = admission(limit=2)
    for _ in range(3):  # against the limit they count already
        made.record_rejection("token_invalid", "/v1/ws", CLIENT, None, counted=True)
    for _ in range(4):
        made.record_rejection("token_invalid", "/v1/ws", CLIENT, None)
    assert len(ledger.of("record_rejection")) == 3 + 2
    [rejection] = ledger.of("record_rejection")[0]
    assert (rejection.reason, rejection.path, rejection.remote_addr) == ("token_invalid", "/v1/ws", "192.0.2.1")
