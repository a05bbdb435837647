"""CloudEvents as the SDK sends them, and as nobody should."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.harness import Node

PATH = "/v1/integrations/cloudevents"
CONTEXT = {
    "source": "/payments/eu",
    "type": "com.example.Payment.Failed",
    "subject": "order 4711",
    "time": datetime(2026, 11, 21, 9, 41, tzinfo=UTC),
    "datacontenttype": "application/json",
}


def fresh() -> str:
    """Return the id of an event that nobody has sent."""
    return uuid.uuid4().hex


def event(data: Any = None, **attributes: Any) -> CloudEvent:
    return CloudEvent({"id": fresh(), **CONTEXT, **attributes}, data)


async def post(
    node: Node, headers: Mapping[str, str], body: bytes | str | None, status: int = 201, **claims: Any
) -> Any:
    async with node.http(**claims) as client:
        response = await client.post(PATH, headers=dict(headers), content=body or b"")
    assert response.status_code == status, response.text
    return response.json()


async def structured(node: Node, value: Any, status: int = 201, media: str = "application/cloudevents+json") -> Any:
    return await post(node, {"Content-Type": media}, json.dumps(value), status)


def wire(**attributes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": fresh(), "source": "/s", "type": "t", **attributes}


async def test_an_event_of_the_sdk_is_an_alert(lenient: Node) -> None:
    for mode in (to_binary_event, to_structured_event):
        sent = event({"rate": 0.78, "ünïcode": "é"}, severity="critical", dedupkey=fresh())
        message = mode(sent)
        alert = await post(lenient, message.headers, message.body)
        assert (alert["topic"], alert["severity"]) == ("com.example.payment.failed", "critical")
        assert (alert["title"], alert["dedup_key"]) == (
            "com.example.Payment.Failed: order 4711",
            sent.get_attributes()["dedupkey"],
        )
        kept = alert["attributes"]["cloudevent"]
        assert kept["data"] == {"rate": 0.78, "ünïcode": "é"}
        assert (kept["id"], kept["time"]) == (sent.get_id(), "2026-11-21T09:41:00Z")
        held = json.dumps({"cloudevent": {"id": sent.get_id()}})
        assert len(await lenient.sql("SELECT FROM alerts WHERE attributes @> $1", held)) == 1


async def test_a_query_that_a_broker_adds_is_ignored_and_another_one_refused(lenient: Node) -> None:
    async with lenient.http() as client:
        for query, status in (("__GCP_CloudEventsMode=CE_PUBSUB_BINDING", 201), ("_topic=a", 422), ("topic=a", 422)):
            answer = await client.post(
                f"{PATH}?{query}", json=wire(), headers={"Content-Type": "application/cloudevents+json"}
            )
            assert answer.status_code == status, answer.text


async def test_text_of_the_sdk_is_the_body(lenient: Node) -> None:
    text = to_binary_event(event("Acquirer X times out.", datacontenttype="text/plain"))
    assert (await post(lenient, text.headers, text.body))["body"] == "Acquirer X times out."


async def test_an_event_that_is_delivered_again_is_stored_once_whatever_a_broker_added(lenient: Node) -> None:
    known = fresh()
    first = to_binary_event(event({"a": 1}, id=known))
    again = to_structured_event(event({"a": 1}, id=known, traceparent="00-1"))
    other = to_structured_event(event({"a": 1}, id=known, source="/payments/us"))
    async with lenient.http() as client:
        answers = [
            await client.post(PATH, headers=dict(message.headers), content=message.body)
            for message in (first, again, other)
        ]
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", None]
    assert answers[0].json() == answers[1].json()
    assert answers[2].json()["seq"] == answers[0].json()["seq"] + 1


async def test_each_event_of_a_batch_is_answered_by_itself(lenient: Node) -> None:
    one, two = wire(), wire()
    events = [one, wire(specversion="0.3"), two, "no event", one, wire(type="")]
    answer = await structured(lenient, events, 200, "application/cloudevents-batch+json")
    assert [result["status"] for result in answer["results"]] == [201, 422, 201, 422, 201, 422]
    assert answer["results"][4] == {**answer["results"][0], "replayed": True}
    assert answer["results"][2]["seq"] == answer["results"][0]["seq"] + 1
    assert (await structured(lenient, [], 200, "application/cloudevents-batch+json"))["results"] == []


@pytest.mark.parametrize("data", [5, "!!!", "YQ", "YQ=", "YQ==\n", "Y-_=", "é", ["YQ=="], {}, False])
async def test_binary_data_that_is_not_base64_is_refused(lenient: Node, data: Any) -> None:
    refused = await structured(lenient, wire(data_base64=data), 422)
    assert refused["detail"] == "data_base64 must be text in base64 with its padding (RFC 4648, section 4)."


async def test_binary_data_is_kept_as_it_is_and_a_severity_read_in_any_case(lenient: Node) -> None:
    for data in ("", "YQ==", "++//"):
        alert = await structured(lenient, wire(data_base64=data, severity="CRITICAL"))
        assert alert["attributes"]["cloudevent"]["data_base64"] == data
        assert (alert["severity"], alert["attributes"]["cloudevent"]["severity"]) == ("critical", "CRITICAL")


async def test_what_cannot_be_read_is_refused(lenient: Node) -> None:
    assert (await post(lenient, {"Content-Type": "application/cloudevents+json"}, "{", 400))[
        "code"
    ] == "malformed_request"
    assert (await post(lenient, {"Content-Type": "application/json"}, "{}", 415))["code"] == "unsupported_media_type"
    assert (await post(lenient, {"Content-Type": "application/cloudevents+xml"}, "<a/>", 415))["status"] == 415
    too_many = [wire(id=str(number)) for number in range(1_001)]
    assert (await structured(lenient, too_many, 422, "application/cloudevents-batch+json"))["code"] == "invalid_request"
    assert (await structured(lenient, {}, 422, "application/cloudevents-batch+json"))["code"] == "invalid_request"
    body = json.dumps(wire())
    headers = {"Content-Type": "application/cloudevents+json"}
    assert (await post(lenient, headers, body, 403, topics=["other"]))["code"] == "topic_forbidden"
    assert (await post(lenient, headers, body, 403, scope="alerts:read"))["code"] == "scope_missing"
