from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http.pagination import encode_cursor
from service.severity import RANK, SEVERITIES, Severity
from service.topics import any_covers
from tests.harness import append, eventually, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node

TOPICS = ["shop", "shop.eu", "shop.eu.cards", "shop.us", "shopping", "a_b.c", "axb.c", "a-b.c"]
PATTERNS = [*TOPICS, "*", "shop.*", "shop.eu.*", "a_b.*", "sho.*", "nothing"]
RECIPIENTS = [None, ["alice"], ["alice", "bob"], ["carol"]]
STATUSES = ["open", "acknowledged", "resolved", "expired"]


@dataclass
class FilledLog:
    """A node whose log holds alerts of every kind, and nothing else."""

    client: httpx2.Client
    alerts: list[dict[str, Any]]

    def get(self, path: str, subject: str, topics: list[str] | None, **query: Any) -> httpx2.Response:
        """Ask as ``subject``, whose token is bound to ``topics``."""
        headers = {"Authorization": f"Bearer {token(subject, topics=topics)}"}
        return self.client.get(path, params=query, headers=headers)

    def pages(self, subject: str, topics: list[str] | None, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield page after page of a list."""
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            cursor = {"cursor": page["next"]} if page["next"] else {}
            page = self.get("/v1/alerts", subject, topics, **query, **cursor).json()
            assert page["next"] is None or page["next"] != cursor.get("cursor")
            yield page


@pytest.fixture(scope="module")
def filled_log(lenient: Node) -> Iterator[FilledLog]:
    alerts = []
    with lenient.rest() as client:
        for number in range(48):
            alert = {
                "title": f"{number}",
                "topic": TOPICS[number % 8],
                "severity": SEVERITIES[(number + number // 8) % 4],
                "recipients": RECIPIENTS[number // 8 % 4],
            }
            alerts.append(client.post("/v1/alerts", json=alert).json())
            alerts[-1].pop("warnings", None)  # of those whom nobody has seen yet
            alerts[-1]["status"] = STATUSES[number % 5 % 4]
    asyncio.run(
        lenient.sql(
            "UPDATE alerts SET status = new.status::alert_status"
            " FROM unnest($1::uuid[], $2::text[]) AS new (id, status) WHERE alerts.id = new.id",
            [alert["id"] for alert in alerts],
            [alert["status"] for alert in alerts],
        )
    )
    with lenient.rest() as client:
        yield FilledLog(client, alerts)


def some(values: list[str], most: int = 3) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), max_size=most)


@settings(max_examples=120, deadline=None)
@given(
    topics=st.none() | some(PATTERNS),
    subject=st.sampled_from(["alice", "bob", "eve"]),
    patterns=some(PATTERNS),
    severities=some(list(SEVERITIES)),
    min_severity=st.none() | st.sampled_from(SEVERITIES),
    statuses=some(STATUSES),
    limit=st.sampled_from([1, 7, 200]),
)
def test_a_list_holds_exactly_what_the_bearer_may_see_and_asked_for(  # noqa: PLR0917 - hypothesis names them
    filled_log: FilledLog,
    topics: list[str] | None,
    subject: str,
    patterns: list[str],
    severities: list[str],
    min_severity: Severity | None,
    statuses: list[str],
    limit: int,
) -> None:
    expected = [
        alert
        for alert in reversed(filled_log.alerts)
        if (topics is None or any_covers(topics, alert["topic"]))
        and (alert["recipients"] is None or subject in alert["recipients"])
        and (not patterns or any_covers(patterns, alert["topic"]))
        and (not severities or alert["severity"] in severities)
        and (min_severity is None or RANK[alert["severity"]] >= RANK[min_severity])
        and (not statuses or alert["status"] in statuses)
    ]
    query: dict[str, Any] = {"topic": patterns, "severity": severities, "status": statuses}
    if min_severity is not None:
        query["min_severity"] = min_severity
    found = list(filled_log.pages(subject, topics, limit=limit, **query))
    assert [alert for page in found for alert in page["alerts"]] == expected
    assert {page["head"] for page in found} == {filled_log.alerts[-1]["seq"]}
    assert all(len(page["alerts"]) == limit for page in found[:-1])


def test_no_character_of_a_topic_is_a_wildcard(filled_log: FilledLog) -> None:
    for pattern in ("a_b.*", "a-b.*"):
        (asked,) = filled_log.pages("alice", None, topic=pattern)
        (bound,) = filled_log.pages("alice", [pattern])
        assert {alert["topic"] for page in (asked, bound) for alert in page["alerts"]} == {pattern.replace("*", "c")}


def test_one_alert_is_shown_to_whom_the_list_shows_it(filled_log: FilledLog) -> None:
    for topics, subject in ((None, "alice"), (["shop.*"], "bob"), (["*", "shop"], "eve"), ([], "alice")):
        listed = {alert["id"] for page in filled_log.pages(subject, topics) for alert in page["alerts"]}
        for alert in filled_log.alerts[:16]:
            answer = filled_log.get(f"/v1/alerts/{alert['id']}", subject, topics)
            assert answer.status_code == (200 if alert["id"] in listed else 404)


def test_an_alert_that_one_may_not_see_looks_like_none(filled_log: FilledLog) -> None:
    hidden, unknown = filled_log.alerts[0]["id"], str(uuid.uuid4())
    answers = [filled_log.get(f"/v1/alerts/{identity}", "alice", ["nothing"]) for identity in (hidden, unknown)]
    assert {answer.status_code for answer in answers} == {404}
    assert answers[0].text.replace(hidden, "") == answers[1].text.replace(unknown, "")


def test_a_page_holds_fifty_alerts_and_at_most_200(lenient: Node) -> None:
    topic = f"many-{uuid.uuid4().hex}"
    with lenient.rest() as client:
        for number in range(51):
            client.post("/v1/alerts", json={"title": f"{number}", "topic": topic})
        assert len(client.get("/v1/alerts", params={"topic": topic}).json()["alerts"]) == 50
        assert client.get("/v1/alerts?limit=200").status_code == 200
        assert client.get("/v1/alerts?limit=201").status_code == 422


def test_a_last_page_that_is_full_has_no_next(filled_log: FilledLog) -> None:
    (page,) = filled_log.pages("alice", ["shop.eu"])
    assert page["alerts"]
    (again,) = filled_log.pages("alice", ["shop.eu"], limit=len(page["alerts"]))
    assert again == page


async def test_pages_have_no_hole_and_no_repeat_while_posting_goes_on(lenient: Node) -> None:
    topic = f"busy-{uuid.uuid4().hex}"
    before = [(await lenient.post(f"{number}", topic=topic))["id"] for number in range(20)]
    async with lenient.http(scope="alerts:read alerts:write") as client:
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            query: dict[str, Any] = {"topic": topic, "limit": 3, **cursor}
            posts = (client.post("/v1/alerts", json={"title": "new", "topic": topic}) for _ in range(3))
            listing, *_ = await asyncio.gather(client.get("/v1/alerts", params=query), *posts)
            seen += [alert["id"] for alert in listing.json()["alerts"]]
            if listing.json()["next"] is None:
                break
            cursor = {"cursor": listing.json()["next"]}
    assert len(seen) == len(set(seen))
    assert [identity for identity in seen if identity in before] == before[::-1]


async def test_a_list_and_the_events_after_its_head_are_everything(lenient: Node) -> None:
    topic = f"head-{uuid.uuid4().hex}"
    async with lenient.http(scope="alerts:read alerts:write") as client:

        async def post(number: int) -> None:
            answer = await client.post("/v1/alerts", json={"title": f"{number}", "topic": topic})
            assert answer.status_code == 201

        posting = [asyncio.create_task(post(number)) for number in range(150)]
        lists: list[dict[str, Any]] = []
        while not lists or not all(task.done() for task in posting):
            lists.append((await client.get("/v1/alerts", params={"topic": topic, "limit": 200})).json())
        await asyncio.gather(*posting)
        lists.append((await client.get("/v1/alerts", params={"topic": topic, "limit": 200})).json())
    everything = {row["seq"] for row in await lenient.sql("SELECT seq FROM events WHERE topic = $1", topic)}
    assert len(everything) == 150
    assert len(lists[-1]["alerts"]) == 150
    for page in lists:
        listed = {alert["seq"] for alert in page["alerts"]}
        assert listed == {seq for seq in everything if seq <= page["head"]}


async def test_a_list_sees_one_instant(lenient: Node) -> None:
    """The list waits for a lock after the head was read; later commits are in neither."""
    before = await lenient.post("before")
    alert = {**before, "id": str(uuid.uuid4()), "title": "meanwhile"}
    other = await asyncpg.connect(lenient.database_url)
    async with lenient.http(scope="alerts:read") as client:
        async with other.transaction():
            await other.execute("LOCK TABLE alerts")
            listing = asyncio.create_task(client.get("/v1/alerts"))
            await eventually(
                lambda: lenient.sql("SELECT FROM pg_locks WHERE relation = 'alerts'::regclass AND NOT granted")
            )
            wire = json.dumps(alert).encode()
            await append(other, [wire])
        page = (await listing).json()
        assert (page["head"], page["alerts"][0]) == (before["seq"], before)
        page = (await client.get("/v1/alerts")).json()
        assert (page["head"], page["alerts"][0]["title"]) == (before["seq"] + 1, "meanwhile")
    await other.close()


@pytest.mark.parametrize("cursor", ["", "5", "é", "\0", encode_cursor((2**63,)), "A" * 101])
def test_a_cursor_of_somebody_else_is_refused(lenient: Node, cursor: str) -> None:
    with lenient.rest() as client:
        answer = client.get("/v1/alerts", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "cursor" in answer.json()["detail"]


@pytest.mark.parametrize(
    "query",
    ["topic=A", "topic=a..b", "topic=", "severity=fatal", "min_severity=", "status=gone", "limit=-1", "limit=a"],
)
def test_a_filter_that_means_nothing_is_refused_by_its_name(lenient: Node, query: str) -> None:
    with lenient.rest() as client:
        answer = client.get(f"/v1/alerts?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert query.partition("=")[0] in answer.json()["detail"]
