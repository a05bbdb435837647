"""Revocations and closed streams, on two nodes of one database."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from websockets.asyncio.client import connect

from service.auth import revocation_feed
from service.auth.revocation_feed import RevocationFeed
from service.settings import AuthSettings, LedgerSettings, Settings
from tests.harness import PATIENCE, READ, WEBSOCKET, Node, Stream, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

ADMIN = "admin"


@pytest.fixture(scope="module")
def nodes(shared_url: str) -> Iterator[tuple[Node, Node]]:
    with serving(shared_url) as first, serving(shared_url) as second:
        yield first, second


def unique() -> str:
    return uuid.uuid4().hex


async def revoke(node: Node, by: str = "root", **target: Any) -> dict[str, Any]:
    async with node.http(by, ADMIN) as client:
        answer = await client.post("/v1/revocations", json=target)
    assert answer.status_code in {200, 201}, answer.text
    stored: dict[str, Any] = answer.json()
    return {**stored, "status": answer.status_code}


async def ask(node: Node, bearer: str) -> tuple[int, str | None]:
    """Return the status, and the code of a refusal, that a token is answered with."""
    async with node.http() as client:
        answer = await client.get("/v1/alerts", headers={"Authorization": f"Bearer {bearer}"})
    return answer.status_code, answer.json().get("code")


async def refused(node: Node, bearer: str) -> bool:
    return await ask(node, bearer) == (401, "token_revoked")


async def handshake(node: Node, bearer: str) -> Stream:
    return Stream(await connect(node.ws, additional_headers={"Authorization": f"Bearer {bearer}"}, **WEBSOCKET))


# Tokens.


async def test_a_revoked_token_is_refused_and_its_streams_are_closed_on_every_node(nodes: tuple[Node, Node]) -> None:
    jti, other = unique(), unique()
    bearer, another = token("alice", jti=jti), token("alice", jti=other)
    streams = [await node.live("alice", claims={"jti": jti}) for node in nodes for _ in range(2)]
    staying = [await node.live("alice", claims={"jti": other}) for node in nodes]
    for node in nodes:
        assert await ask(node, bearer) == (200, None)  # verified, and remembered
    stored = await revoke(nodes[0], jti=jti, reason="the laptop was stolen")
    assert (stored["status"], stored["jti"], stored["revoked_by"]) == (201, jti, "root")
    for stream in streams:
        assert await stream.closed() == (1008, "token_revoked")
    for node in nodes:
        await eventually(partial(refused, node, bearer))
        async with await handshake(node, bearer) as stream:
            assert await stream.closed() == (1008, "token_revoked")
            assert stream.seen == []
        assert await ask(node, another) == (200, None)
    alert = await nodes[0].post()
    for stream in staying:
        assert (await stream.next_of("event"))["seq"] == alert["seq"]
        await stream.close()
    await eventually(
        lambda: nodes[0].sql(
            "SELECT FROM connections WHERE close_reason = 'token_revoked' AND close_code = 1008 AND jti = $1"
            " HAVING count(*) = 4",
            jti,
        )
    )


async def test_a_subject_is_revoked_up_to_a_time(nodes: tuple[Node, Node]) -> None:
    subject = unique()
    old = token(subject)
    stream, bystander = await nodes[1].live(subject), await nodes[1].live(unique())
    stored = await revoke(nodes[0], subject=subject)
    assert stored["before"] == stored["revoked_at"]
    assert await stream.closed() == (1008, "token_revoked")
    for node in nodes:
        await eventually(partial(refused, node, old))
        assert await ask(node, token(subject)) == (200, None)  # issued after it
    await revoke(nodes[0], subject=subject, before=datetime.now(UTC).isoformat())
    alert = await nodes[0].post()
    assert (await bystander.next_of("event"))["seq"] == alert["seq"]
    await bystander.close()


async def test_only_what_was_issued_before_the_time_is_revoked(nodes: tuple[Node, Node]) -> None:
    subject = unique()
    old = token(subject)
    await revoke(nodes[0], subject=subject, before=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
    jti = unique()
    await revoke(nodes[0], jti=jti)
    await eventually(lambda: refused(nodes[1], token("alice", jti=jti)))  # so the one before has come too
    assert await ask(nodes[1], old) == (200, None)


async def test_a_fresh_token_that_is_revoked_does_not_extend_a_stream(nodes: tuple[Node, Node]) -> None:
    subject, jti = unique(), unique()
    async with await nodes[0].live(subject) as stream:
        await revoke(nodes[0], jti=jti)
        bearer = token(subject, jti=jti)
        await eventually(lambda: refused(nodes[0], bearer))
        await stream.send({"type": "authenticate", "token": bearer})
        assert (await stream.next_of("error"))["code"] == "token_revoked"
        await stream.send({"type": "authenticate", "token": token(subject)})
        await stream.next_of("authenticated")


async def test_a_stream_goes_by_its_latest_token(nodes: tuple[Node, Node]) -> None:
    subject, first, second = unique(), unique(), unique()
    async with await nodes[1].live(subject, claims={"jti": first}) as stream:
        await stream.send({"type": "authenticate", "token": token(subject, jti=second)})
        await stream.next_of("authenticated")
        await revoke(nodes[0], jti=first)
        await eventually(lambda: refused(nodes[1], token(subject, jti=first)))
        await stream.send({"type": "ping", "data": 1})
        await stream.next_of("pong")
        await revoke(nodes[0], jti=second)
        assert await stream.closed() == (1008, "token_revoked")


async def test_a_lost_notification_costs_no_more_than_the_poll(nodes: tuple[Node, Node]) -> None:
    """The row exists, and no node was notified."""
    jti = unique()
    async with await nodes[1].live("alice", claims={"jti": jti}) as stream:
        await nodes[0].sql(
            "INSERT INTO revocations (jti, revoked_by, revoked_at, expires_at)"
            " VALUES ($1, 'root', clock_timestamp(), clock_timestamp() + interval '1 hour')",
            jti,
        )
        assert await stream.closed() == (1008, "token_revoked")


async def test_a_notification_is_enough(
    nodes: tuple[Node, Node], shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_feed, "POLL_SECONDS", PATIENCE * 4)
    with serving(shared_url) as seldom_polling:
        for _ in range(3):
            jti = unique()
            async with await seldom_polling.live("alice", claims={"jti": jti}) as stream:
                await revoke(nodes[0], jti=jti)
                assert await stream.closed() == (1008, "token_revoked")


async def test_a_node_that_starts_knows_what_is_revoked(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it follows, which here it never does."""

    async def follow_nothing(_feed: RevocationFeed) -> None:
        """Read nothing."""

    jti, subject = unique(), unique()
    bearers = [token("alice", jti=jti), token(subject)]
    with serving(database_url) as node:
        await revoke(node, jti=jti)
        await revoke(node, subject=subject)
    monkeypatch.setattr(RevocationFeed, "_follow", follow_nothing)
    with serving(database_url) as again:
        for bearer in bearers:
            assert await refused(again, bearer)


