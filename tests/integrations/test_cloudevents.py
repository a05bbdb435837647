"""CloudEvents as the SDK sends them, and as nobody should."""

from __future__ import annotations

import json
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
    "id": "A234-1234",
    "source": "/payments/eu",
    "type": "com.example.Payment.Failed",
    "subject": "order 4711",
    "time": datetime(2026, 11, 21, 9, 41, tzinfo=UTC),
    "datacontenttype": "application/json",
}


def event(data: Any = None, **attributes: Any) -> CloudEvent:
    return CloudEvent({**CONTEXT, **attributes}, data)


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
    return {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **attributes}


@pytest.mark.parametrize("mode", [to_binary_event, to_structured_event])
async def test_an_event_of_the_sdk_is_an_alert(node: Node, mode: Any) -> None:
    message = mode(event({"rate": 0.78, "ünïcode": "é"}, severity="critical", dedupkey="x"))
    alert = await post(node, message.headers, message.body)
    assert (alert["topic"], alert["severity"]) == ("com.example.payment.failed", "critical")
    assert (alert["title"], alert["dedup_key"]) == ("com.example.Payment.Failed: order 4711", "x")
    kept = alert["attributes"]["cloudevent"]
    assert kept["data"] == {"rate": 0.78, "ünïcode": "é"}
    assert (kept["id"], kept["source"], kept["time"]) == ("A234-1234", "/payments/eu", "2026-11-21T09:41:00Z")
    assert await node.sql(
        "SELECT 1 FROM alerts WHERE attributes @> $1", json.dumps({"cloudevent": {"id": "A234-1234"}})
    )


async def test_data_may_say_title_and_body_and_an_extension_the_topic(node: Node) -> None:
    message = to_binary_event(event({"title": "Card acceptance below 80 %", "body": "More."}, topic="payments.eu"))
    alert = await post(node, message.headers, message.body)
    assert (alert["topic"], alert["title"], alert["body"]) == ("payments.eu", "Card acceptance below 80 %", "More.")


async def test_an_event_that_is_delivered_again_is_stored_once_whatever_a_broker_added(node: Node) -> None:
    first = to_binary_event(event({"a": 1}))
    again = to_structured_event(event({"a": 1}, traceparent="00-1"))
    other = to_structured_event(event({"a": 1}, source="/payments/us"))
    async with node.http() as client:
        answers = [
            await client.post(PATH, headers=dict(message.headers), content=message.body)
            for message in (first, again, other)
        ]
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", None]
    assert answers[0].json() == answers[1].json()
    assert [row[0] for row in await node.sql("SELECT count(*) FROM alerts")] == [2]


async def test_each_event_of_a_batch_is_answered_by_itself(node: Node) -> None:
    events = [wire(), wire(id="2", specversion="0.3"), wire(id="3"), "no event", wire(), wire(id="4", type="")]
    answer = await structured(node, events, 200, "application/cloudevents-batch+json")
    assert [result["status"] for result in answer["results"]] == [201, 422, 201, 422, 201, 422]
    assert answer["results"][4] == {**answer["results"][0], "replayed": True}
    assert (await structured(node, [], 200, "application/cloudevents-batch+json"))["results"] == []
    assert [row[0] for row in await node.sql("SELECT count(*) FROM alerts")] == [2]


async def test_text_and_bytes_are_kept(node: Node) -> None:
    text = to_binary_event(event("Acquirer X times out.", datacontenttype="text/plain"))
    alert = await post(node, text.headers, text.body)
    assert alert["body"] == alert["attributes"]["cloudevent"]["data"] == "Acquirer X times out."
    headers = {"ce-specversion": "1.0", "ce-id": "2", "ce-source": "/s", "ce-type": "t"}
    alert = await post(node, {**headers, "Content-Type": "application/octet-stream"}, b"\x00\xff")
    assert alert["attributes"]["cloudevent"]["data_base64"] == "AP8="


async def test_headers_are_percent_decoded_and_unquoted(node: Node) -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/s",
        "ce-type": '"a \\"b\\""',
        "ce-subject": "%C3%A9",
    }
    assert (await post(node, headers, None))["title"] == 'a "b": é'


async def test_data_that_attributes_cannot_hold_does_not_keep_the_event_out(node: Node) -> None:
    large = await structured(node, wire(data={"log": "x" * 20_000}))
    assert large["attributes"]["cloudevent"]["data_omitted"]["bytes"] == 20_010
    assert large["attributes"]["cloudevent"]["id"] == "1"
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    kept = await structured(node, wire(id="2", data={"deep": deep, "big": 2**60, "nul": "\0"}))
    assert json.loads(kept["attributes"]["cloudevent"]["data_json"]) == {"deep": deep, "big": 2**60, "nul": "\0"}
    wide = await structured(node, wire(id="3", subject="s" * 30_000, other="o" * 30_000, data=1))
    assert wide["attributes"]["truncated"] is True
    assert wide["attributes"]["cloudevent"]["source"] == "/s"


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ([], "must be a JSON object"),
        ({"id": "1"}, "specversion must be 1.0"),
        (wire(specversion="0.3"), "is not 1.0"),
        (wire(id=None), "needs id"),
        (wire(source=" "), "needs source"),
        (wire(Type="x"), "no name of an attribute"),
        (wire(extension={"a": 1}), "must be text, a boolean or an integer of 32 bits"),
        (wire(data=1, data_base64="AA=="), "not both"),
    ],
)
async def test_what_is_no_event_is_refused(lenient: Node, value: Any, detail: str) -> None:
    assert detail in (await structured(lenient, value, 422))["detail"]


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
