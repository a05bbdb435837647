"""A revocation is in effect once its request is answered: on every node, and on what was under way."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from service.auth import revocation_feed
from service.stream.admission import Admission
from tests.admin.test_revocations import unique
from tests.harness import PATIENCE, PLAIN, READ, WRITE, Node, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from service.stream.cursor_check import Start

ADMIN = "admin"
ACTING = f"{READ} {WRITE} alerts:manage admin"


@pytest.fixture(scope="module")
def nodes(shared_url: str) -> Iterator[tuple[Node, Node]]:
    with serving(shared_url) as first, serving(shared_url) as second:
        yield first, second


async def revoke(node: Node, **target: Any) -> dict[str, Any]:
    async with node.http("root", ADMIN) as client:
        answer = await client.post("/v1/revocations", json=target)
    assert answer.status_code in {200, 201}, answer.text
    return {**answer.json(), "status": answer.status_code}


def client_of(node: Node, bearer: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=node.base, headers={"Authorization": f"Bearer {bearer}"}, **PLAIN)


def code_of(answer: httpx2.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


REVOKED = (401, "token_revoked")


async def test_no_node_lets_a_request_pass_after_the_answer(nodes: tuple[Node, Node]) -> None:
    for n in range(20):
        jti = unique()
        bearer = token("alice", ACTING, jti=jti)
        async with client_of(nodes[0], bearer) as here, client_of(nodes[1], bearer) as there:
            for client in (here, there):
                assert (await client.post("/v1/alerts", json={"title": "before"})).status_code == 201
            assert "unconfirmed" not in await revoke(nodes[n % 2], jti=jti)
            for client in (here, there):
                assert code_of(await client.post("/v1/alerts", json={"title": "after"})) == REVOKED
                assert code_of(await client.get("/v1/alerts")) == REVOKED
                assert code_of(await client.get("/v1/events?wait=0")) == REVOKED


async def test_what_is_answered_as_revoked_already_is_in_effect_too(nodes: tuple[Node, Node]) -> None:
    for _ in range(10):
        jti = unique()
        answers = await asyncio.gather(*(revoke(node, jti=jti) for node in nodes), return_exceptions=True)
        assert sorted(cast("Any", answer)["status"] for answer in answers) == [200, 201]
        for node in nodes:
            async with client_of(node, token("alice", ACTING, jti=jti)) as client:
                assert code_of(await client.post("/v1/alerts", json={"title": "after"})) == REVOKED


@asynccontextmanager
async def log_locked(node: Node) -> AsyncIterator[None]:
    """Keep every commit waiting."""
    connection = await asyncpg.connect(node.database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT lock_log(NULL)")
            yield
    finally:
        await connection.close()


async def a_commit_waits(node: Node) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await node.sql(query))


async def test_what_waits_in_the_queue_for_its_commit_is_refused(nodes: tuple[Node, Node]) -> None:
    jti = unique()
    bearer = token("alice", ACTING, jti=jti)
    alert = await nodes[0].post()
    async with client_of(nodes[0], bearer) as client, client_of(nodes[0], token("bob", WRITE)) as other:
        async with log_locked(nodes[0]):
            under_way = asyncio.create_task(other.post("/v1/alerts", json={"title": "under way"}))
            await eventually(partial(a_commit_waits, nodes[0]))
            title = unique()
            queued = [
                client.post("/v1/alerts", json={"title": title}),
                client.post("/v1/alerts", json={"title": title, "dedup_key": title}),
                client.post("/v1/alerts/batch", json=[{"title": title}, {"title": title}]),
                client.post(f"/v1/alerts/{alert['id']}/comments", json={"text": title}),
                client.post(f"/v1/alerts/{alert['id']}/acknowledge"),
                client.post(
                    "/v1/integrations/alertmanager",
                    json={"alerts": [{"status": "firing", "fingerprint": title, "labels": {"alertname": title}}]},
                ),
            ]
            waiting = [asyncio.create_task(one) for one in queued]
            await asyncio.sleep(0.3)  # until they are in the queue: nothing shows it from outside
            revocation = asyncio.create_task(revoke(nodes[1], jti=jti))
            async with client_of(nodes[0], bearer) as late:
                await eventually(partial(answers_revoked, late))
            assert not revocation.done()  # the commit under way may be of that token
        assert "unconfirmed" not in await revocation
        assert (await under_way).status_code == 201
        assert [code_of(await one) for one in waiting] == [REVOKED] * len(waiting)
    assert not await nodes[0].sql("SELECT FROM alerts WHERE title = $1", title)
    assert not await nodes[0].sql("SELECT FROM events WHERE alert_id = $1::text::uuid AND seq > $2", *alert_at(alert))


def alert_at(alert: dict[str, Any]) -> tuple[str, int]:
    return alert["id"], alert["seq"]


async def answers_revoked(client: httpx2.AsyncClient) -> bool:
    return code_of(await client.get("/v1/alerts?limit=1")) == REVOKED


async def test_a_commit_under_way_that_outlasts_the_wait_is_said_in_the_answer(nodes: tuple[Node, Node]) -> None:
    async with client_of(nodes[0], token("bob", WRITE)) as client:
        async with log_locked(nodes[0]):
            under_way = asyncio.create_task(client.post("/v1/alerts", json={"title": "under way"}))
            await eventually(partial(a_commit_waits, nodes[0]))
            stored = await revoke(nodes[1], jti=unique())
        assert (await under_way).status_code == 201
    [unconfirmed] = stored["unconfirmed"]
    assert await nodes[0].sql("SELECT FROM nodes WHERE id = $1::text::uuid", unconfirmed)
    assert "unconfirmed" not in await revoke(nodes[1], jti=unique())


BODIES = [
    ("/v1/alerts", WRITE, {"title": "late"}),
    ("/v1/alerts/batch", WRITE, [{"title": "late"}]),
    ("/v1/alerts/resolve", WRITE, {"dedup_key": "late"}),
    ("/v1/integrations/alertmanager", WRITE, {"alerts": []}),
    ("/v1/events/ack", READ, {"connection": str(uuid.uuid4()), "seq": 1}),
    ("/v1/revocations", ADMIN, {"jti": "the-jti-of-an-admin"}),
    ("/v1/recipients/alice/deactivate", ADMIN, {}),
]


@pytest.mark.parametrize(("path", "scope", "body"), BODIES)
async def test_a_request_whose_body_arrives_after_the_revocation_is_refused(
    nodes: tuple[Node, Node], path: str, scope: str, body: Any
) -> None:
    jti = unique()
    answer = await answer_to_late_body(
        nodes[0], path, token("alice", scope, jti=jti), body, lambda: revoke(nodes[1], jti=jti)
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'"token_revoked"' in answer


@pytest.mark.parametrize(("path", "scope", "body"), BODIES)
async def test_a_request_whose_body_arrives_after_its_token_has_expired_is_refused(
    nodes: tuple[Node, Node], path: str, scope: str, body: Any
) -> None:
    # The wait is real: the node compares the token's time with its own clock.
    bearer = token("alice", scope, ttl_seconds=0.5)
    answer = await answer_to_late_body(nodes[0], path, bearer, body, lambda: asyncio.sleep(0.6))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'"token_expired"' in answer


async def answer_to_late_body(
    node: Node, path: str, bearer: str, body: Any, meanwhile: Callable[[], Awaitable[Any]]
) -> bytes:
    """Send a request, of its body the first byte and the others after ``meanwhile``, and return the answer."""
    content = json.dumps(body).encode()
    address = urlsplit(node.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: {address.netloc}",
        f"Authorization: Bearer {bearer}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    writer.write("\r\n".join([*head, "", ""]).encode() + content[:1])
    await writer.drain()
    await asyncio.sleep(0.1)  # until the token was verified: nothing shows it from outside
    await meanwhile()
    writer.write(content[1:])
    answer = await reader.read()
    writer.close()
    return answer


@asynccontextmanager
async def locked(node: Node, *tables: str) -> AsyncIterator[None]:
    """Keep whoever reads or writes these tables waiting."""
    connection = await asyncpg.connect(node.database_url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {', '.join(tables)}")
            yield
    finally:
        await connection.close()


async def number_of_waiting(node: Node, number: int) -> bool:
    rows = await node.sql(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return len(rows) >= number


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/alerts", "/v1/alerts/{alert}", "/v1/alerts/{alert}/timeline", "/v1/alerts/{alert}/deliveries"),
        *("/v1/alerts/{alert}/receipts", "/v1/presence", "/v1/recipients", "/v1/audit/report"),
        *("/v1/audit/unreceived", "/v1/audit/connections", "/v1/audit/rejections", "/v1/audit/sources"),
    ],
)
async def test_what_was_being_read_is_not_answered_after_the_revocation(nodes: tuple[Node, Node], path: str) -> None:
    jti = unique()
    alert = await nodes[0].post()
    async with client_of(nodes[0], token(unique(), f"{ACTING} audit:read", jti=jti)) as client:
        async with locked(nodes[0], "alerts", "recipients", "connections", "handshake_rejections", "source_hours"):
            reading = asyncio.create_task(client.get(path.format(alert=alert["id"])))
            await eventually(partial(number_of_waiting, nodes[0], 1))
            await revoke(nodes[1], jti=jti)
            assert not reading.done()
        assert code_of(await reading) == REVOKED


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/revocations", {"jti": "{name}"}),
        ("POST", "/v1/recipients/{name}/deactivate", {"unknown": True}),
        ("POST", "/v1/recipients/{left}/reactivate", {}),
        ("POST", "/v1/recipients/{left}/deactivate", {}),  # is done already
        ("DELETE", "/v1/connections/{connection}", None),
    ],
)
async def test_what_an_admin_changes_is_not_stored_after_their_own_revocation(
    nodes: tuple[Node, Node], method: str, path: str, body: dict[str, Any] | None
) -> None:
    """The revocation waits for the lock first, then the change does."""
    jti, name, left = unique(), unique(), unique()
    async with await nodes[0].stream("erin") as stream, nodes[1].http("root", ADMIN) as root:
        assert (await root.post(f"/v1/recipients/{left}/deactivate", json={"unknown": True})).status_code == 200
        names = {"name": name, "left": left, "connection": (await stream.next_of("welcome"))["connection"]}
        content = json.dumps(body).replace("{name}", name) if body is not None else None
        async with client_of(nodes[0], token("mallory", ADMIN, jti=jti)) as client:
            async with locked(nodes[0], "locks.revocations"):
                revocation = asyncio.create_task(revoke(nodes[1], jti=jti))
                await eventually(partial(number_of_waiting, nodes[0], 1))
                headers = {"Content-Type": "application/json"} if content is not None else {}
                change = client.request(method, path.format(**names), content=content, headers=headers)
                changing = asyncio.create_task(change)
                await eventually(partial(number_of_waiting, nodes[0], 2))
            await revocation
            assert code_of(await changing) == REVOKED
    assert not await nodes[0].sql("SELECT FROM revocations WHERE revoked_by = 'mallory'")


async def test_an_admin_may_revoke_their_own_token(nodes: tuple[Node, Node]) -> None:
    jti, name = unique(), unique()
    for target in ({"jti": jti}, {"subject": name}):
        async with client_of(nodes[0], token(name, ADMIN, jti=jti)) as client:
            assert (await client.post("/v1/revocations", json=target)).status_code == 201
            assert code_of(await client.get("/v1/revocations")) == REVOKED
        jti = unique()


async def test_a_revocation_that_an_operator_inserts_is_followed_whenever_it_commits(nodes: tuple[Node, Node]) -> None:
    """One with a higher id waits for it, and is not committed before."""
    by_hand, later = unique(), unique()
    connection = await asyncpg.connect(nodes[0].database_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO revocations (jti, revoked_by, revoked_at, expires_at)"
                " VALUES ($1, 'operator', clock_timestamp(), clock_timestamp() + interval '1 hour')",
                by_hand,
            )
            revocation = asyncio.create_task(revoke(nodes[0], jti=later))
            await asyncio.sleep(0.7)  # longer than the poll: whatever were committed would be read
            assert not revocation.done()
        await revocation
    finally:
        await connection.close()
    for node in nodes:
        for jti in (by_hand, later):
            async with client_of(node, token("alice", ACTING, jti=jti)) as client:
                assert code_of(await client.get("/v1/alerts")) == REVOKED


async def test_a_revocation_by_sql_needs_no_poll(
    nodes: tuple[Node, Node], shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_feed, "CURRENT_SECONDS", 3600)
    monkeypatch.setattr(revocation_feed, "POLL_SECONDS", 3600)
    with serving(shared_url) as seldom_polling:
        jti = unique()
        async with client_of(seldom_polling, token("alice", READ, jti=jti)) as client:
            assert (await client.get("/v1/alerts?limit=1")).status_code == 200
            await nodes[0].sql(
                "INSERT INTO revocations (jti, revoked_by, revoked_at, expires_at)"
                " VALUES ($1, 'operator', clock_timestamp(), clock_timestamp() + interval '1 hour')",
                jti,
            )
            await eventually(partial(answers_revoked, client))


async def test_a_poll_that_was_under_way_does_not_go_on_with_a_revoked_token(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was opened with another token of the same subject, which is still accepted."""
    subject, jti = unique(), unique()
    began, may_go_on = threading.Event(), threading.Event()
    start_of = Admission.start_of

    async def slow_start_of(*arguments: Any, **options: Any) -> Start:
        began.set()
        await asyncio.to_thread(may_go_on.wait, PATIENCE)
        return await start_of(*arguments, **options)

    async with (
        client_of(nodes[0], token(subject, READ)) as good,
        client_of(nodes[0], token(subject, READ, jti=jti)) as stolen,
    ):
        first = (await good.get("/v1/events?wait=0")).json()
        monkeypatch.setattr(Admission, "start_of", slow_start_of)
        query = {"connection": first["connection"], "after": first["next"], "wait": 5}
        poll = asyncio.create_task(stolen.get("/v1/events", params=query))
        assert await asyncio.to_thread(began.wait, PATIENCE)
        await revoke(nodes[1], jti=jti)
        may_go_on.set()
        assert code_of(await poll) == REVOKED
