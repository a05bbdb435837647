from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

import pytest
from sqlalchemy import text

from service.auth.principal import Principal
from service.auth.revocations import Target, revoke
from service.database.engine import Database, parse_url
from service.settings import AuthSettings, StorageSettings
from tests.faults.load import UNLIMITED, Admin, Load, assert_ledger_is_complete, assert_untampered, received_all
from tests.fixtures.revocations import unregistered_feed
from tests.harness import eventually, start_process, token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.conftest import Postgres
    from tests.harness import Process

LEASE = 2.5


@pytest.fixture
def two_nodes(own_database: str, tmp_path: Path) -> Iterator[list[Process]]:
    variables = {
        **UNLIMITED,
        "TOCSIN_NODE_LEASE_SECONDS": str(LEASE),
        "TOCSIN_HOUSEKEEPING_INTERVAL_SECONDS": "0.2",
        "TOCSIN_COMMIT_RECOVERY_TIMEOUT_SECONDS": "1",
    }
    nodes = [start_process(own_database, tmp_path, 0, **variables) for _ in range(2)]
    yield nodes
    for node in nodes:
        node.end()


@pytest.mark.parametrize(
    ("mode", "pause"),
    [
        ("immediate", 0.05),
        pytest.param("immediate", 0, marks=pytest.mark.long),
        pytest.param("fast", 0, marks=pytest.mark.long),
    ],
)
async def test_postgres_stops_under_load_and_comes_back(
    own_postgres: Postgres, two_nodes: list[Process], mode: str, pause: float
) -> None:
    node, other = two_nodes
    admins = [Admin(node, "alice"), Admin(other, "bob", topics=("payments.*",)), Admin(other, "carol")]
    load = Load(pause)
    async with AsyncExitStack() as stack:
        for admin in admins:
            await stack.enter_async_context(admin)
        await eventually(lambda: all(admin.sessions for admin in admins))
        posting = asyncio.create_task(load.run(node))
        await eventually(lambda: len(load.stored) > 200)
        await asyncio.to_thread(own_postgres.stop, mode)
        stopped = time.monotonic()
        await eventually(lambda: load.refusals and time.monotonic() > stopped + LEASE + 0.5)
        await asyncio.to_thread(own_postgres.start)
        await eventually(lambda: serves_again(node))
        load.finish()
        await posting
        await eventually(await received_all(admins))
        await node.flushed(load.count)
        started = time.monotonic()
        await eventually(lambda: time.monotonic() > started + LEASE + 0.5)  # housekeeping runs again
    await load.assert_stored_once(node)
    assert {refusal.document["code"] for refusal in load.refusals} <= {"database_unavailable", "outcome_unknown"}
    for refusal in load.refusals:
        assert refusal.headers["content-type"] == "application/problem+json"
        assert int(refusal.headers["retry-after"]) >= 1
    for admin in admins:
        assert len(admin.sessions) == 1
        assert admin.seqs == await admin.expected()
    await assert_ledger_is_complete(admins)
    await assert_untampered(node)
    nodes = await node.sql("SELECT ended_at FROM nodes")
    assert [row[0] for row in nodes] == [None, None]


async def test_nothing_is_revoked_while_postgres_is_away_and_what_was_is_still_refused(
    own_postgres: Postgres, two_nodes: list[Process]
) -> None:
    node, other = two_nodes
    stolen, kept = token("alice", jti="stolen"), token("alice", jti="kept")
    async with node.http("root", "admin") as admin, other.http() as client:

        async def code(bearer: str) -> str | None:
            answer = await client.get("/v1/alerts", headers={"Authorization": f"Bearer {bearer}"})
            return cast("str | None", answer.json().get("code"))

        async def refused(bearer: str) -> bool:
            return await code(bearer) == "token_revoked"

        assert (await admin.post("/v1/revocations", json={"jti": "stolen"})).status_code == 201
        await eventually(lambda: refused(stolen))
        await asyncio.to_thread(own_postgres.stop, "immediate")
        for body in ({"jti": "kept"}, {"subject": "alice"}):
            answer = await admin.post("/v1/revocations", json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert (await admin.delete(f"/v1/connections/{uuid.uuid4()}")).status_code == 503
        assert await refused(stolen)
        assert await code(kept) == "database_unavailable"
        await asyncio.to_thread(own_postgres.start)
        await eventually(lambda: serves_again(node))
        assert (await admin.post("/v1/revocations", json={"jti": "kept"})).status_code == 201
        await eventually(lambda: refused(kept))


async def test_all_revocations_are_read_again_where_the_server_was_restarted(
    own_postgres: Postgres, own_database: str
) -> None:
    database = Database(parse_url(own_database), StorageSettings())
    feed = unregistered_feed(database)
    for jti in ("lost", "last"):
        async with database.transaction() as tx:
            await revoke(tx, Target(jti=jti), by="root", reason=None, settings=AuthSettings())
    await feed.read()
    await asyncio.to_thread(own_postgres.stop, "fast")
    await asyncio.to_thread(own_postgres.start)
    async with database.transaction() as tx:  # as a standby that has another row with that id
        await tx.execute(text("UPDATE revocations SET jti = 'other' WHERE jti = 'lost'"))
    await feed.read()
    await database.close()
    now = time.time()
    for jti in ("lost", "last", "other"):
        assert feed.covers(Principal("alice", frozenset(), ("*",), expires_at=now + 60, issued_at=now, jti=jti))


async def serves_again(node: Process) -> bool:
    async with node.http() as client:
        return (await client.get("/readyz")).status_code == 200
