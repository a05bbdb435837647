from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.alerts.fields import EXCLUDED_MAX
from service.alerts.search import parse
from service.alerts.search_index import SearchIndexer
from service.database.engine import Database, parse_url
from service.settings import StorageSettings
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest() as client:
        yield client


@pytest.fixture
def topic() -> str:
    return f"t{uuid.uuid4().hex}"


def found(rest: httpx2.Client, topic: str, **query: Any) -> set[str]:
    answer = rest.get("/v1/alerts", params={"topic": topic, "limit": 200, **query})
    assert answer.status_code == 200, answer.text
    return {alert["title"] for alert in answer.json()["alerts"]}


def post(rest: httpx2.Client, topic: str, title: str, **fields: Any) -> dict[str, Any]:
    alert: dict[str, Any] = rest.post("/v1/alerts", json={"topic": topic, "title": title, **fields}).json()
    return alert


async def indexed(node: Node) -> None:
    """Wait until the indexer has reached the last alert."""
    query = (
        "SELECT (SELECT max(seq) FROM alert_search) = (SELECT max(seq) FROM alerts)"
        " AND NOT EXISTS (SELECT FROM search_changes)"
    )
    await eventually(lambda: _is_true(node, query))


async def _is_true(node: Node, query: str) -> bool:
    return bool((await node.sql(query))[0][0])


@pytest.mark.parametrize("wait", [False, True])
async def test_alerts_are_found_by_their_words_at_once_and_when_they_are_indexed(
    lenient: Node, rest: httpx2.Client, topic: str, *, wait: bool
) -> None:
    post(rest, topic, "Card acceptance below 80 %", body="Acquirer X times out.")
    post(rest, topic, "Disk full", body="on Größe-7")
    post(rest, topic, "Card reader offline")
    if wait:
        await indexed(lenient)
    for words, titles in (
        ("card", {"Card acceptance below 80 %", "Card reader offline"}),
        ("CARD acquirer", {"Card acceptance below 80 %"}),
        ('"card reader"', {"Card reader offline"}),
        ('"reader card"', set()),
        ("disk or reader", {"Disk full", "Card reader offline"}),
        ("card -reader", {"Card acceptance below 80 %"}),
        ("größe", {"Disk full"}),
        ("acc", {"Card acceptance below 80 %"}),
        ('"acc"', set()),
        ("cceptance", set()),
        ("' OR 1=1 --", set()),
        ("& | ! ( :*", set()),
    ):
        assert found(rest, topic, q=words) == titles, words


