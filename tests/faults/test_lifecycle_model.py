"""Concurrent requests of admins and sources for a few alerts, through two nodes, compared with a brute-force model."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.settings import AlertSettings, LimitSettings, Settings
from service.severity import SEVERITIES
from tests.harness import eventually, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import httpx2

    from tests.harness import Node

ADMINS = ("ann", "bob", "cyd")
BACKENDS = ("billing", "search")
SCOPE = "alerts:read alerts:write alerts:manage"
KIND = {"acknowledge": "acknowledged", "resolve": "resolved", "reopen": "reopened"}
LEADS = {"acknowledge": "acknowledged", "resolve": "resolved", "reopen": "open"}
MAY_BEGIN = {
    "acknowledge": {"open"},
    "resolve": {"open", "acknowledged"},
    "reopen": {"acknowledged", "resolved", "expired"},
}
AT_ONCE = 8


@dataclass(frozen=True)
class Attempt:
    """A request of an actor: post an alert with a dedup key, or act on the alert that was last posted with it."""

    node: int
    actor: str
    verb: str
    key: int
    severity: str


attempts = st.builds(
    Attempt,
    node=st.integers(0, 1),
    actor=st.sampled_from(ADMINS + BACKENDS),
    verb=st.sampled_from(["post", "post", "acknowledge", "resolve", "reopen", "comments"]),
    key=st.integers(0, 1),
    severity=st.sampled_from(SEVERITIES),
)
plans = st.lists(attempts, min_size=24, max_size=60)


@dataclass
class Answered:
    """An attempt with its answer, and the alert that it was for."""

    attempt: Attempt
    alert: str
    status: int
    body: dict[str, Any]


@dataclass
class Modelled:
    """An alert as the log's events make it, one by one."""

    status: str
    by: str
    severity: str
    occurrences: int
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)

    def apply(self, kind: str, actor: str, shown: dict[str, Any]) -> None:
        """Apply the next event, which must be allowed in the current status."""
        if kind == "repeated":
            assert self.status in MAY_BEGIN["resolve"]
            assert shown["occurrences"] > self.occurrences
            if SEVERITIES.index(shown["severity"]) > SEVERITIES.index(self.severity):
                self.severity = shown["severity"]
                if self.status == "acknowledged":
                    self.status, self.by = "open", actor
        elif kind != "commented":
            verb = next(verb for verb, name in KIND.items() if name == kind)
            assert self.status in MAY_BEGIN[verb]
            self.status, self.by = LEADS[verb], actor
        assert shown["occurrences"] >= self.occurrences
        self.occurrences = shown["occurrences"]
        self.kinds[kind, actor] += 1
        assert (shown["status"], shown["status_by"], shown["severity"]) == (self.status, self.by, self.severity)


@pytest.fixture(scope="module")
def nodes(shared_url: str) -> Iterator[list[Node]]:
    every = "1000000/second"
    shared_keys = AlertSettings(dedup_groups={"everybody": ADMINS + BACKENDS})
    lenient = Settings(limits=LimitSettings(write_limit=every, read_limit=every), alerts=shared_keys)
    with serving(shared_url, lenient) as one, serving(shared_url, lenient) as other:
        yield [one, other]


class Run:
    """One run of attempts, on a topic of its own."""

    def __init__(self, clients: dict[tuple[int, str], httpx2.AsyncClient]) -> None:
        self.clients = clients
        self.topic = f"t{uuid.uuid4().hex}"
        self.last: dict[int, str] = {}
        self.answered: list[Answered] = []

    async def try_(self, attempt: Attempt) -> None:
        """Make an attempt and record the answer."""
        client = self.clients[attempt.node, attempt.actor]
        if attempt.verb == "post":
            body = {"title": "a", "topic": self.topic, "dedup_key": str(attempt.key), "severity": attempt.severity}
            answer = await client.post("/v1/alerts", json=body)
            alert = answer.json()["id"]
            self.last[attempt.key] = alert
        elif (alert := self.last.get(attempt.key)) is not None:
            comment = {"text": "hello"} if attempt.verb == "comments" else None
            answer = await client.post(f"/v1/alerts/{alert}/{attempt.verb}", json=comment)
        else:
            return
        self.answered.append(Answered(attempt, alert, answer.status_code, answer.json()))

    async def run(self, plan: Sequence[Attempt]) -> None:
        """Make all attempts, several at a time."""
        for start in range(0, len(plan), AT_ONCE):
            await asyncio.gather(*map(self.try_, plan[start : start + AT_ONCE]))


