from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect

from service.settings import LimitSettings, Settings, StreamSettings
from tests.harness import WEBSOCKET, WRITE, Node, Stream, eventually, serving, token
from tests.stream.conftest import post_and_fan_out

if TYPE_CHECKING:
    from collections.abc import Sequence

V1 = "tocsin.v1"
ELSEWHERE = "https://elsewhere.example"


def bearer(subject: str = "alice", scope: str = "alerts:read", **claims: Any) -> str:
    return f"bearer.{token(subject, scope, **claims)}"


async def attempt(node: Node, *subprotocols: str, query: str = "", **options: Any) -> Stream:
    offered: Any = subprotocols or None
    return Stream(await connect(f"{node.ws}?{query}", subprotocols=offered, **{**WEBSOCKET, **options}))


async def recipient_of(stream: Stream) -> str:
    async with stream:
        return str((await stream.next_of("welcome"))["recipient"])


def unique() -> str:
    return uuid.uuid4().hex


async def test_an_alert_reaches_an_admin_who_is_connected(node: Node) -> None:
    stream = await node.live()
    alert = await node.post("Card acceptance below 80 %", topic="payments.eu", severity="critical")
    event = await stream.next_of("event")
    assert (event["seq"], event["kind"], event["actor"]) == (alert.pop("seq"), "alert.created", "billing")
    assert event["alert"] == alert
    await stream.close()


# The handshake; its cases are in test_websocket_handshake.py.


async def test_a_token_is_taken_from_the_header_a_subprotocol_or_the_query(shared: Node) -> None:
    headers = {"Authorization": f"Bearer {token('header')}"}
    assert await recipient_of(await attempt(shared, additional_headers=headers)) == "header"
    assert await recipient_of(await attempt(shared, query=f"to%6Ben={token('query')}")) == "query"
    async with await attempt(shared, "other", V1, bearer("subprotocol")) as stream:
        assert stream.connection.subprotocol == V1
        response = stream.connection.response
        assert response is not None
        assert "bearer" not in str(list(response.headers.raw_items()))
        assert (await stream.next_of("welcome"))["recipient"] == "subprotocol"


async def test_a_client_that_offers_compression_is_given_none(shared: Node) -> None:
    async with await attempt(shared, V1, bearer(), compression="deflate") as stream:
        assert stream.connection.request is not None
        assert "permessage-deflate" in stream.connection.request.headers["Sec-WebSocket-Extensions"]
        assert stream.connection.response is not None
        assert "Sec-WebSocket-Extensions" not in stream.connection.response.headers
        await stream.next_of("caught_up")


# Rejections.

REJECTED: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "no token": ("token_missing", None, {}),
    "another scope": ("scope_missing", "alice", {"subprotocols": [bearer(scope=f"{WRITE} admin")]}),
    "a page of another site": ("origin_forbidden", None, {"subprotocols": [bearer()], "origin": ELSEWHERE}),
    "a query that cannot be read": (
        "invalid_request",
        "alice",
        {"subprotocols": [bearer()], "query": "after=" + "9" * 5000},
    ),
}


async def rejections(node: Node, agent: str) -> list[dict[str, Any]]:
    query = "SELECT remote_addr, path, reason, subject, origin FROM handshake_rejections WHERE user_agent = $1"
    return [dict(row) for row in await node.sql(query, agent)]


@pytest.mark.parametrize("case", REJECTED)
async def test_a_rejected_handshake_learns_why_and_nothing_else(shared: Node, case: str) -> None:
    reason, subject, options = REJECTED[case]
    agent = unique()
    subprotocols = options.get("subprotocols", ())
    others = {name: value for name, value in options.items() if name != "subprotocols"}
    async with await attempt(shared, V1, *subprotocols, user_agent_header=agent, **others) as stream:
        assert stream.connection.subprotocol == V1
        code, said = await stream.closed()
        assert (code, said.partition(":")[0]) == (1008, reason)
        assert stream.seen == []
    [row] = await eventually(lambda: rejections(shared, agent))
    assert row == {
        "remote_addr": "127.0.0.1",
        "path": "/v1/ws",
        "reason": reason,
        "subject": subject,
        "origin": options.get("origin"),
    }
    assert await shared.sql("SELECT FROM connections WHERE user_agent = $1", agent) == []


