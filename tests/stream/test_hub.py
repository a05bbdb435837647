"""The hub with fake transports: groups, recipients, full sockets, ticks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import CloseReason, ConnectionLimit, Overloaded
from service.events.filter import EventFilter, is_for
from service.settings import StreamSettings
from service.stream import frames
from service.stream.protocol import Phase
from tests.alerts.examples import bearer
from tests.fixtures.revocations import KnownRevocations
from tests.stream.fakes import FakeLedger, FakeTransport, at, connect, fake_hub, live, phase_of, prepared

if TYPE_CHECKING:
    from service.severity import Severity
    from service.stream.hub import Hub

pytestmark = pytest.mark.unit


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


@pytest.fixture
def hub(ledger: FakeLedger) -> Hub:
    return fake_hub(StreamSettings(), ledger)


# Who is sent what.


def test_each_group_is_sent_the_events_that_match_its_filter(hub: Hub) -> None:
    everything = live(hub)
    topic_a = live(hub, event_filter=EventFilter(("a",)))
    errors = live(hub, event_filter=EventFilter(("*",), "error"))
    both = live(hub, event_filter=EventFilter(("b",), "error"))
    severities: list[Severity] = ["info", "error"]
    events = [prepared(n, "ab"[n % 2], severities[n // 2 % 2]) for n in range(1, 9)]
    hub.broadcast(events)
    assert everything.seqs == [1, 2, 3, 4, 5, 6, 7, 8]
    assert topic_a.seqs == [2, 4, 6, 8]
    assert errors.seqs == [2, 3, 6, 7]
    assert both.seqs == [3, 7]
    assert hub.position == at(8)
    assert hub.delivered == 8 + 4 + 4 + 2


def test_events_that_come_together_leave_in_one_write_of_the_same_bytes(hub: Hub) -> None:
    transports = [live(hub, name) for name in ("alice", "bob")] + [live(hub, event_filter=EventFilter(("default",)))]
    hub.broadcast([prepared(1), prepared(2)])
    [[first], *others] = [transport.batches for transport in transports]
    assert all(batch is first for [batch] in others)  # also in the group of another filter
    assert first.text_messages is first.text_messages


def test_an_event_for_named_recipients_goes_to_them_alone_and_in_its_place(hub: Hub) -> None:
    alice, bob, carol = (live(hub, name) for name in ("alice", "bob", "carol"))
    second = live(hub, "alice", EventFilter(("*", "x")))
    hub.broadcast([prepared(1), prepared(2, recipients=["alice"]), prepared(3), prepared(4, recipients=["bob"])])
    assert alice.seqs == second.seqs == [1, 2, 3]
    assert bob.seqs == [1, 3, 4]
    assert carol.seqs == [1, 3]
    hub.broadcast([prepared(5, recipients=["nobody"])])
    assert [len(transport.batches) for transport in (alice, bob, carol, second)] == [1, 1, 1, 1]


NAMES = ["ann", "ben", "cyd"]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "a.b", "b"]),
        st.sampled_from(["info", "critical"]),
        st.none() | st.lists(st.sampled_from(NAMES), min_size=1, max_size=2),
    ),
    min_size=1,
    max_size=8,
)
CLIENTS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["*", "a", "a.*"]), st.sampled_from(["info", "error"])),
    max_size=8,
)


@given(EVENTS, CLIENTS)
def test_every_connection_is_sent_exactly_what_it_may_see_in_order(
    events: list[tuple[str, Any, Any]], clients: list[tuple[str, str, Any]]
) -> None:
    hub = fake_hub(StreamSettings())
    transports = [live(hub, name, EventFilter((topic,), least)) for name, topic, least in clients]
    passed = [prepared(seq, *event) for seq, event in enumerate(events, start=1)]
    hub.broadcast(passed)
    for (name, topic, least), transport in zip(clients, transports, strict=True):
        may_see = EventFilter((topic,), least)
        assert transport.seqs == [one.position.seq for one in passed if may_see.matches(one) and is_for(name, one)]
        assert len(transport.batches) == (1 if transport.seqs else 0)


def test_the_ledger_learns_of_each_pass_and_whether_anybody_was_sent_anything(hub: Hub, ledger: FakeLedger) -> None:
    live(hub, event_filter=EventFilter(("a",)))
    hub.broadcast([prepared(1, "a"), prepared(2, "b")])
    hub.broadcast([prepared(3, "b")])
    assert ledger.of("record_dispatch") == [(at(0), at(2), True), (at(2), at(3), False)]


# Full sockets.


def test_a_full_socket_leaves_its_group_in_the_same_pass_and_delays_nobody(hub: Hub) -> None:
    slow, quick = FakeTransport(), live(hub, "bob")
    connection, _ = connect(hub, "alice", transport=slow)
    connection.open(frames.FrameBatch())
    slow.is_full = True
    hub.broadcast([prepared(1), prepared(2)])
    assert phase_of(connection) is Phase.LAGGING
    hub.broadcast([prepared(3)])
    assert slow.seqs == [1, 2]  # written, and not all of it gone
    assert quick.seqs == [1, 2, 3]
    assert (hub.open, hub.lagging) == (2, 1)


def test_a_connection_that_lags_is_sent_no_frame_without_an_event_either(hub: Hub) -> None:
    slow, quick = live(hub), live(hub)
    slow.is_full = True
    hub.broadcast([prepared(1)])
    hub.send_to_all(frames.presence([], ["carol"], present=1, truncated=False))
    assert slow.types() == ["event"]
    assert quick.types() == ["event", "presence"]
    assert not quick.is_full


def test_a_frame_to_all_that_fills_a_socket_makes_it_lag(hub: Hub) -> None:
    transport = live(hub)
    transport.is_full = True
    hub.send_to_all(frames.presence([], ["carol"], present=1, truncated=False))
    assert hub.lagging == 1
    hub.broadcast([prepared(1)])
    assert transport.seqs == []


# Opening and closing.


def test_a_connection_that_closed_is_sent_nothing_and_gives_its_room_back() -> None:
    hub = fake_hub(StreamSettings(connections_per_recipient=1))
    connection, transport = connect(hub)
    with hub.reserve("alice"):
        connection.open(frames.FrameBatch())
    with pytest.raises(ConnectionLimit), hub.reserve("alice"):
        pass
    assert (hub.open, hub.holds(connection.id), hub.find(connection.id, bearer("alice"))) == (1, True, connection)
    assert hub.find(connection.id, bearer("bob")) is None
    assert hub.find(connection.id, bearer("alice", topics=("payments",))) is None
    connection.close(CloseReason.KICKED)
    connection.disconnected(1006, "")
    assert (hub.open, hub.holds(connection.id), transport.closed) == (0, False, CloseReason.KICKED)
    hub.broadcast([prepared(1)])
    assert transport.seqs == []
    with hub.reserve("alice"):
        pass


def test_a_node_whose_ledger_is_full_takes_no_stream(hub: Hub, ledger: FakeLedger) -> None:
    ledger.is_full = True
    with pytest.raises(Overloaded), hub.reserve("alice"):
        pass


def test_connections_are_closed_by_id_by_revocation_or_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = {name: connect(hub, name) for name in ("alice", "bob", "carol")}
    for connection, _ in connections.values():
        connection.open(frames.FrameBatch())

    monkeypatch.setattr(KnownRevocations, "covers", lambda _, principal: principal.subject == "bob")
    hub.close_revoked({connections["alice"][0].id, uuid4()})
    assert [transport.closed for _, transport in connections.values()] == [
        CloseReason.KICKED,
        CloseReason.TOKEN_REVOKED,
        None,
    ]
    hub.close_all(CloseReason.SHUTTING_DOWN)
    assert connections["carol"][1].closed is CloseReason.SHUTTING_DOWN
    assert not hub.has_listeners


# Ticks.


def test_a_tick_reaches_every_connection_and_counts_the_minute(hub: Hub) -> None:
    transport = live(hub)
    slow = live(hub, "bob")
    slow.is_full = True
    hub.broadcast([prepared(1)])
    hub.tick(now=15, wall=60)
    assert transport.types() == ["event", "heartbeat"]
    assert transport.frames[-1]["seq"] == 1
    assert slow.types() == ["event"]
    assert hub.minutes.last_hour() == [(1, 2, 2)]
    hub.tick(now=1e9, wall=61)
    assert slow.closed is CloseReason.SLOW_CONSUMER
    hub.tick(now=1e9, wall=1e12)
    assert transport.closed is CloseReason.TOKEN_EXPIRED


def test_a_token_that_expires_ends_the_stream_of_a_full_socket_too(hub: Hub) -> None:
    slow = live(hub)
    slow.is_full = True
    hub.broadcast([prepared(1)])
    hub.tick(now=0, wall=1e12)
    assert slow.closed is CloseReason.TOKEN_EXPIRED
