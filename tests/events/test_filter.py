from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.events.filter import EventFilter, Visible, is_for
from service.severity import RANK, SEVERITIES, Severity

MATCHES = """
SELECT event_matches(
    topic_likes(ARRAY (SELECT json_array_elements_text(given->'topics'))),
    (given->>'min_severity')::severity, given->>'recipient', given->>'topic', (given->>'severity')::severity,
    CASE WHEN json_typeof(given->'recipients') = 'array'
         THEN ARRAY (SELECT json_array_elements_text(given->'recipients')) END
) FROM json_array_elements($1::json) WITH ORDINALITY AS a (given, place) ORDER BY place
"""

# Few letters and the characters that mean something to LIKE, so that near misses are common.
PARTS = ["a", "b", "aa", "a_", "_", "-"]
topics_ = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(".".join)
patterns = topics_ | topics_.map("{}.*".format) | st.just("*")
severities: st.SearchStrategy[Severity] = st.sampled_from(SEVERITIES)
names = st.sampled_from(["alice", "bob", "Zoë", "a"])


def may_see(recipient: str, event_filter: EventFilter, event: Visible) -> bool:
    return is_for(recipient, event) and event_filter.matches(event)


@dataclass(frozen=True)
class Case:
    """A filter of a recipient, and an event."""

    topics: list[str]
    min_severity: Severity
    recipient: str
    topic: str
    severity: Severity
    recipients: list[str] | None


@dataclass(frozen=True)
class Seen:
    """An event, as the filter asks for it."""

    topic: str = "payments.eu"
    severity: Severity = "error"
    recipients: frozenset[str] | None = None


cases = st.builds(
    Case,
    topics=st.lists(patterns, max_size=3),
    min_severity=severities,
    recipient=names,
    topic=topics_,
    severity=severities,
    recipients=st.none() | st.lists(names, max_size=2),
)


def in_python(case: Case) -> bool:
    recipients = frozenset(case.recipients) if case.recipients is not None else None
    event = Seen(case.topic, case.severity, recipients)
    return may_see(case.recipient, EventFilter(tuple(case.topics), case.min_severity), event)


async def in_sql(url: str, asked: list[Case]) -> list[bool]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(MATCHES, json.dumps([asdict(case) for case in asked]))
    await connection.close()
    return [row[0] for row in rows]


@settings(max_examples=60, deadline=None)
@given(st.lists(cases, min_size=1, max_size=100))
def test_the_log_and_the_live_path_agree_on_what_one_may_see(shared_url: str, asked: list[Case]) -> None:
    answers = asyncio.run(in_sql(shared_url, asked))
    assert answers == [in_python(case) for case in asked]


def test_severities_are_in_the_order_of_the_database(shared_url: str) -> None:
    everything = [Case(["*"], least, "alice", "a", severity, None) for least in SEVERITIES for severity in SEVERITIES]
    expected = [RANK[case.severity] >= RANK[case.min_severity] for case in everything]
    assert asyncio.run(in_sql(shared_url, everything)) == expected == list(map(in_python, everything))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("event_filter", "seen"),
    [
        (EventFilter(), True),
        (EventFilter(("payments.eu",)), True),
        (EventFilter(("payments.*",)), True),
        (EventFilter(("shop", "payments.*"), "error"), True),
        (EventFilter(("payments",)), False),
        (EventFilter(("payments.eu.*",)), False),
        (EventFilter(()), False),
        (EventFilter(min_severity="critical"), False),
    ],
)
def test_a_filter_passes_topics_and_severities(event_filter: EventFilter, seen: bool) -> None:  # noqa: FBT001 - a case
    assert event_filter.matches(Seen()) is seen
    assert may_see("alice", event_filter, Seen()) is seen


@pytest.mark.unit
def test_an_event_for_some_is_seen_by_them_alone() -> None:
    event = Seen(recipients=frozenset({"alice"}))
    assert may_see("alice", EventFilter(), event)
    assert not may_see("bob", EventFilter(), event)
    assert not may_see("alice", EventFilter(("shop",)), event)
    assert not may_see("alice", EventFilter(), Seen(recipients=frozenset()))


@pytest.mark.unit
def test_equal_filters_are_one_group() -> None:
    assert len({EventFilter(("a",), "info"), EventFilter(("a",)), EventFilter(("a",), "error")}) == 2