async def first_words(streams: Sequence[Stream]) -> list[str]:
    words = []
    for stream in streams:
        try:
            words.append((await stream.next())["type"])
        except Exception:  # noqa: BLE001 - it was refused
            words.append(stream.connection.close_reason)
    return words


async def test_streams_that_come_all_at_once_do_not_pass_the_limits_and_have_room_again_later(shared_url: str) -> None:
    one, other = unique(), unique()
    limits = StreamSettings(connections_per_recipient=3, connections_max=4)
    with serving(shared_url, Settings(stream=limits)) as node:
        streams = await asyncio.gather(*(node.stream(one) for _ in range(12)))
        assert sorted(await first_words(streams)) == sorted(["welcome"] * 3 + ["connection_limit"] * 9)
        others = await asyncio.gather(*(node.stream(other) for _ in range(3)))
        assert sorted(await first_words(others)) == sorted(["welcome"] + ["overloaded"] * 2)
        await eventually(lambda: are_rejected(node, {(one, "connection_limit"): 9, (other, "overloaded"): 2}))
        for stream in (*streams, *others):
            await stream.close()
        await eventually(lambda: is_welcome(node, one))


async def are_rejected(node: Node, numbers: dict[tuple[str, str], int]) -> bool:
    """Say whether the rejections of the subjects are these, by their reason."""
    rows = await node.sql(
        "SELECT subject, reason, count(*) FROM handshake_rejections WHERE subject = ANY ($1) GROUP BY 1, 2",
        [subject for subject, _ in numbers],
    )
    return {(row["subject"], row["reason"]): row["count"] for row in rows} == numbers


async def is_welcome(node: Node, subject: str) -> bool:
    async with await node.stream(subject) as stream:
        return await first_words([stream]) == ["welcome"]


async def test_an_address_that_shows_too_many_bad_tokens_is_limited_but_its_good_ones_are_let_in(
    shared_url: str,
) -> None:
    one = {"X-Forwarded-For": "203.0.113.7"}
    with serving(shared_url, Settings(limits=LimitSettings(auth_failure_limit="3/minute"))) as node:
        reasons = []
        for offered in ["bearer.bad", "bearer.bad", bearer(ttl_seconds=-1), "bearer.bad", "bearer.bad"]:
            async with await attempt(node, V1, offered, additional_headers=one) as stream:
                reasons.append((await stream.closed())[1])
                assert stream.seen == []
        assert reasons == ["token_invalid", "token_invalid", "token_expired", "rate_limited", "rate_limited"]
        assert await recipient_of(await attempt(node, V1, bearer(), additional_headers=one)) == "alice"
    rows = await node.sql("SELECT reason FROM handshake_rejections WHERE remote_addr = '203.0.113.7' ORDER BY at")
    assert [row[0] for row in rows] == ["token_invalid", "token_invalid", "token_expired"]


async def test_a_page_of_this_very_host_may_connect(shared: Node) -> None:
    assert await recipient_of(await attempt(shared, V1, bearer(), origin=shared.base)) == "alice"


# Where a stream starts.