@settings(max_examples=3)
@given(plan=plans)
def test_whatever_is_done_at_once_the_log_agrees_with_the_answers_and_the_tables(
    nodes: list[Node], plan: list[Attempt]
) -> None:
    asyncio.run(_run(nodes, plan))


@pytest.mark.long
@settings(max_examples=60)
@given(plan=plans)
def test_whatever_is_done_at_once_in_many_orders_the_log_agrees_with_the_answers_and_the_tables(
    nodes: list[Node], plan: list[Attempt]
) -> None:
    asyncio.run(_run(nodes, plan))


async def _run(nodes: list[Node], plan: list[Attempt]) -> None:
    async with AsyncExitStack() as stack:
        clients = {
            (number, actor): await stack.enter_async_context(node.http(actor, SCOPE))
            for number, node in enumerate(nodes)
            for actor in ADMINS + BACKENDS
        }
        run = Run(clients)
        await run.run(plan)
        counted = Counter(answered.alert for answered in run.answered if answered.attempt.verb == "post")
        assert {answered.status for answered in run.answered if answered.attempt.verb == "post"} <= {200, 201}

        async def is_appended() -> bool:
            query = "SELECT count(*) FROM alerts WHERE topic = $1 AND repeat_event_due_at IS NOT NULL"
            return [tuple(row) for row in await nodes[0].sql(query, run.topic)] == [(0,)]

        # Repetitions that are only counted so far become an event within a second, while the alert is unresolved.
        await eventually(is_appended)
        modelled, states = await _replay(nodes[0], run.topic)
        assert {alert: state.occurrences for alert, state in modelled.items()} == counted
        for answered in run.answered:
            _judge(answered, modelled[answered.alert], states[answered.alert])
        await _compare(nodes[1], clients[1, "ann"], modelled, run.topic)


async def _replay(node: Node, topic: str) -> tuple[dict[str, Modelled], dict[str, list[dict[str, Any]]]]:
    """Return the alerts that the log results in, and each of their states; an open alert holds its key alone."""
    modelled: dict[str, Modelled] = {}
    states: dict[str, list[dict[str, Any]]] = {}
    holders: dict[str, str] = {}
    for row in await node.sql("SELECT * FROM events WHERE topic = $1 ORDER BY seq", topic):
        shown = json.loads(row["body"])
        alert, kind = shown["id"], row["kind"].removeprefix("alert.")
        if kind == "created":
            assert shown["dedup_key"] not in holders
            modelled[alert] = Modelled("open", row["actor"], shown["severity"], 1)
            states[alert] = []
        else:
            modelled[alert].apply(kind, row["actor"], shown)
        if modelled[alert].status in ("open", "acknowledged"):
            assert holders.setdefault(shown["dedup_key"], alert) == alert
        elif holders.get(shown["dedup_key"]) == alert:
            del holders[shown["dedup_key"]]
        states[alert].append(shown)
    return modelled, states


def _judge(answered: Answered, modelled: Modelled, states: list[dict[str, Any]]) -> None:
    """Compare an answer with the log."""
    verb, actor = answered.attempt.verb, answered.attempt.actor
    if verb == "post":
        return
    if verb == "comments":
        assert answered.status == 201
        assert modelled.kinds["commented", actor] > 0
    elif answered.status == 200:
        assert answered.body["status"] == LEADS[verb]
        assert answered.body["status_by"] == actor
        assert any((state["status"], state["status_by"]) == (LEADS[verb], actor) for state in states)
    else:
        assert (answered.status, answered.body["code"]) == (409, "action_conflict")
        if (shown := answered.body.get("alert")) is not None:
            assert shown["status"] not in MAY_BEGIN[verb]
            assert (shown["status"], shown["status_by"]) != (LEADS[verb], actor)
            assert any(shown["status_at"] == state["status_at"] for state in states)


async def _compare(node: Node, ann: httpx2.AsyncClient, modelled: dict[str, Modelled], topic: str) -> None:
    """Compare the model with the table, and the timelines with the log."""
    rows = await node.sql("SELECT id, status, status_by, severity, occurrences FROM alerts WHERE topic = $1", topic)
    stored = {str(row["id"]): tuple(row)[1:] for row in rows}
    expected = {alert: (state.status, state.by, state.severity, state.occurrences) for alert, state in modelled.items()}
    assert stored == expected
    for alert in modelled:
        timeline = (await ann.get(f"/v1/alerts/{alert}/timeline", params={"limit": 500})).json()["events"]
        log = await node.sql("SELECT seq, kind, actor FROM events WHERE alert_id = $1 ORDER BY seq", uuid.UUID(alert))
        assert [(event["seq"], event["kind"], event["actor"]) for event in timeline] == [tuple(row) for row in log]
