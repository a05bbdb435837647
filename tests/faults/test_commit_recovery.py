"""A commit whose outcome is unknown, where PostgreSQL crashes, or its synchronous standby is away."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import make_url

from service.database.embedded import BINARIES
from service.settings import LedgerSettings, LimitSettings, Settings, StorageSettings
from tests.alerts.proxy import Cut, Proxy, proxy_to
from tests.faults.conftest import Postgres
from tests.harness import eventually, memory_folder, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.harness import Node

STANDBY_PORT = 5433
Answer = tuple[int, dict[str, Any]]


@asynccontextmanager
async def node_on(url: str, **storage: float) -> AsyncIterator[Node]:
    every = "1000000/second"
    settings = Settings(
        storage=StorageSettings.model_validate(storage),
        limits=LimitSettings(write_limit=every, read_limit=every),
        ledger=LedgerSettings(ledger_flush_seconds=3),  # a flush writes to the disk what others have written
    )
    running = serving(url, settings)
    node = await asyncio.to_thread(running.__enter__)
    try:
        yield node
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def post(node: Node, title: str, key: str | None = None, **fields: Any) -> Answer:
    async with node.http() as client:
        headers = {"Idempotency-Key": key} if key is not None else {}
        answer = await client.post("/v1/alerts", json={"title": title, **fields}, headers=headers)
    return answer.status_code, answer.json()


def outcome(answer: Answer) -> int | str:
    """Return the status, or the code of a refusal."""
    status, document = answer
    return str(document["code"]) if "code" in document else status


# A crash.


@pytest.fixture
async def proxy(own_database: str) -> AsyncIterator[Proxy]:
    async with proxy_to(own_database) as proxy:
        yield proxy


@pytest.mark.parametrize("kind", ["a repetition", "a repetition that is only counted"])
async def test_a_change_that_a_crash_undid_is_refused_though_its_transaction_id_is_issued_again(
    own_postgres: Postgres, own_database: str, proxy: Proxy, kind: str
) -> None:
    # What is not committed reaches the disk late.
    await administer(own_postgres, "ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()")
    through = make_url(own_database).update_query_dict({"host": str(proxy.folder)})
    async with node_on(through.render_as_string(hide_password=False), commit_recovery_timeout_seconds=30) as behind:
        node = replace(behind, database_url=own_database)
        stream = await node.live()
        assert outcome(await post(node, "again", dedup_key="k")) == 201
        counted = kind.endswith("counted")
        if counted:
            assert outcome(await post(node, "again", dedup_key="k")) == 200
        proxy.cut_at('"occurrences":3' if counted else "alert.repeated", "COMMIT", cut=Cut.HELD)
        posting = asyncio.create_task(post(node, "again", dedup_key="k"))
        await eventually(lambda: proxy.has_cut)
        proxy.is_open = False
        await asyncio.to_thread(own_postgres.stop, "immediate")
        await asyncio.to_thread(own_postgres.start)
        connection = await asyncpg.connect(own_database)
        for _ in range(40):
            await connection.execute("SELECT pg_current_xact_id()")
        await connection.close()
        proxy.is_open = True
        assert outcome(await posting) == "database_unavailable"
        status, alert = await post(node, "next")
        before = 2 if counted else 1
        assert (status, alert["seq"]) == (201, before + 1)
        events = await stream.events(before + 1)
        assert [event["seq"] for event in events] == list(range(1, before + 2))
        assert events[-1]["alert"]["title"] == "next"
        [(occurrences,)] = await node.sql("SELECT occurrences FROM alerts WHERE dedup_key = 'k'")
        assert occurrences == before
        await stream.close()


# Synchronous standbys.


@dataclass
class Standby(Postgres):
    """A replica that the primary waits for."""

    def start(self) -> None:
        """Start it, and stream from the primary."""
        options = f"-h '' -k {make_url(self.url).query['host']} -p {STANDBY_PORT}"
        self._control("start", "-l", str(self.folder / "log"), "-o", options)

    def promote(self) -> None:
        """Make it the primary."""
        self._control("promote")


@contextmanager
def standby_of(primary: Postgres) -> Iterator[Standby]:
    """A standby, which does not run yet."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-standby-", dir=memory_folder()))
    if primary.user is not None:
        shutil.chown(folder, primary.user)
    url = make_url(primary.url)
    try:
        arguments = ["-R", "-c", "fast", "-D", str(folder / "data"), "-U", "postgres", "-h", str(url.query["host"])]
        subprocess.run([str(BINARIES / "pg_basebackup"), *arguments], check=True, user=primary.user)
        standby_url = url.update_query_dict({"port": str(STANDBY_PORT)}).render_as_string(hide_password=False)
        yield Standby(folder / "data", standby_url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def administer(postgres: Postgres, *statements: str) -> list[Any]:
    connection = await asyncpg.connect(postgres.url)
    try:
        for statement in statements:
            rows: list[Any] = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


async def cancel_waits(primary: Postgres) -> bool:
    """Cancel the waits for a standby, if there are any: what waits is committed then, on the primary alone."""
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return bool(await administer(primary, f"SELECT pg_cancel_backend(pid) {waiting}"))


async def cancel_waits_until(primary: Postgres, answered: asyncio.Task[Any]) -> None:
    """Cancel the waits, of which the node's own tasks have some, until a request is answered."""

    async def is_answered() -> bool:
        await cancel_waits(primary)
        return answered.done()

    await eventually(is_answered)


async def free_log(primary: Postgres) -> None:
    """Cancel the waits until nobody holds the log's lock, or another one of the service."""
    locks = "SELECT FROM pg_locks WHERE locktype = 'relation' AND mode = 'ExclusiveLock'"

    async def is_free() -> bool:
        await cancel_waits(primary)
        return not await administer(primary, locks)

    await eventually(is_free)


@asynccontextmanager
async def synchronous(primary: Postgres) -> AsyncIterator[None]:
    """Let every commit wait for a standby."""
    reload = "SELECT pg_reload_conf()"
    await administer(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", reload)
    try:
        yield
    finally:
        await administer(primary, "ALTER SYSTEM RESET synchronous_standby_names", reload)


QUICK = {"database_timeout_seconds": 1, "commit_recovery_timeout_seconds": 1}


@pytest.mark.long
async def test_nothing_is_answered_as_stored_that_no_synchronous_standby_has(
    own_postgres: Postgres, own_database: str
) -> None:
    async with node_on(own_database, **QUICK) as node:
        assert outcome(await post(node, "asynchronous", "first")) == 201
        alert = (await post(node, "to be acknowledged", dedup_key="k"))[1]
        async with node.http("ann", "alerts:read alerts:manage alerts:write") as ann:
            action = f"/v1/alerts/{alert['id']}/acknowledge"
            assert (await ann.post(action)).status_code == 200
            async with synchronous(own_postgres):
                assert outcome(await post(node, "new", "second")) == "outcome_unknown"
                await free_log(own_postgres)  # it is there now, but not on a standby
                for key, title in (("second", "new"), ("first", "asynchronous")):
                    assert outcome(await post(node, title, key)) == "outcome_unknown"
                    await free_log(own_postgres)
                assert outcome(await post(node, "repeated", dedup_key="k")) == "outcome_unknown"
                await free_log(own_postgres)
                answer = await ann.post(action)
                assert answer.json()["code"] == "outcome_unknown"
            assert (await ann.post(action)).status_code == 200
        again = await eventually(lambda: stored(node, "new", "second"))
        assert again[1]["seq"] == 4
        titles = await node.sql("SELECT title FROM alerts ORDER BY seq")
        assert [row[0] for row in titles] == ["asynchronous", "repeated", "new"]


async def stored(node: Node, title: str, key: str) -> Answer | None:
    answer = await post(node, title, key)
    return answer if answer[0] == 201 else None


@pytest.mark.long
async def test_what_was_answered_is_on_the_standby_that_takes_over(own_postgres: Postgres, own_database: str) -> None:
    answered = []
    with standby_of(own_postgres) as standby:
        async with node_on(own_database, **QUICK) as node:
            standby.start()
            try:
                async with synchronous(own_postgres):
                    await eventually(lambda: administer(own_postgres, "SELECT FROM pg_stat_replication"))
                    answered.append(await eventually(lambda: stored(node, "with it", "first")))
                    standby.stop("fast")
                    assert outcome(await post(node, "without it", "second")) == "outcome_unknown"
                    assert outcome(await post(node, "with it", "first")) == "outcome_unknown"
                    standby.start()
                    answered.append(await eventually(lambda: stored(node, "without it", "second")))
                    answered.append(await eventually(lambda: stored(node, "with it", "first")))
                    standby.promote()
                promoted = await asyncpg.connect(standby.url, database=make_url(own_database).database)
                there = {str(row[0]) for row in await promoted.fetch("SELECT id FROM alerts")}
                await promoted.close()
            finally:
                standby.stop("fast")
    assert {alert["id"] for _, alert in answered} <= there


@pytest.mark.parametrize(("messages", "body"), [("notice", {}), ("error", {"dedup_key": "k"})])
async def test_an_outcome_is_unknown_where_somebody_cancels_the_wait_for_the_standby(
    own_postgres: Postgres, own_database: str, messages: str, body: dict[str, str]
) -> None:
    database = make_url(own_database).database
    await administer(own_postgres, f"ALTER DATABASE \"{database}\" SET client_min_messages = '{messages}'")
    async with node_on(own_database, commit_recovery_timeout_seconds=0.5) as node, synchronous(own_postgres):
        posting = asyncio.create_task(post(node, "new", **body))
        await eventually(lambda: cancel_waits(own_postgres))
        assert outcome(await posting) == "outcome_unknown"


@pytest.mark.parametrize("messages", ["notice", "error"])
async def test_a_revocation_is_not_confirmed_where_the_wait_for_the_standby_is_canceled(
    own_postgres: Postgres, own_database: str, messages: str
) -> None:
    database = make_url(own_database).database
    await administer(own_postgres, f"ALTER DATABASE \"{database}\" SET client_min_messages = '{messages}'")
    async with node_on(own_database) as node, node.http("root", "admin") as root:
        async with synchronous(own_postgres):
            for _ in ("new", "already in force"):
                revoking = asyncio.create_task(root.post("/v1/revocations", json={"jti": "stolen"}))
                await cancel_waits_until(own_postgres, revoking)
                answer = await revoking
                assert (answer.status_code, answer.json()["reason"]) == (503, "unconfirmed")
        answer = await eventually(lambda: root.post("/v1/revocations", json={"jti": "stolen"}))
        assert answer.status_code in (200, 201)