async def test_the_welcome_says_where_the_log_stands_and_what_may_be_sent(shared: Node) -> None:
    subject = unique()
    head = await post_and_fan_out(shared)
    async with await shared.stream(subject, after=0) as stream:
        welcome = await stream.next()
    [row] = await eventually(lambda: shared.sql("SELECT * FROM connections WHERE recipient = $1", subject))
    assert welcome == {
        "type": "welcome",
        "connection": str(row["id"]),
        "recipient": subject,
        "head": head,
        "after": 0,
        "cursor": "0",
        "heartbeat_seconds": 15,
        "token_expires_at": row["token_expires_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "event_bytes": 32768,
        "limits": {"message_bytes": 16384, "messages": "200/second; 3000/minute"},
    }


async def started(stream: Stream) -> tuple[int, list[int], int]:
    """Return where a stream starts, the events that it replays, and where it has caught up."""
    async with stream:
        after = (await stream.next_of("welcome"))["after"]
        caught_up = await stream.next_of("caught_up")
        return after, [frame["seq"] for frame in stream.seen if frame["type"] == "event"], caught_up["seq"]


async def test_a_stream_starts_after_the_cursor_that_it_names(shared: Node) -> None:
    first = (await shared.post())["seq"]
    last = await post_and_fan_out(shared)
    assert await started(await shared.stream(after=first - 1)) == (first - 1, [first, last], last)
    assert await started(await shared.stream(after=first)) == (first, [last], last)
    assert await started(await shared.stream(after=last)) == (last, [], last)
    assert await started(await shared.stream(after="latest")) == (last, [], last)


async def test_an_admin_who_names_no_cursor_goes_on_after_what_they_acknowledged_anywhere(shared: Node) -> None:
    subject = unique()
    head = await post_and_fan_out(shared)
    assert await started(await shared.stream(subject)) == (head, [], head)
    async with await shared.live(subject) as one, await shared.live(subject) as other:
        seqs = [(await shared.post())["seq"] for _ in range(3)]
        await one.events(3)
        await other.events(3)
        await one.ack(seqs[1])
        await other.ack(seqs[0])
        await eventually(
            lambda: shared.sql("SELECT FROM resume_points WHERE recipient = $1 AND seq = $2", subject, seqs[1])
        )
        await eventually(
            lambda: shared.sql(
                "SELECT FROM receipts r JOIN connections c ON c.id = connection_id WHERE recipient = $1 AND seq = $2",
                subject,
                seqs[0],
            )
        )
    assert await started(await shared.stream(subject)) == (seqs[1], [seqs[2]], seqs[2])
    assert await started(await shared.stream(subject, after="latest")) == (seqs[2], [], seqs[2])


async def test_a_new_admin_who_names_no_cursor_starts_at_the_head(shared: Node) -> None:
    head = await post_and_fan_out(shared)
    assert await started(await shared.stream(unique())) == (head, [], head)


@pytest.mark.parametrize("ahead", [1, 2**63 - 1])
async def test_a_seq_ahead_of_the_log_is_reported_in_a_reset(shared: Node, ahead: int) -> None:
    head = await post_and_fan_out(shared)
    after = min(head + ahead, 2**63 - 1)
    async with await shared.stream(after=after) as stream:
        welcome, reset, caught_up = [await stream.next() for _ in range(3)]
        assert (welcome["head"], welcome["after"]) == (head, head)
        assert reset == {"type": "reset", "after": None, "cursor": welcome["cursor"]}
        assert caught_up == {"type": "caught_up", "seq": head, "cursor": welcome["cursor"]}
        alert = await shared.post()
        assert (await stream.next_of("event"))["seq"] == alert["seq"] == head + 1


async def test_a_cursor_before_the_first_event_that_is_kept_is_reported_in_a_gap(node: Node, database_url: str) -> None:
    for _ in range(6):
        await node.post()
    await node.sql("DELETE FROM events WHERE seq <= 4")
    with serving(database_url) as fresh:
        async with await fresh.stream(after=1) as stream:
            await stream.next_of("caught_up")
        assert [(frame["type"], frame.get("seq")) for frame in stream.seen[1:]] == [
            ("gap", None),
            ("event", 5),
            ("event", 6),
            ("caught_up", 6),
        ]
        assert stream.seen[1] == {"type": "gap", "from": 2, "to": 4, "reason": "purged"}
        assert await started(await fresh.stream(after=4)) == (4, [5, 6], 6)


# What a stream shows.


@pytest.mark.parametrize(
    ("granted", "query", "seen"),
    [
        (None, "topic=a,c", {"a", "c"}),
        (["a.*", "c"], "topic=" + quote("*"), {"a.b", "a.b.c", "c"}),
        (["a.b"], "topic=a.*", {"a.b"}),
    ],
)
async def test_a_stream_shows_the_topics_that_token_and_query_both_cover(
    shared: Node, granted: list[str] | None, query: str, seen: set[str]
) -> None:
    query = f"{query}&after={await post_and_fan_out(shared)}"
    async with await attempt(shared, V1, bearer(topics=granted), query=query) as live:
        await live.next_of("caught_up")
        for topic in ("a", "a.b", "a.b.c", "ab", "c"):
            await shared.post(topic=topic)
        assert {event["alert"]["topic"] for event in await live.events(len(seen))} == seen
    async with await attempt(shared, V1, bearer(topics=granted), query=query) as replayed:
        await replayed.next_of("caught_up")
    assert {frame["alert"]["topic"] for frame in replayed.seen if frame["type"] == "event"} == seen


@pytest.mark.parametrize(("least", "seen"), [("warning", 3), ("critical", 1)])
async def test_a_stream_shows_the_least_severity_that_it_asked_for_and_above(
    shared: Node, least: str, seen: int
) -> None:
    severities = ["info", "warning", "error", "critical"]
    head = await post_and_fan_out(shared)
    async with await shared.live(min_severity=least, after=head) as live:
        for severity in severities:
            await shared.post(severity=severity)
        shown = [event["alert"]["severity"] for event in await live.events(seen)]
        assert shown == severities[4 - seen :]
    async with await shared.stream(min_severity=least, after=head) as replayed:
        await replayed.next_of("caught_up")
    assert [frame["alert"]["severity"] for frame in replayed.seen if frame["type"] == "event"] == shown


# What a handshake says that is refused for its query.


UNKNOWN = [
    ("topics=a&topics=b", "topics: there is no such parameter; did you mean topic"),
    ("severity=error", "severity: there is no such parameter; did you mean min_severity"),
    ("page=2", "page: there is no such parameter"),
    ("%00=1", r"\x00: there is no such parameter"),
    ("a/b~c~1=1", "a/b~c~1: there is no such parameter"),
    ("after=1&after=2", "after: this takes one value"),
]
WRONG = [
    ("after=abc", "after: must be a cursor such as 4711-9f3a2c1d, a seq, or latest"),
    ("after=" + "9" * 99, "after: must be a cursor such as 4711-9f3a2c1d, a seq, or latest"),
    ("min_severity=urgent", "min_severity: must be info, warning, error or critical"),
    ("topic=A", "topic: 'A' is no topic, and no pattern such as payments.* or *"),
    ("topic=", "topic: '' is no topic, and no pattern such as payments.* or *"),
    ("topic=a,", "topic: '' is no topic, and no pattern such as payments.* or *"),
    ("topic=a,%20b", "topic: ' b' is no topic, and no pattern such as payments.* or *"),
    ("topic=a&topic=", "topic: '' is no topic, and no pattern such as payments.* or *"),
    ("topic=" + "a," * 100 + "a", "topic: this takes at most 100 topics or patterns"),
    ("&".join(["topic=a"] * 101), "topic: this takes at most 100 topics or patterns"),
    ("consumer=a/b", "consumer: must be 1 to 100 of a-z, A-Z, 0-9, dot, _ and -"),
    ("consumer=", "consumer: must be 1 to 100 of a-z, A-Z, 0-9, dot, _ and -"),
    (f"topic={quote('ä' * 100)}", "topic: '" + "ä" * 30 + "' is no topic, and no pattern"),
]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        *((query, f"invalid_request: {detail}") for query, detail in UNKNOWN + WRONG),
        ("wait=0", "invalid_request: wait: there is no such parameter here: it is one of GET /v1/events"),
        ("token=x", "bad_message: Send no token in the query beside one in Authorization or a subprotocol."),
        ("consumer=%ff", "bad_message: The parameter consumer has the byte %FF, which is not UTF-8"),
    ],
)
async def test_the_reason_names_the_parameter_and_what_it_takes(shared: Node, query: str, reason: str) -> None:
    async with await attempt(shared, V1, bearer(), query=query) as refused:
        code, said = await refused.closed()
    assert code == 1008
    assert said.startswith(reason)
    assert len(said.encode()) <= 123


@pytest.mark.parametrize("wait", ["", "&wait=0"], ids=["server-sent events", "long poll"])
async def test_the_other_transports_refuse_with_the_same_words(shared: Node, wait: str) -> None:
    async with shared.http("alice", "alerts:read") as client:
        for query, detail in UNKNOWN + WRONG:
            answer = await client.get(f"/v1/events?{query}{wait}")
            assert answer.status_code == 422, query
            assert answer.json()["detail"].removeprefix("/query/").startswith(detail)
