from __future__ import annotations

from contextlib import ExitStack

import pytest

from service.errors import ConnectionLimit, Overloaded
from service.stream.capacity import RETRY_SECONDS, Capacity

pytestmark = pytest.mark.unit


def test_there_is_room_for_so_many_streams_of_one_recipient() -> None:
    capacity = Capacity(streams_max=10, per_recipient=2)
    capacity.add("alice")
    with capacity.reserve("alice"):
        capacity.add("alice")
    with pytest.raises(ConnectionLimit) as refusal, capacity.reserve("alice"):
        pass
    assert refusal.value.retry_after == RETRY_SECONDS
    with capacity.reserve("bob"):
        pass
    capacity.remove("alice")
    with capacity.reserve("alice"):
        pass


def test_there_is_room_for_so_many_streams_in_all() -> None:
    capacity = Capacity(streams_max=2, per_recipient=2)
    capacity.add("alice")
    capacity.add("bob")
    with pytest.raises(Overloaded) as refusal, capacity.reserve("carol"):
        pass
    assert refusal.value.retry_after == RETRY_SECONDS
    capacity.remove("bob")
    with capacity.reserve("carol"):
        pass


def test_streams_that_are_being_opened_take_room() -> None:
    capacity = Capacity(streams_max=3, per_recipient=2)
    with ExitStack() as opening:
        opening.enter_context(capacity.reserve("alice"))
        opening.enter_context(capacity.reserve("alice"))
        with pytest.raises(ConnectionLimit):
            opening.enter_context(capacity.reserve("alice"))
        opening.enter_context(capacity.reserve("bob"))
        with pytest.raises(Overloaded):
            opening.enter_context(capacity.reserve("bob"))
    with ExitStack() as opening:
        for recipient in ("alice", "alice", "bob"):
            opening.enter_context(capacity.reserve(recipient))


def test_room_is_free_again_when_the_opening_fails() -> None:
    capacity = Capacity(streams_max=1, per_recipient=1)
    with pytest.raises(RuntimeError), capacity.reserve("alice"):
        raise RuntimeError
    with capacity.reserve("alice"):
        pass


def test_a_recipient_without_streams_is_not_remembered() -> None:
    capacity = Capacity(streams_max=10, per_recipient=1)
    for number in range(100):
        with capacity.reserve(str(number)):
            capacity.add(str(number))
        capacity.remove(str(number))
    assert not capacity._streams_of
