from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger.queries import PresenceEntry
from service.stream.presence import NAMES_MAX, change_of
from tests.stream.fakes import AT

pytestmark = pytest.mark.unit


def people(**connections: int) -> dict[str, PresenceEntry]:
    return {name: PresenceEntry(name, count, AT) for name, count in connections.items()}


def change(
    before: dict[str, PresenceEntry], now: dict[str, PresenceEntry], *, is_complete: bool = True
) -> dict[str, Any] | None:
    frame = change_of(before, now, is_complete=is_complete)
    return orjson.loads(frame.payload) if frame is not None else None


def test_a_change_names_who_joined_who_left_and_who_has_more_or_fewer_connections() -> None:
    entry = {"since": "2026-11-21T09:41:07.000005Z"}
    assert change(people(ann=1, ben=2, cyd=1, dan=3), people(ben=1, cyd=1, dan=4, eve=1)) == {
        "type": "presence",
        "joined": [{"recipient": "eve", "connections": 1, **entry}],
        "left": ["ann"],
        "changed": [{"recipient": "ben", "connections": 1, **entry}, {"recipient": "dan", "connections": 4, **entry}],
        "present": 4,
        "truncated": False,
    }


def test_nothing_is_announced_where_nothing_changed() -> None:
    assert change(people(ann=1), people(ann=1)) is None
    assert change({}, {}, is_complete=False) is None


def test_who_left_and_came_back_between_two_looks_is_announced() -> None:
    """A client that loaded the list between the two did not find them there."""
    later = PresenceEntry("ann", 1, AT + timedelta(seconds=1))
    announced = change(people(ann=1, ben=1), people(ben=1) | {"ann": later})
    assert announced is not None
    assert [one["recipient"] for one in announced["changed"]] == ["ann"]


@pytest.mark.parametrize("count", [NAMES_MAX, NAMES_MAX + 1])
def test_long_lists_are_cut_and_say_so(count: int) -> None:
    many, others = people(**{f"a{n}": 1 for n in range(count)}), people(**{f"a{n}": 2 for n in range(count)})
    for before, now, names in (({}, many, "joined"), (many, {}, "left"), (many, others, "changed")):
        announced = change(before, now)
        assert announced is not None
        assert (len(announced[names]), announced["truncated"]) == (NAMES_MAX, count > NAMES_MAX)
        assert announced["present"] == len(now)


def test_a_list_that_is_not_complete_says_so() -> None:
    announced = change({}, people(ann=1), is_complete=False)
    assert announced is not None
    assert announced["truncated"]


PEOPLE = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3), max_size=6)


@given(st.lists(PEOPLE, max_size=8))
def test_a_client_that_follows_the_changes_knows_who_is_present(lists: list[dict[str, int]]) -> None:
    known: dict[str, int] = {}
    before: dict[str, PresenceEntry] = {}
    for counts in lists:
        now = people(**counts)
        if (announced := change(before, now)) is not None:
            known |= {one["recipient"]: one["connections"] for one in announced["joined"] + announced["changed"]}
            known = {name: count for name, count in known.items() if name not in announced["left"]}
        assert known == counts
        before = now