@pytest.mark.parametrize("wait", [False, True])
async def test_alerts_are_found_as_people_type(lenient: Node, rest: httpx2.Client, topic: str, *, wait: bool) -> None:
    host, chinese, thai = "db1.eu.prod: replication_lag", "支付服务\uff1a数据库连接错误", "ฐานข้อมูลล่ม"
    attributes = {"pod": "cart-7f9c", "labels": {"codes": ["E-5012", 91.5], "owner": "Straße"}, "ok": True}
    post(rest, topic, host, body="payment_service wrote /var/log/nginx/app.log, see 10.0.0.12")
    post(rest, topic, chinese, body="\uff44\uff42\uff19 🔥磁盘")
    post(rest, topic, thai, body="サーバーが停止")
    alert_id = post(rest, topic, "attributes", attributes=attributes)["id"]
    long = post(rest, topic, "x" * 190, body="web-399.eu " * 300 + "web-1.us")["title"]
    if wait:
        await indexed(lenient)
    for words, titles in (
        ("db1", {host}),
        ("eu.prod", {host}),
        ("DB1.EU", {host}),
        ("prod.eu", set()),
        ("payment_service", {host}),
        ("payment", {host}),
        ("service", {host}),
        ('"payment service"', {host}),
        ('"payment_serv"', set()),
        ("app.log", {host}),
        ("nginx/app", {host}),
        ("log/app", set()),
        ("10.0.0.1", {host}),
        ('"10.0.0.1"', set()),
        ("repl", {host}),
        ("replication-lag", {host}),
        ("lication", set()),
        ("数据库", {chinese}),
        ("据库连", {chinese}),
        ("误", {chinese}),
        ("数库", set()),
        ('"支付"', {chinese}),
        ("支付 错误", {chinese}),
        ("数据库 -错误", set()),
        ("db9", {chinese}),
        ("🔥", {chinese}),
        ("磁盘 or 停止", {chinese, thai}),
        ("サーバ", {thai}),
        ("ข้อมูล", {thai}),
        ("ข้อมูล -停", set()),
        ("cart-7f9c", {"attributes"}),
        ("E-5012", {"attributes"}),
        ("91.5", {"attributes"}),
        ("STRASSE or straße", {"attributes"}),
        ("codes", set()),
        ("91.5.straße", set()),
        ("true", set()),
        ("billing db1", {host}),
        (f"{topic[:20]} -billing", set()),
        (f"{topic} pod or repl", {host}),
        (alert_id, {"attributes"}),
        (alert_id.upper(), {"attributes"}),
        (f"{alert_id} or db1", {"attributes", host}),
        (f"billing -{alert_id} -xxx", {host, chinese, thai}),
        ("x" * 190, {long}),
        ("x" * 191, set()),
        ("web-1.us", {long}),
        ("“web 399”", {long}),
    ):
        assert found(rest, topic, q=words) == titles, words


@pytest.mark.parametrize("wait", [False, True])
async def test_alerts_are_found_by_what_their_attributes_hold(
    lenient: Node, rest: httpx2.Client, topic: str, *, wait: bool
) -> None:
    post(rest, topic, "one", attributes={"acquirer": "X", "codes": [91, 5], "at": {"dc": "eu"}})
    post(rest, topic, "two", attributes={"acquirer": "X", "rate": 0.5})
    post(rest, topic, "none")
    if wait:
        await indexed(lenient)
    for attributes, titles in (
        ({"acquirer": "X"}, {"one", "two"}),
        ({"acquirer": "X", "rate": 0.5}, {"two"}),
        ({"codes": [5]}, {"one"}),
        ({"at": {"dc": "eu"}}, {"one"}),
        ({"acquirer": "x"}, set()),
        ({}, {"one", "two", "none"}),
    ):
        assert found(rest, topic, attributes=json.dumps(attributes)) == titles, attributes


@pytest.mark.parametrize("wait", [False, True])
async def test_a_repeated_alert_is_found_by_what_it_says_now(
    lenient: Node, rest: httpx2.Client, topic: str, *, wait: bool
) -> None:
    for level, attributes in (("eighty", {"full": 80}), ("ninety", {"full": 90}), ("hundred", {"full": 97})):
        post(rest, topic, "disk", dedup_key="d", body=level, attributes=attributes)
        if wait:
            await indexed(lenient)
    for words, titles in (("hundred", {"disk"}), ("eighty", set()), ("ninety", set())):
        assert found(rest, topic, q=words) == titles, words
    for full, titles in ((97, {"disk"}), (80, set())):
        assert found(rest, topic, attributes=json.dumps({"full": full})) == titles, full