async def test_a_handshake_that_is_under_way_while_its_token_is_revoked_is_refused(nodes: tuple[Node, Node]) -> None:
    """The handshake waits for a row of another, between its token's verification and its place among the streams."""
    subject, jti = unique(), unique()
    locked = await asyncpg.connect(nodes[1].database_url)
    try:
        async with locked.transaction():
            await locked.execute(
                "INSERT INTO recipients (id, topics, first_seen_at, last_seen_at) VALUES ($1, '{*}', now(), now())",
                subject,
            )
            entering = await handshake(nodes[1], token(subject, jti=jti))
            await eventually(
                lambda: nodes[1].sql(
                    "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'begin_resume_point'"
                )
            )
            await revoke(nodes[0], jti=jti)
            await eventually(lambda: refused(nodes[1], token(subject, jti=jti)))
        assert await entering.closed() == (1008, "token_revoked")
        assert entering.seen == []
    finally:
        await locked.close()


# The REST side.


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "jti or a subject"),
        ({"jti": "a", "subject": "b"}, "not both"),
        ({"jti": "a", "before": "2026-01-01T00:00:00Z"}, "before goes with"),
        ({"jti": ""}, "/jti"),
        ({"jti": 5}, "/jti"),
        ({"jti": "a\0"}, "/jti"),
        ({"jti": "a" * 201}, "/jti"),
        ({"subject": "\ud800"}, ""),
        ({"subject": "a", "before": "yesterday"}, "/before"),
        ({"subject": "a", "before": "2026-01-01T00:00:00"}, "/before"),
        ({"subject": "a", "before": "9999-12-31T23:59:59-12:00"}, "/before"),
        ({"subject": "a", "before": "0001-01-01T00:00:00+12:00"}, "/before"),
        ({"subject": "a", "reason": "x" * 201}, "/reason"),
        ({"subject": "a", "why": "because"}, "/why"),
        ([], "body"),
    ],
)
async def test_what_cannot_be_revoked_is_refused_by_its_place(lenient: Node, body: Any, word: str) -> None:
    async with lenient.http("root", ADMIN) as client:
        answer = await client.post(
            "/v1/revocations", content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
    assert (answer.status_code, answer.json()["code"]) in {(422, "invalid_request"), (400, "malformed_request")}
    assert word in answer.text


@pytest.mark.parametrize("scope", ["", READ, "alerts:write", "alerts:manage", "audit:read"])
async def test_revoking_needs_the_scope_of_an_admin(lenient: Node, scope: str) -> None:
    async with lenient.http(scope=scope) as client:
        answers = [
            await client.post("/v1/revocations", json={"jti": "a"}),
            await client.get("/v1/revocations"),
            await client.delete(f"/v1/connections/{uuid.uuid4()}"),
        ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, "scope_missing")}


