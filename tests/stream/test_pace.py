"""What a correct client sends as often as it is sent events, and how often one may open a stream."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed

from service.settings import Settings
from tests.harness import READ, eventually
from tests.http_streams import PATH, EventSource, Poller
from tests.stream.conftest import FEW, READS, REJECTIONS

if TYPE_CHECKING:
    from tests.harness import Node

ALERTS = 4 * READS


async def received(node: Node, subject: str) -> int | None:
    rows = await node.sql("SELECT seq FROM resume_points WHERE recipient = $1", subject)
    return rows[0]["seq"] if rows else None


async def storm(node: Node) -> None:
    async with node.http() as client:
        answer = await client.post("/v1/alerts/batch", json=[{"title": f"alert {number}"} for number in range(ALERTS)])
    assert {one["status"] for one in answer.json()["results"]} == {201}


async def test_a_client_that_acknowledges_and_reports_each_event_of_a_storm_stays(narrow: Node, subject: str) -> None:
    async with await narrow.live(subject, after="latest") as stream:
        await storm(narrow)
        for event in await stream.events(ALERTS):
            await stream.ack(event["seq"])
            await stream.send({"type": "seen", "alerts": [event["alert"]["id"]]})
        await eventually(lambda: is_received(narrow, subject, event["seq"]))
        for _ in range(FEW):
            await stream.ack(event["seq"])
        await stream.ack(event["seq"])
        error = await stream.next_of("error")
        assert error["code"] == "rate_limited"
        assert 60 < error["retry_after"] <= 1200
        await stream.ack(event["seq"])
        assert await stream.closed() == (1008, "rate_limited")


async def is_received(node: Node, subject: str, seq: int) -> bool:
    return await received(node, subject) == seq


async def test_acknowledging_each_event_of_a_storm_over_rest_is_no_query(narrow: Node, subject: str) -> None:
    async with EventSource(narrow, subject) as source:
        await source.live(after="latest")
        await storm(narrow)
        for event in await source.events(ALERTS):
            assert await source.ack(event["seq"]) == event["seq"]
        repeated = {"connection": source.connection, "seq": event["seq"]}
        answers = [await source.http.post(f"{PATH}/ack", json=repeated) for _ in range(FEW + 1)]
        assert [answer.status_code for answer in answers] == [200] * FEW + [429]
        await storm(narrow)
        for event in await source.events(ALERTS):
            assert await source.ack(event["seq"]) == event["seq"]


async def test_a_poll_that_acknowledges_events_is_no_query(narrow: Node, subject: str) -> None:
    async with Poller(narrow, subject) as poller:
        await poller.poll(after="latest")
        for _ in range(10):
            await storm(narrow)
            seqs: list[int] = []
            while len(seqs) < ALERTS:
                seqs += [event["seq"] for event in (await poller.poll(wait=30))["events"]]
        await poller.poll()  # acknowledges the last events
        query = {"after": poller.after, "connection": poller.connection, "wait": 0}
        answers = [await poller.http.get(PATH, params=query) for _ in range(FEW)]
        # The second poll had nothing to acknowledge.
        assert [answer.status_code for answer in answers] == [200] * (FEW - 1) + [429]


# Opening streams.


async def rejections(node: Node, subject: str) -> list[Any]:
    return await node.sql("SELECT reason, path FROM handshake_rejections WHERE subject = $1", subject)


async def test_who_opens_streams_in_a_loop_has_to_wait_and_fills_no_ledger(narrow: Node, subject: str) -> None:
    reasons: list[str] = []
    for _ in range(FEW + REJECTIONS + 5):
        async with await narrow.stream(subject) as stream:
            if (await first_of(stream))["type"] == "welcome":
                continue
        reasons.append(stream.connection.close_reason or "")
    assert len(reasons) == REJECTIONS + 5
    assert all(re.fullmatch(r"rate_limited: wait \d+ s", reason) for reason in reasons)
    await eventually(lambda: is_count(narrow, "connections", "recipient", subject, FEW))
    assert len(await rejections(narrow, subject)) <= REJECTIONS
    async with narrow.http(subject, READ) as client:
        sse = await client.get(PATH, headers={"Accept": "text/event-stream"})
        poll = await client.get(PATH, params={"wait": 0})
    for refused in (sse, poll):
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert f"The limit is {FEW} new streams in 3600 s; 0 are left" in refused.json()["detail"]
        assert 0 < int(refused.headers["retry-after"]) <= 1200
    async with await narrow.live(f"{subject} of another"):
        pass


async def first_of(stream: Any) -> dict[str, Any]:
    """Return the first frame, or that nothing came before the close."""
    try:
        frame: dict[str, Any] = await stream.next()
    except ConnectionClosed:
        return {"type": "close"}
    return frame


async def is_count(node: Node, table: str, column: str, value: str, count: int) -> bool:
    rows = await node.sql(f"SELECT count(*) FROM {table} WHERE {column} = $1", value)
    return bool(rows[0][0] == count)


async def test_every_tab_of_an_admin_may_come_back_several_times_after_a_deploy(lenient: Node, subject: str) -> None:
    tabs = Settings().stream.connections_per_recipient
    for _ in range(4):
        streams = [await lenient.live(subject) for _ in range(tabs)]
        for stream in streams:
            await stream.close()
        await eventually(lambda: is_count_open(lenient, subject, 0))


async def is_count_open(node: Node, subject: str, count: int) -> bool:
    rows = await node.sql("SELECT count(*) FROM connections WHERE recipient = $1 AND closed_at IS NULL", subject)
    return bool(rows[0][0] == count)
