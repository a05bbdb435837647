from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import CloseReason
from service.events.position import Position
from service.stream.protocol import (
    SEEN_MAX,
    Action,
    Authenticate,
    CatchUp,
    CloseStream,
    Phase,
    RecordReceipt,
    RecordSent,
    RecordSightings,
    SendFrame,
    SendHeartbeat,
    StreamProtocol,
    Timing,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit

CURSOR = 10
PENDING = 15
EXPIRES = 1000.0
BAD = [CloseStream(CloseReason.BAD_MESSAGE)]


def position(seq: int) -> Position:
    return Position(seq, 7 * seq)


def begin(
    cursor: int = CURSOR,
    *,
    may_send: Callable[[], bool] = lambda: True,
    may_stay: Callable[[], bool] = lambda: True,
    taken: Callable[[], int] = lambda: 0,
) -> StreamProtocol:
    return StreamProtocol(
        position(cursor),
        token_expires_at=EXPIRES,
        timing=Timing(heartbeat=15, slow_consumer=30),
        now=0,
        may_send=may_send,
        retry_after=lambda: 7,
        may_stay=may_stay,
        taken=taken,
    )


def at(phase: Phase) -> StreamProtocol:
    protocol = begin()
    if phase is Phase.LIVE:
        protocol.joined()
    if phase is Phase.LAGGING:
        protocol.stalled(CURSOR, position(PENDING), now=0)
    if phase is Phase.CLOSED:
        protocol.closed()
    assert protocol.phase is phase
    return protocol


def frames_of(actions: list[Action]) -> list[dict[str, Any]]:
    frames = []
    for action in actions:
        assert isinstance(action, SendFrame)
        frames.append(json.loads(action.frame.payload))
    return frames


def text(**message: Any) -> str:
    return json.dumps(message)


# The drawn state machine.


@pytest.mark.parametrize(
    ("phase", "after"),
    [
        (Phase.REPLAYING, Phase.LAGGING),
        (Phase.LIVE, Phase.LAGGING),
        (Phase.LAGGING, Phase.LAGGING),
        (Phase.CLOSED, Phase.CLOSED),
    ],
)
def test_a_full_socket_makes_a_connection_lag(phase: Phase, after: Phase) -> None:
    protocol = at(phase)
    protocol.stalled(20, position(25), now=0)
    assert protocol.phase is after
    if phase in (Phase.REPLAYING, Phase.LIVE):
        assert (protocol.sent, protocol.written) == (20, position(25))


def test_a_connection_that_lags_already_keeps_its_range_and_its_deadline() -> None:
    protocol = at(Phase.LAGGING)
    protocol.stalled(20, position(25), now=29)
    assert (protocol.sent, protocol.written) == (CURSOR, position(PENDING))
    assert protocol.tick(now=30, wall=0) == [CloseStream(CloseReason.SLOW_CONSUMER)]


@pytest.mark.parametrize(
    ("phase", "after", "actions"),
    [
        (Phase.REPLAYING, Phase.REPLAYING, []),
        (Phase.LIVE, Phase.LIVE, []),
        (Phase.LAGGING, Phase.REPLAYING, [RecordSent(CURSOR, PENDING), CatchUp()]),
        (Phase.CLOSED, Phase.CLOSED, []),
    ],
)
def test_a_socket_that_drained_makes_a_lagging_connection_replay(
    phase: Phase, after: Phase, actions: list[Action]
) -> None:
    protocol = at(phase)
    assert protocol.drained() == actions
    assert protocol.phase is after


def test_a_socket_that_was_full_of_frames_without_events_claims_nothing_when_it_drains() -> None:
    protocol = begin()
    protocol.stalled(CURSOR, position(CURSOR), now=0)
    assert protocol.drained() == [CatchUp()]


def test_only_a_connection_that_replays_joins_the_live_group() -> None:
    protocol = at(Phase.REPLAYING)
    protocol.joined()
    assert protocol.phase is Phase.LIVE
    for phase in (Phase.LIVE, Phase.LAGGING, Phase.CLOSED):
        with pytest.raises(AssertionError):
            at(phase).joined()


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_ends_in_closed_for_good(phase: Phase) -> None:
    protocol = at(phase)
    protocol.closed()
    assert protocol.phase is Phase.CLOSED
    protocol.stalled(20, position(25), now=0)
    assert protocol.drained() == []
    assert protocol.tick(now=1e6, wall=EXPIRES) == []
    assert protocol.receive_text("junk", written=20) == []
    assert protocol.phase is Phase.CLOSED


def test_each_chunk_moves_the_position_and_is_reported_as_one_range() -> None:
    protocol = begin()
    assert protocol.advanced(position(12)) == [RecordSent(10, 12)]
    assert protocol.advanced(position(30)) == [RecordSent(12, 30)]
    assert (protocol.sent, protocol.written) == (30, position(30))


# The clock.


@pytest.mark.parametrize("phase", [Phase.REPLAYING, Phase.LIVE, Phase.LAGGING])
def test_a_stream_is_closed_at_the_moment_its_token_expires(phase: Phase) -> None:
    protocol = at(phase)
    assert protocol.tick(now=1, wall=EXPIRES - 0.001) == []
    assert protocol.tick(now=1, wall=EXPIRES) == [CloseStream(CloseReason.TOKEN_EXPIRED)]


def test_a_fresh_token_bounds_the_stream_instead_of_the_old_one() -> None:
    protocol = begin()
    protocol.renewed(EXPIRES + 50)
    assert protocol.tick(now=1, wall=EXPIRES + 49) == []
    protocol.renewed(EXPIRES - 50)
    assert protocol.tick(now=1, wall=EXPIRES - 50) == [CloseStream(CloseReason.TOKEN_EXPIRED)]


@pytest.mark.parametrize("phase", [Phase.REPLAYING, Phase.LIVE])
def test_a_heartbeat_is_due_once_a_period(phase: Phase) -> None:
    protocol = at(phase)
    due = [now for now in range(50) if protocol.tick(now, wall=0) == [SendHeartbeat()]]
    assert due == [15, 30, 45]


def test_a_connection_that_lags_gets_no_heartbeat_and_is_closed_when_it_stays_stuck() -> None:
    protocol = begin()
    protocol.stalled(CURSOR, position(PENDING), now=100)
    assert protocol.tick(now=129.9, wall=0) == []
    assert protocol.tick(now=130, wall=0) == [CloseStream(CloseReason.SLOW_CONSUMER)]


def test_a_connection_that_drains_in_time_may_lag_again_for_as_long() -> None:
    protocol = begin()
    protocol.stalled(CURSOR, position(PENDING), now=0)
    protocol.drained()
    protocol.stalled(PENDING, position(PENDING), now=29)
    assert protocol.tick(now=58, wall=0) == []
    assert protocol.tick(now=59, wall=0) == [CloseStream(CloseReason.SLOW_CONSUMER)]


# What a client sends.


def test_an_ack_is_cumulative() -> None:
    protocol = begin()
    assert protocol.receive_text(text(type="ack", seq=14), written=20) == [RecordReceipt(14)]
    assert protocol.receive_text(text(type="ack", seq=14), written=20) == []
    assert protocol.receive_text(text(type="ack", seq=12), written=20) == []
    assert protocol.receive_text(text(type="ack", seq=20), written=20) == [RecordReceipt(20)]
    assert protocol.acknowledged == 20


@pytest.mark.parametrize("phase", [Phase.REPLAYING, Phase.LIVE, Phase.LAGGING])
def test_alerts_that_were_seen_are_recorded_and_move_no_cursor(phase: Phase) -> None:
    protocol = at(phase)
    alerts = tuple(uuid4() for _ in range(SEEN_MAX))
    message = text(type="seen", alerts=[str(alert) for alert in alerts])
    assert protocol.receive_text(message, written=PENDING) == [RecordSightings(alerts)]
    assert (protocol.phase, protocol.sent, protocol.acknowledged) == (phase, CURSOR, CURSOR)


def test_what_lies_before_the_starting_cursor_is_not_acknowledged_again() -> None:
    assert begin().receive_text(text(type="ack", seq=CURSOR), written=20) == []


def test_an_ack_of_what_was_not_sent_is_an_error_and_acknowledges_nothing() -> None:
    protocol = begin()
    [error] = frames_of(protocol.receive_text(text(type="ack", seq=21), written=20))
    assert (error["type"], error["code"]) == ("error", "ack_ahead")
    assert "20" in error["detail"]
    assert protocol.acknowledged == CURSOR


def test_an_ack_while_lagging_proves_that_those_events_went_to_the_socket() -> None:
    protocol = at(Phase.LAGGING)
    assert protocol.receive_text(text(type="ack", seq=12), written=PENDING) == [
        RecordSent(CURSOR, 12),
        RecordReceipt(12),
    ]
    assert protocol.phase is Phase.LAGGING
    assert protocol.drained() == [RecordSent(12, PENDING), CatchUp()]


def test_events_that_went_before_others_that_wait_are_recorded_as_sent() -> None:
    protocol = at(Phase.LAGGING)
    assert protocol.part_sent(12) == [RecordSent(CURSOR, 12)]
    assert protocol.part_sent(12) == []
    assert protocol.phase is Phase.LAGGING
    assert protocol.drained() == [RecordSent(12, PENDING), CatchUp()]
    assert protocol.part_sent(PENDING) == []


def test_an_authenticate_hands_the_token_on() -> None:
    assert begin().receive_text(text(type="authenticate", token="a.b.c"), written=0) == [Authenticate("a.b.c")]


@pytest.mark.parametrize("data", [None, 1, "é", [1, {"a": None}], {"deep": [[[[]]]]}, 1.5, True])
def test_a_ping_is_echoed(data: Any) -> None:
    [pong] = frames_of(begin().receive_text(text(type="ping", data=data), written=0))
    assert pong == {"type": "pong", "data": data}


def test_a_ping_without_data_is_answered_with_null() -> None:
    assert frames_of(begin().receive_text('{"type":"ping"}', written=0)) == [{"type": "pong", "data": None}]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "no json",
        "null",
        "1",
        '"ack"',
        "[]",
        '[{"type":"ack","seq":1}]',
        "{}",
        '{"type":null}',
        '{"type":"event","seq":1}',
        '{"type":"ack"}',
        '{"type":"ack","seq":null}',
        '{"type":"ack","seq":"1"}',
        '{"type":"ack","seq":1.0}',
        '{"type":"ack","seq":true}',
        '{"type":"ack","seq":-1}',
        '{"type":"ack","seq":9223372036854775808}',
        '{"type":"ack","seq":1e400}',
        '{"type":"ping","data":18446744073709551617}',
        '{"type":"seen"}',
        '{"type":"seen","alerts":null}',
        '{"type":"seen","alerts":"01a1fd7d-0b7c-7e1a-9d43-5d8f1f1c2b3a"}',
        '{"type":"seen","alerts":["x"]}',
        '{"type":"seen","alerts":[1]}',
        '{"type":"seen","alerts":[null]}',
        '{"type":"seen","alerts":[["01a1fd7d-0b7c-7e1a-9d43-5d8f1f1c2b3a"]]}',
        json.dumps({"type": "seen", "alerts": [str(uuid4()) for _ in range(SEEN_MAX + 1)]}),
        '{"type":"authenticate"}',
        '{"type":"authenticate","token":1}',
        '{"type":"ping","data":NaN}',
        '{"type":"ping","data":"\\ud800"}',
        '{"type":"ping","data":' + "[" * 300 + "]" * 300 + "}",
        "[" * 16_000,
        '{"type":"ping"}{"type":"ping"}',
    ],
)
def test_what_is_no_known_message_closes_the_stream(message: str) -> None:
    assert begin().receive_text(message, written=20) == BAD


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        ('{"type":"ack","seq":1,"seq":2}', "/seq"),
        ('{"type":"ping","type":"ack","seq":1}', "/type"),
        ('{"type":"ping","data":[{"a/b~c":1,"a\\u002fb~c":1}]}', "/data/0/a~1b~0c"),
        ('{"type":"ping","\\n":1,"\\n":1}', "/\\n"),
    ],
)
def test_a_message_that_has_a_member_twice_closes_the_stream_and_is_said_which(message: str, pointer: str) -> None:
    hint = f"{pointer}: the object has this member twice"
    assert begin().receive_text(message, written=20) == [CloseStream(CloseReason.BAD_MESSAGE, hint)]