def test_filters_narrow_together(rest: httpx2.Client, lenient: Node, topic: str) -> None:
    post(rest, topic, "cart slow", severity="error", attributes={"host": "a"})
    with lenient.rest("shipping") as other:
        late = post(other, topic, "cart gone", severity="error", attributes={"host": "a"})
    at = datetime.fromisoformat(late["created_at"])
    hour = timedelta(hours=1)
    for query, titles in (
        ({"source": ["billing", "shipping"]}, {"cart slow", "cart gone"}),
        ({"source": "shipping", "q": "cart"}, {"cart gone"}),
        ({"source": "nobody"}, set()),
        ({"since": late["created_at"]}, {"cart gone"}),
        ({"until": late["created_at"]}, {"cart slow"}),
        ({"since": (at - hour).isoformat(), "until": (at + hour).isoformat(), "q": "slow"}, {"cart slow"}),
        ({"q": "cart", "attributes": '{"host": "a"}', "min_severity": "critical"}, set()),
    ):
        assert found(rest, topic, **query) == titles, query


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("q", ""),
        ("q", " "),
        ("q", "a\x00b"),
        ("q", "x" * 201),
        ("q", "-a or " * 21),
        ("q", "\uff0dqa " * 21),
        ("q", "\ufe63qa " * 21),
        ("q", "\ufdfa" * 12),
        ("attributes", "{"),
        ("attributes", "[]"),
        ("attributes", '{"a": "\\u0000"}'),
        ("attributes", '{"a": 1e300}'),
        ("attributes", '{"a": "' + "x" * 2000 + '"}'),
        ("since", "yesterday"),
        ("until", "2026-01-01T00:00:00"),
        ("source", ""),
    ],
)
def test_what_cannot_be_searched_for_is_refused(rest: httpx2.Client, name: str, value: str) -> None:
    answer = rest.get("/v1/alerts", params={name: value})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert name in answer.json()["detail"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from('-----""!&|():*\'<>\\ ao_1é'), min_size=1, max_size=200))
@example("-" * 20)
@example("-" * 200)
@example("-a " * 20)
@example("\uff0da " * 20)
@example("payment-service " * 12)
@example("!-" * 20 + '"')
@example("-" * 20 + " or " + "'" * 100)
@example('-"' * 20)
@example('"-' * 20)
def test_any_words_are_searched_for_or_refused(rest: httpx2.Client, words: str) -> None:
    answer = rest.get("/v1/alerts", params={"q": words})
    excluded = sum(term.is_excluded for group in parse(words) for term in group)
    assert answer.status_code == (422 if excluded > EXCLUDED_MAX or not words.strip() else 200)


async def test_a_search_is_paged_and_complete_while_the_index_is_behind(
    node: Node, database_url: str, topic: str
) -> None:
    numbers = list(range(60))
    random.Random(7).shuffle(numbers)
    database = Database(parse_url(database_url), StorageSettings())
    with node.rest() as rest:
        for number in numbers:
            post(rest, topic, f"item {number}", body="even" if number % 2 == 0 else "odd")
            if number % 20 == 0:
                await SearchIndexer(database).advance()
        titles: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = rest.get("/v1/alerts", params={"q": "even", "limit": 7, **cursor}).json()
            titles += [alert["title"] for alert in page["alerts"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
    await database.close()
    assert titles == [f"item {number}" for number in reversed(numbers) if number % 2 == 0]


async def test_nothing_is_indexed_twice_or_left_out_where_two_nodes_index(database_url: str, node: Node) -> None:
    await node.post_all([{"title": f"item {number}"} for number in range(300)])
    database = Database(parse_url(database_url), StorageSettings())
    await eventually(lambda: _is_true(node, "SELECT count(*) = 300 FROM alert_search"))
    assert await SearchIndexer(database).advance() == 0
    rows = await node.sql("SELECT count(*) FROM alert_search JOIN alerts USING (seq)")
    assert rows[0][0] == 300
    await database.close()


def test_the_age_of_an_alert_is_what_since_and_until_ask_for(rest: httpx2.Client, topic: str) -> None:
    post(rest, topic, "now")
    ahead = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert found(rest, topic, since=ahead) == set()
    assert found(rest, topic, until=ahead) == {"now"}


async def test_what_is_paid_while_the_log_is_locked_grows_with_no_recipients(node: Node) -> None:
    """A GIN index of the alerts is merged by whoever fills its pending list: half a second in a commit."""
    rows = await node.sql(
        "SELECT indexname FROM pg_indexes WHERE tablename ~ '^(alerts|events)' AND indexdef ~ ' gin '"
    )
    assert rows == []
