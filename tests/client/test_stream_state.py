"""The state of a stream, without a network and with a clock of the test's own."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from service.client import ClientError, Connected, Disconnected, Gap, Reset, StreamRejected, stream_state
from service.client.stream_state import StreamState
from service.errors import CloseReason
from service.stream.frames import SUBPROTOCOL
from service.stream.protocol import SEEN_MAX
from tests.harness import BODY

pytestmark = pytest.mark.unit


class Following(StreamState):
    """A state whose clock moves only when a test moves it; it keeps its notices."""

    def __init__(self, after: Any = None) -> None:
        self.now = 50.0
        self.notices: list[Any] = []
        super().__init__(after, (), None, self.notices.append, lambda: self.now)

    def take(self, kind: str, /, **fields: Any) -> Any:
        return self.receive(json.dumps({"type": kind, **fields}))

    def welcome(self, after: int = 0, head: int = 10, history: str = "a") -> None:
        self.opened()
        self.take("welcome", after=after, cursor=at(after, history), head=head, heartbeat_seconds=10)

    def event(self, seq: int, history: str = "a") -> Any:
        position = {"seq": seq, "cursor": at(seq, history), "id": (history * 8 + "0" * 8)}
        return self.take("event", **position, kind="alert.created", at=BODY["created_at"], actor="billing", alert=BODY)

    def returned(self, *seqs: int, history: str = "a") -> None:
        """Return these events, and note that they were processed."""
        for seq in seqs:
            assert self.event(seq, history) is not None
            self.processed()

    def acked(self) -> list[Any]:
        """Let time pass, and return the acks that were due."""
        self.now += 1
        return [json.loads(ack)["seq"]] if self.ack_in() == 0 and (ack := self.ack()) else []


def at(seq: int, history: str = "a") -> str:
    """Return the cursor of a position in one of two histories of the log."""
    return f"{seq}-{history * 8}" if seq else "0"


@pytest.fixture(autouse=True)
def longest_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_state, "random", SimpleNamespace(random=lambda: 1.0))


@pytest.mark.parametrize(
    ("base", "after", "topics", "severity", "address"),
    [
        ("http://a:1", None, (), None, "ws://a:1/v1/ws"),
        ("https://a/x/", 7, (), None, "wss://a/x/v1/ws?after=7"),
        ("http://a", "4711-9f3a2c1d", (), None, "ws://a/v1/ws?after=4711-9f3a2c1d"),
        (
            "https://a",
            "latest",
            ["b", "c.*"],
            "error",
            "wss://a/v1/ws?after=latest&topic=b&topic=c.%2A&min_severity=error",
        ),
    ],
)
def test_the_address_has_the_cursor_and_the_filter(
    base: str, after: Any, topics: Any, severity: Any, address: str
) -> None:
    assert StreamState(after, topics, severity, None).address(base) == address


@pytest.mark.parametrize("after", ["soon", "-1", "4711-", "4711-9f3a", "4711-9F3A2C1D", "1.5", -1, "", "7\n"])
def test_what_is_no_cursor_is_refused_before_anything_is_sent(after: Any) -> None:
    with pytest.raises(ClientError, match="4711-9f3a2c1d"):
        StreamState(after, (), None, None)


def test_the_cursor_follows_what_was_given_out_and_what_there_was_not_for_us() -> None:
    state = Following("latest")
    state.welcome(after=10)
    assert (state.cursor, state.notices) == (at(10), [Connected(10, 10)])
    assert state.event(12).alert.title == BODY["title"]
    assert state.event(12) is None
    assert state.event(11) is None
    state.take("heartbeat", seq=20, cursor=at(20))
    state.take("caught_up", seq=15, cursor=at(15))
    assert state.cursor == at(20)
    assert state.address("http://a").endswith(f"?after={at(20)}")


def test_a_bare_seq_gains_its_mark_from_the_welcome_and_no_cursor_changes_its_own() -> None:
    state = Following(10)
    state.welcome(after=10)
    assert state.cursor == at(10)
    state.take("heartbeat", seq=10, cursor=at(10, "b"))
    assert state.cursor == at(10)


def test_a_newer_service_may_send_what_is_not_known() -> None:
    state = Following(0)
    state.welcome()
    assert state.take("a_new_type", what="ever") is None
    assert state.take("error", code="overloaded") is None


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"type": "event", "seq": 9}', '{"type": "heartbeat"}', b"\xff"]
)
def test_what_is_no_frame_is_a_value_error(text: str | bytes) -> None:
    state = Following(0)
    state.welcome()
    with pytest.raises(ValueError, match=r"."):
        state.receive(text)


def test_acks_come_at_most_four_times_a_second_and_only_for_what_was_processed() -> None:
    state = Following(0)
    state.welcome()
    state.event(1)
    assert (state.ack_in(), state.ack()) == (None, None)
    state.processed()
    assert state.ack_in() == 0
    assert state.ack() == '{"type": "ack", "seq": 1}'
    state.event(2)
    state.processed()
    state.event(3)
    state.processed()
    assert state.ack_in() == 0.25
    state.now += 0.25
    assert (state.ack_in(), state.ack(), state.ack_in()) == (0, '{"type": "ack", "seq": 3}', None)


def test_the_last_ack_is_sent_again_on_the_next_connection() -> None:
    state = Following(0)
    state.welcome()
    state.event(1)
    state.processed()
    state.ack()
    state.lost(None, "")
    state.welcome(after=1)
    assert (state.ack_in(), state.ack()) == (0, '{"type": "ack", "seq": 1}')


def test_what_was_seen_is_reported_in_bounded_messages_and_again_where_it_may_be_lost() -> None:
    state = Following(0)
    alerts = [str(uuid4()) for _ in range(150)]
    state.saw([*alerts, alerts[0].upper()])
    assert [state.take_seen(), state.take_seen(), state.take_seen()] == [alerts[:100], alerts[100:], []]
    state.welcome()
    assert [state.take_seen(), state.take_seen()] == [alerts[:100], alerts[100:]]  # they may be lost
    state.take("heartbeat", seq=10, cursor=at(10))
    state.welcome()
    assert state.take_seen() == []
    with pytest.raises(ValueError, match="hexadecimal"):
        state.saw(["no id"])
    for _ in range(60):
        state.saw(str(uuid4()) for _ in range(100))
    waiting = 0
    while taken := state.take_seen():
        waiting += len(taken)
    assert waiting == stream_state.SEEN_WAITING_MAX


def test_before_the_welcome_nothing_is_acknowledged() -> None:
    state = Following(0)
    state.welcome()
    state.returned(1)
    state.ack()
    state.returned(2)
    state.lost(None, "")
    state.opened()
    state.processed()
    assert (state.ack_in(), state.ack()) == (None, None)


def test_a_connection_that_begins_elsewhere_is_sent_no_ack_of_what_came_before() -> None:
    state = Following(0)
    state.welcome()
    state.returned(1, 2, 3)
    assert state.acked() == [3]
    for after in (2, 3, 9):
        state.welcome(after=after, history="b")
        state.processed()
        assert (state.ack_in(), state.ack()) == (None, None)
    assert state.cursor == at(3), "it is what the service has to know if the connection breaks before the reset"


def test_silence_is_measured_in_heartbeats_after_the_welcome() -> None:
    state = Following()
    state.opened()
    assert state.silence_seconds == 15
    state.welcome()
    assert state.silence_seconds == 25


def test_a_purged_gap_is_passed_over() -> None:
    state = Following(at(100))
    state.welcome(after=100, head=120)
    state.take("gap", **{"from": 101, "to": 110, "reason": "purged"})
    assert state.cursor == "110"
    assert state.event(111) is not None
    assert state.notices[-1] == Gap(101, 110, "purged")


@pytest.mark.parametrize(("after", "cursor"), [(2, at(2)), (None, at(3, "b"))])
def test_after_a_reset_the_same_seqs_come_again_and_only_they_are_acknowledged(after: int | None, cursor: str) -> None:
    state = Following(0)
    state.welcome()
    state.returned(1, 2, 3, 4, 5)
    assert state.acked() == [5]
    state.lost(1012, "history_changed")
    first = stream_state.seq_of(cursor) + 1
    state.opened()
    state.take("welcome", after=first - 1, cursor=cursor, head=first + 1, heartbeat_seconds=10)
    state.take("reset", after=after, cursor=cursor)
    assert state.notices[-1] == Reset(after, cursor)
    assert state.cursor == cursor
    state.processed()
    assert state.acked() == []
    again = state.event(first, "b")
    assert (again.seq, again.id, again.cursor) == (first, "bbbbbbbb00000000", at(first, "b"))
    assert state.acked() == []
    state.processed()
    assert state.acked() == [first]
    state.returned(first + 1, history="b")
    assert state.acked() == [first + 1]
    assert state.cursor == at(first + 1, "b")


def test_a_reset_within_a_connection_takes_back_the_ack_that_is_due() -> None:
    state = Following(0)
    state.welcome()
    state.returned(1, 2, 3)
    state.take("reset", after=1, cursor=at(1))
    state.processed()
    assert state.acked() == []


def test_pauses_double_to_the_longest_until_a_connection_was_stable() -> None:
    state = Following()
    assert [state.lost(None, "").pause_seconds for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    state.welcome()
    state.take("caught_up", seq=10, cursor=at(10))
    state.now += 2.1
    assert state.lost(1012, "history_changed").pause_seconds == 1
    assert state.lost(1008, "rate_limited").pause_seconds == 60
    assert state.notices[-1] == Disconnected("rate_limited", 60)


def test_a_refused_token_is_replaced_at_once_and_then_after_pauses() -> None:
    state = Following()
    pauses = [state.lost(1008, "token_expired") for _ in range(3)]
    assert [(one.pause_seconds, one.fresh_token) for one in pauses] == [(0, True), (2, True), (4, True)]


@pytest.mark.parametrize(("code", "reason"), [(1008, "kicked"), (1003, "binary_message"), (1009, "")])
def test_what_coming_back_cannot_cure_ends_the_stream(code: int, reason: str) -> None:
    with pytest.raises(StreamRejected) as ended:
        Following().lost(code, reason)
    assert (ended.value.code, ended.value.reason) == (code, reason or "message_too_big")


def test_the_policy_is_that_of_the_service() -> None:
    for reason in CloseReason:
        assert stream_state.close_policy(reason.code, reason.reason) == reason.policy, reason
    assert stream_state.close_policy(1008, "a reason of a newer service") == "retry_later"
    assert stream_state.close_policy(None, "unreachable") == "retry"
    assert (stream_state.SUBPROTOCOL, stream_state.SEEN_MAX) == (SUBPROTOCOL, SEEN_MAX)