def test_a_binary_message_closes_the_stream() -> None:
    assert begin().receive_binary() == [CloseStream(CloseReason.BINARY_MESSAGE)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(
    st.one_of(st.text(), JSON.map(json.dumps), st.dictionaries(st.sampled_from(["type", "seq"]), JSON).map(json.dumps))
    | JSON.map(lambda alerts: json.dumps({"type": "seen", "alerts": alerts}))
)
@settings(deadline=None)
def test_no_text_breaks_the_protocol(message: str) -> None:
    assert all(isinstance(action, Action) for action in begin().receive_text(message, written=20))


@given(JSON)
@settings(deadline=None)
def test_whatever_json_is_pinged_comes_back_or_closes_the_stream(data: Any) -> None:
    actions = begin().receive_text(json.dumps({"type": "ping", "data": data}), written=0)
    if actions != BAD:
        [pong] = frames_of(actions)
        assert pong["type"] == "pong"


def test_a_message_over_the_limit_is_dropped_with_an_error() -> None:
    protocol = begin(may_send=lambda: False)
    [error] = frames_of(protocol.receive_text(text(type="ping"), written=20))
    assert (error["code"], error["retry_after"]) == ("rate_limited", 7)


class Counted:
    """A limit that no message exceeds."""

    def __init__(self) -> None:
        self.messages = 0

    def __call__(self) -> bool:
        self.messages += 1
        return True


def test_an_ack_that_advances_is_not_counted_as_a_message_and_any_other_is() -> None:
    counted = Counted()
    protocol = begin(may_send=counted)
    for seq in range(CURSOR + 1, CURSOR + 1001):
        assert protocol.receive_text(text(type="ack", seq=seq), written=CURSOR + 1000) == [RecordReceipt(seq)]
    assert counted.messages == 0
    for seq in (protocol.acknowledged, CURSOR, 0, CURSOR + 1001):
        protocol.receive_text(text(type="ack", seq=seq), written=CURSOR + 1000)
    assert counted.messages == 4


@pytest.mark.parametrize("seq", [True, -1, 2**63, 20.0, "20", None])
def test_what_is_no_ack_is_counted(seq: Any) -> None:
    protocol = begin(may_send=lambda: False)
    assert isinstance(protocol.receive_text(text(type="ack", seq=seq), written=100)[0], SendFrame)


def test_as_many_alerts_may_be_reported_as_seen_as_there_were_events_without_being_counted() -> None:
    counted = Counted()
    protocol = begin(may_send=counted)

    def report(alerts: int, written: int) -> int:
        counted.messages = 0
        message = text(type="seen", alerts=[str(uuid4()) for _ in range(alerts)])
        assert isinstance(protocol.receive_text(message, written)[0], RecordSightings)
        return counted.messages

    assert [report(1, CURSOR + 3) for _ in range(4)] == [0, 0, 0, 1]
    assert report(2, CURSOR + 5) == 0
    assert report(0, CURSOR + 9) == 1
    assert report(5, CURSOR + 9) == 1
    assert report(4, CURSOR + 9) == 0


def test_a_client_that_takes_anything_is_not_stuck() -> None:
    taken = [0]
    protocol = begin(taken=lambda: taken[0])
    protocol.stalled(CURSOR, position(PENDING), now=100)
    for now in range(130, 1000, 30):
        taken[0] += 1
        assert protocol.tick(now, wall=0) == []
    assert protocol.tick(now + 29, wall=0) == []
    assert protocol.tick(now + 30, wall=0) == [CloseStream(CloseReason.SLOW_CONSUMER)]


def test_too_many_strikes_close_the_stream() -> None:
    strikes = iter([True, True, False])
    protocol = begin(may_send=lambda: False, may_stay=lambda: next(strikes))
    assert [type(protocol.receive_text("{}", written=0)[0]) for _ in range(2)] == [SendFrame, SendFrame]
    assert protocol.receive_text("{}", written=0) == [CloseStream(CloseReason.RATE_LIMITED)]


def test_frames_that_are_no_messages_count_and_too_many_close_the_stream() -> None:
    left, strikes = iter([True, True, False, False]), iter([True, False])
    protocol = begin(may_send=lambda: next(left), may_stay=lambda: next(strikes))
    assert [protocol.count_frame() for _ in range(4)] == [[], [], [], [CloseStream(CloseReason.RATE_LIMITED)]]
    protocol.closed()
    assert protocol.count_frame() == []


def test_acknowledging_ahead_is_a_strike_too() -> None:
    protocol = begin(may_stay=lambda: False)
    assert protocol.receive_text(text(type="ack", seq=21), written=20) == [CloseStream(CloseReason.RATE_LIMITED)]


class OneConnection(RuleBasedStateMachine):
    """A connection, its hub and a client, driven at random.

    ``written`` and ``taken`` are the truth: the last seq that was written to the socket, and the last that the socket
    took or the client has. What the protocol reports as sent must never exceed ``taken``.
    """

    @initialize(cursor=st.integers(0, 5), behind=st.integers(0, 20))
    def connect(self, cursor: int, behind: int) -> None:
        self.protocol = begin(cursor, may_stay=lambda: True)
        self.head = cursor + behind
        self.written = self.taken = cursor
        self.now = 0.0
        self.lagging_since = 0.0
        self.claims = [cursor]
        self.sent = [RecordSent(cursor, cursor)]
        self.receipts = [cursor]

    @property
    def phase(self) -> Phase:
        return self.protocol.phase

    def report(self, actions: list[Action]) -> None:
        self.sent += [action for action in actions if isinstance(action, RecordSent)]
        self.receipts += [action.seq for action in actions if isinstance(action, RecordReceipt)]

    def stall(self, sent: int, written: int) -> None:
        self.protocol.stalled(sent, position(written), self.now)
        self.lagging_since = self.now

    @precondition(lambda self: self.phase is not Phase.CLOSED)
    @rule(count=st.integers(1, 5), takes=st.booleans())
    def the_log_grows(self, count: int, takes: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        after, self.head = self.head, self.head + count
        if self.phase is Phase.LIVE:
            self.written = self.head
            if takes:
                self.taken = self.head
            else:
                self.stall(after, self.head)

    @precondition(lambda self: self.phase is Phase.REPLAYING and self.protocol.sent < self.head)
    @rule(count=st.integers(1, 5), takes=st.booleans())
    def a_chunk_is_written(self, count: int, takes: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        self.written = min(self.protocol.sent + count, self.head)
        if takes:
            self.taken = self.written
            self.report(self.protocol.advanced(position(self.written)))
        else:
            self.stall(self.protocol.sent, self.written)

    @precondition(lambda self: self.phase is Phase.REPLAYING and self.protocol.sent >= self.head)
    @rule()
    def it_joins(self) -> None:
        self.protocol.joined()

    @precondition(lambda self: self.phase in (Phase.REPLAYING, Phase.LIVE))
    @rule()
    def a_frame_without_an_event_fills_the_socket(self) -> None:
        self.stall(self.written, self.written)

    @precondition(lambda self: self.phase is Phase.LAGGING)
    @rule()
    def the_socket_drains(self) -> None:
        self.taken = self.written
        actions = self.protocol.drained()
        self.report(actions)
        assert actions[-1] == CatchUp()
        assert self.protocol.sent == self.written

    @precondition(lambda self: self.phase is Phase.LAGGING and self.taken < self.written)
    @rule(count=st.integers(1, 5))
    def the_socket_takes_a_part(self, count: int) -> None:
        self.taken = min(self.taken + count, self.written)
        self.report(self.protocol.part_sent(self.taken))

    @precondition(lambda self: self.phase is not Phase.CLOSED)
    @rule(seq=st.integers(0, 60))
    def the_client_acknowledges(self, seq: int) -> None:
        before = self.protocol.acknowledged
        actions = self.protocol.receive_text(text(type="ack", seq=seq), self.written)
        self.report(actions)
        if seq > self.written:
            assert frames_of(actions)[0]["code"] == "ack_ahead"
        elif seq <= before:
            assert actions == []
        else:
            assert actions[-1] == RecordReceipt(seq)
            self.taken = max(self.taken, seq)

    @precondition(lambda self: self.phase is not Phase.CLOSED)
    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        actions = self.protocol.tick(self.now, wall=0)
        if self.phase is Phase.LAGGING:
            stuck = self.now - self.lagging_since >= 30
            assert actions == ([CloseStream(CloseReason.SLOW_CONSUMER)] if stuck else [])
        else:
            assert actions in ([], [SendHeartbeat()])

    @precondition(lambda self: self.phase is not Phase.CLOSED)
    @rule()
    def its_token_expires(self) -> None:
        assert self.protocol.tick(self.now, wall=EXPIRES) == [CloseStream(CloseReason.TOKEN_EXPIRED)]

    @rule()
    def it_ends(self) -> None:
        if self.phase is not Phase.CLOSED:  # a connection believes the first end that it hears of
            self.claims.append(self.claimed())
        self.protocol.closed()

    def claimed(self) -> int:
        return self.head if self.phase is Phase.LIVE else self.protocol.sent

    @invariant()
    def the_ledger_never_overstates(self) -> None:
        if self.phase is not Phase.CLOSED:
            self.claims.append(self.claimed())
        assert self.claims[-1] <= self.taken <= self.written
        assert self.claims == sorted(self.claims)

    @invariant()
    def ranges_never_overlap(self) -> None:
        for earlier, later in pairwise(self.sent):
            assert later.after_seq >= earlier.up_to_seq
            assert later.up_to_seq > later.after_seq

    @invariant()
    def receipts_grow_and_never_exceed_what_was_written(self) -> None:
        assert all(earlier < later for earlier, later in pairwise(self.receipts))
        assert self.receipts[-1] == self.protocol.acknowledged <= self.written

    @invariant()
    def what_was_written_is_known(self) -> None:
        if self.phase in (Phase.REPLAYING, Phase.LAGGING):
            assert self.protocol.sent <= self.protocol.written.seq
            assert self.protocol.written == position(self.written)


TestOneConnection = OneConnection.TestCase
TestOneConnection.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
