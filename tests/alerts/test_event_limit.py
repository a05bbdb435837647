"""The limit on events, over the wire: who is refused, who is cut, and what a client reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from service.alerts.event_size import HEADROOM, alert_max_bytes
from service.settings import EVENT_MAX_BYTES, Settings, StorageSettings
from tests.harness import READ, WRITE, serving
from tests.http_streams import EventSource, Poller

if TYPE_CHECKING:
    from tests.harness import Node, Stream

RAISED = Settings(storage=StorageSettings(event_max_bytes=256 * 1024))
LARGE = {"title": "t", "body": "\n" * 15_000}
SMALL_READER = {"max_size": EVENT_MAX_BYTES}
"""What coder/websocket, in Go, reads by default."""
MANAGE = f"{READ} {WRITE} alerts:manage"


async def events(stream: Stream, count: int) -> list[dict[str, Any]]:
    async with stream:
        return await stream.events(count)


async def test_an_alert_over_the_limit_is_refused_with_the_limit_alone_and_in_a_batch(node: Node) -> None:
    async with node.http() as client:
        refused = await client.post("/v1/alerts", json=LARGE)
        assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")
        assert f"At most {alert_max_bytes(EVENT_MAX_BYTES)} are allowed" in refused.json()["detail"]
        keyed = await client.post("/v1/alerts", json={**LARGE, "dedup_key": "k"})
        assert keyed.status_code == 413
        batch = await client.post("/v1/alerts/batch", json=[{"title": "a"}, LARGE, {"title": "b"}])
        assert [result["status"] for result in batch.json()["results"]] == [201, 413, 201]
    assert len(await node.sql("SELECT FROM alerts")) == 2


async def test_a_raised_limit_is_announced_and_what_was_stored_under_it_is_delivered_and_acted_on_later(
    database_url: str,
) -> None:
    with serving(database_url, RAISED) as node:
        posted = await node.post(**LARGE)
        async with await node.stream(after=0) as stream:
            assert (await stream.next())["event_bytes"] == 256 * 1024
    with serving(database_url) as node:
        async with node.http("ann", MANAGE) as client:
            path = f"/v1/alerts/{posted['id']}"
            assert (await client.post(f"{path}/acknowledge")).status_code == 200
            assert (await client.post(f"{path}/comments", json={"text": "x" * 3_000})).status_code == 201
            assert (await client.post(f"{path}/comments", json={"text": "x" * 4_000})).status_code == 413
        kinds = [event["kind"] for event in await events(await node.stream(after=0), 3)]
        assert kinds == ["alert.created", "alert.acknowledged", "alert.commented"]


async def test_every_transport_announces_the_largest_event(node: Node) -> None:
    async with Poller(node) as poller, EventSource(node) as source, await node.stream() as stream:
        await source.open()
        for welcome in ((await poller.poll())["welcome"], await source.next(), await stream.next()):
            assert welcome["event_bytes"] == EVENT_MAX_BYTES


async def test_numbers_that_postgres_writes_out_take_no_more_room_in_a_later_event(node: Node) -> None:
    numbers = {"n": [1e19] * 2_700}  # 16 KiB, which jsonb writes in 57,000
    alert = await node.post(attributes=numbers, body="x" * 8_000)
    async with node.http("ann", MANAGE) as client:
        assert (await client.post(f"/v1/alerts/{alert['id']}/acknowledge")).status_code == 200
    first, second = await events(await node.stream(after=0, options=SMALL_READER), 2)
    assert first["alert"]["attributes"] == second["alert"]["attributes"] == numbers


async def test_numbers_are_answered_as_they_were_posted_though_postgres_writes_their_digits_out(node: Node) -> None:
    numbers = {"n": 2.26797932753915e17, "deep": [{"n": -1e19}], "integer": 2**53 - 1}
    posted = await node.post(attributes=numbers)
    async with node.http("ann", MANAGE) as client:
        acknowledged = (await client.post(f"/v1/alerts/{posted['id']}/acknowledge")).json()
        listed = (await client.get("/v1/alerts")).json()["alerts"]
        found = (await client.get(f"/v1/alerts/{posted['id']}")).json()
    for alert in (posted, acknowledged, found, *listed):
        assert repr(alert["attributes"]["n"]) == "2.26797932753915e+17"
        assert repr(alert["attributes"]["deep"]) == "[{'n': -1e+19}]"
        assert repr(alert["attributes"]["integer"]) == f"{2**53 - 1}"


MEDIUM = '語"\\\n' * 1_700
"""A body that an alert may have, and attributes, but not both in one alert."""
LONG = 3 * MEDIUM
INTEGRATIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "alertmanager": (
        "application/json",
        {
            "alerts": [
                {
                    "fingerprint": "f",
                    "labels": {"alertname": LONG, **{f"l{number}": LONG for number in range(30)}},
                    "annotations": {"description": LONG, "runbook_url": "https://x/" + "語" * 1_900},
                    "generatorURL": "https://x/" + "語" * 1_900,
                }
            ]
        },
        "truncated",
    ),
    "cloudevents": (
        "application/cloudevents+json",
        {
            "specversion": "1.0",
            "id": "1",
            "source": "s",
            "type": "t",
            "data": {"body": MEDIUM},
        },
        "data_omitted",
    ),
    "apprise": ("application/json", {"title": LONG, "message": LONG, "extra": LONG[:16_000]}, "truncated"),
}


@pytest.mark.parametrize("integration", INTEGRATIONS)
async def test_an_integration_cuts_what_is_too_large(node: Node, integration: str) -> None:
    media, payload, mark = INTEGRATIONS[integration]
    async with node.http() as client:
        path = f"/v1/integrations/{integration}"
        answer = await client.post(path, content=json.dumps(payload), headers={"Content-Type": media})
    assert answer.status_code in {200, 201}, answer.text
    [event] = await events(await node.stream(after=0, options=SMALL_READER), 1)
    assert mark in json.dumps(event["alert"]["attributes"])
    assert event["alert"]["body"].startswith("語")
    size = len(json.dumps(event["alert"], ensure_ascii=False).encode())
    assert EVENT_MAX_BYTES / 4 < size <= EVENT_MAX_BYTES - HEADROOM + 1_000  # json has blanks after commas
