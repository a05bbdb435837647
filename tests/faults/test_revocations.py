"""Revocations where a node is frozen, or cut off from PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from service.admin.revoker import CONFIRM_SECONDS
from service.auth.revocation_feed import CURRENT_SECONDS
from tests.harness import PATIENCE, READ, WRITE, eventually, start_process, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.conftest import Postgres
    from tests.harness import Process


async def revoke(node: Process, **target: Any) -> dict[str, Any]:
    async with node.http("root", "admin") as client:
        answer = await client.post("/v1/revocations", json=target)
    assert answer.status_code == 201, answer.text
    revocation: dict[str, Any] = answer.json()
    return revocation


async def test_a_frozen_node_is_named_and_reads_the_revocation_before_it_goes_on(
    start: Callable[..., Process],
) -> None:
    node, frozen = start(), start()
    bearer = {"Authorization": f"Bearer {token('alice', f'{READ} {WRITE}', jti='stolen')}"}
    async with frozen.http() as client, await frozen.live("alice", claims={"jti": "stolen"}) as stream:
        assert (await client.post("/v1/alerts", json={"title": "before"}, headers=bearer)).status_code == 201
        await stream.next_of("event")
        [row] = await node.sql("SELECT id::text FROM nodes WHERE pid = $1", frozen.process.pid)
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            request = asyncio.create_task(client.post("/v1/alerts", json={"title": "after"}, headers=bearer))
            started = time.monotonic()
            revocation = await revoke(node, jti="stolen")
            assert time.monotonic() - started >= CURRENT_SECONDS
            assert revocation["unconfirmed"] == [row["id"]]
            await node.post("not for a stolen token")
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        answer = await request
        assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
        assert await stream.closed() == (1008, "token_revoked")
        assert "not for a stolen token" not in str(stream.seen)
    assert "unconfirmed" not in await revoke(node, jti="another")


@pytest.mark.long
async def test_a_node_that_froze_before_the_deactivation_of_its_streams_recipient_closes_them(
    start: Callable[..., Process],
) -> None:
    node, frozen = start(), start()
    async with await frozen.live("alice") as stream:
        await eventually(lambda: node.sql("SELECT FROM audit.presence WHERE recipient = 'alice'"))
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            async with node.http("root", "admin") as client:
                answer = await client.post("/v1/recipients/alice/deactivate", json={"reason": "left"})
                assert (answer.status_code, len(answer.json()["unconfirmed"])) == (200, 1)
                again = await client.post("/v1/recipients/alice/deactivate")
                assert again.json() == answer.json()
            assert not await node.sql("SELECT FROM audit.presence")
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        assert await stream.closed() == (1008, "token_revoked")


@pytest.fixture
def node_of_own_database(own_database: str, tmp_path: Path) -> Iterator[Process]:
    node = start_process(own_database, tmp_path)
    yield node
    node.end()


@pytest.mark.long
async def test_without_postgres_nobody_gets_in_once_what_was_read_is_not_current(
    own_postgres: Postgres, node_of_own_database: Process
) -> None:
    node = node_of_own_database
    async with node.http(scope=READ) as client, await node.live("bob") as stream:
        await asyncio.to_thread(own_postgres.stop, "fast")
        await asyncio.sleep(CONFIRM_SECONDS)
        # Neither needs PostgreSQL for what it does.
        answer = await client.post("/v1/events/seen", json={"alerts": [str(uuid.uuid4())]})
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert "Retry-After" in answer.headers
        async with await node.stream("alice", after="latest") as rejected:
            assert await rejected.closed() == (1013, "overloaded")
            assert rejected.seen == []
        forged = await client.get("/v1/alerts", headers={"Authorization": "Bearer x.y.z"})
        assert (forged.status_code, forged.json()["code"]) == (401, "token_invalid")
        await stream.send({"type": "authenticate", "token": token("bob")})
        assert (await stream.next_of("error"))["code"] == "database_unavailable"
        await asyncio.to_thread(own_postgres.start)
        await eventually(lambda: gets_in(node), 2 * PATIENCE)
        await stream.send({"type": "authenticate", "token": token("bob")})  # the stream stayed open
        await stream.next_of("authenticated")


async def gets_in(node: Process) -> bool:
    async with node.http(scope=READ) as client:
        return (await client.get("/v1/alerts?limit=1")).status_code == 200