async def test_what_is_revoked_again_is_answered_with_the_first(lenient: Node) -> None:
    jti, subject = unique(), unique()
    first = await revoke(lenient, jti=jti, reason="lost")
    again = await revoke(lenient, jti=jti, reason="lost, I say", by="another")
    assert (first.pop("status"), again.pop("status")) == (201, 200)
    assert again == first
    now = datetime.now(UTC)
    later = await revoke(lenient, subject=subject, before=now.isoformat())
    earlier = await revoke(lenient, subject=subject, before=(now - timedelta(hours=1)).isoformat())
    assert (later["status"], earlier["status"], earlier["id"]) == (201, 200, later["id"])
    assert (await revoke(lenient, subject=subject))["status"] == 201


async def test_the_list_says_who_revoked_what_when_and_why(node: Node) -> None:
    made = [await revoke(node, jti=f"jti {n}", by=f"admin {n}", reason=f"reason {n}") for n in range(5)]
    for one in made:
        del one["status"]
    async with node.http("root", ADMIN) as client:
        whole = (await client.get("/v1/revocations")).json()
        assert whole == {"revocations": made[::-1], "next": None}
        page = (await client.get("/v1/revocations", params={"limit": 2})).json()
        rows = page["revocations"]
        while page["next"] is not None:
            page = (await client.get("/v1/revocations", params={"limit": 2, "cursor": page["next"]})).json()
            rows += page["revocations"]
        assert rows == made[::-1]
        for bad in ("x", "é", "LTE", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"):
            answer = await client.get("/v1/revocations", params={"cursor": bad})
            assert (answer.status_code, "cursor" in answer.json()["detail"]) == (422, True)
    [row] = await node.sql("SELECT * FROM audit.revocations WHERE jti = 'jti 3'")
    assert (row["revoked_by"], row["reason"]) == ("admin 3", "reason 3")


async def test_a_revocation_is_kept_until_its_tokens_have_expired_and_then_purged(database_url: str) -> None:
    settings = Settings(
        auth=AuthSettings(jwt_max_lifetime_seconds=3600, jwt_leeway_seconds=30),
        ledger=LedgerSettings(housekeeping_interval_seconds=0.1),
    )
    with serving(database_url, settings) as node:
        now = datetime.now(UTC)
        of_token = await revoke(node, jti="a")
        of_subject = await revoke(node, subject="b", before=(now - timedelta(minutes=10)).isoformat())
        life = timedelta(hours=1)
        kept = datetime.fromisoformat(of_token["expires_at"]) - datetime.fromisoformat(of_token["revoked_at"])
        assert kept == life + timedelta(seconds=30)
        assert datetime.fromisoformat(of_subject["expires_at"]) == now - timedelta(minutes=10) + life
        await node.sql("UPDATE revocations SET expires_at = clock_timestamp() WHERE jti = 'a'")
        await eventually(lambda: only(node, ["b"]))


async def only(node: Node, subjects: list[str]) -> bool:
    return [row["subject"] for row in await node.sql("SELECT subject FROM revocations")] == subjects


async def test_one_more_than_the_most_is_refused(database_url: str) -> None:
    with serving(database_url, Settings(auth=AuthSettings(revocations_max=2))) as node:
        await revoke(node, jti="a")
        await revoke(node, subject="b")
        async with node.http("root", ADMIN) as client:
            answer = await client.post("/v1/revocations", json={"jti": "c"})
            assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
            assert "Retry-After" in answer.headers
        assert (await revoke(node, jti="a"))["status"] == 200
        assert await ask(node, token("alice", jti="c")) == (200, None)


async def test_revocations_at_once_through_two_nodes_are_each_learnt_by_both(nodes: tuple[Node, Node]) -> None:
    names = [unique() for _ in range(40)]
    await asyncio.gather(*(revoke(nodes[n % 2], jti=name) for n, name in enumerate(names)))
    for name in names:
        for node in nodes:
            await eventually(partial(refused, node, token("alice", jti=name)))


# Streams.


async def test_a_stream_is_closed_by_its_id_on_whichever_node(nodes: tuple[Node, Node]) -> None:
    async with await nodes[1].live("alice") as stream, await nodes[1].live("alice") as staying:
        connection = stream.seen[0]["connection"]
        await eventually(lambda: nodes[1].sql("SELECT FROM connections WHERE id = $1", connection))
        async with nodes[0].http("root", ADMIN) as client:
            assert (await client.delete(f"/v1/connections/{connection}")).status_code == 204
            assert await stream.closed() == (1008, "kicked")
            await eventually(
                lambda: nodes[1].sql("SELECT FROM connections WHERE id = $1 AND close_reason = 'kicked'", connection)
            )
            again = await client.delete(f"/v1/connections/{connection}")
            assert (again.status_code, again.json()["code"]) == (404, "not_found")
            assert (await client.delete(f"/v1/connections/{uuid.uuid4()}")).status_code == 404
            assert (await client.delete("/v1/connections/x")).status_code == 404
            listed, *_ = (await client.get("/v1/revocations")).json()["revocations"]
        assert (listed["connection"], listed["revoked_by"], listed["jti"]) == (connection, "root", None)
        await staying.send({"type": "ping"})
        await staying.next_of("pong")
        async with await nodes[1].live("alice"):  # its token is still good
            pass


async def test_a_stream_that_has_just_opened_is_closed_by_its_own_node(nodes: tuple[Node, Node]) -> None:
    async with await nodes[0].live("alice") as stream, nodes[0].http("root", ADMIN) as client:
        assert (await client.delete(f"/v1/connections/{stream.seen[0]['connection']}")).status_code == 204
        assert await stream.closed() == (1008, "kicked")


async def test_a_stream_of_server_sent_events_ends_with_the_reason(nodes: tuple[Node, Node]) -> None:
    for kicked, reason in ((False, "token_revoked"), (True, "kicked")):
        async with nodes[1].http("alice", READ) as client, client.stream("GET", "/v1/events?after=latest") as answer:
            lines = answer.aiter_lines()
            welcome = json.loads((await anext(lines)).removeprefix("data: "))
            if kicked:
                async with nodes[0].http("root", ADMIN) as admin:
                    await eventually(partial(is_closed, admin, welcome["connection"]))
            else:
                await revoke(nodes[0], subject="alice", before=datetime.now(UTC).isoformat())
            async with asyncio.timeout(PATIENCE):
                frames = [json.loads(line.removeprefix("data: ")) async for line in lines if line.startswith("data: ")]
        assert frames[-1] == {"type": "close", "code": 1008, "reason": reason}
        # A token of the same second as the revocation is covered by it.
        await asyncio.sleep(0 if kicked else 1)


async def is_closed(admin: httpx2.AsyncClient, connection: str) -> bool:
    return (await admin.delete(f"/v1/connections/{connection}")).status_code == 204
