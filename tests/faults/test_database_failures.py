"""A PostgreSQL that stores nothing for a while: what sources and admins see, and that the node goes on by itself."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import uuid
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx2
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from service.database.engine import parse_url
from service.database.locks import TableLock
from service.database.migrate import migrate
from tests.faults.load import UNLIMITED, assert_untampered
from tests.harness import PLAIN, READ, WRITE, Process, eventually, start_process, token, with_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.harness import Node

ALERTMANAGER = "/v1/integrations/alertmanager"
CLOUDEVENTS = "/v1/integrations/cloudevents"
BATCHED = {"Content-Type": "application/cloudevents-batch+json"}
TABLES = "alerts, events, nodes, recipients, revocations, idempotency_keys"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Service:
    """A node whose database is used by a role of its own, which is no superuser."""

    def __init__(self, server_url: str, node: Process, role: str) -> None:
        self.node = node
        self.role = role
        self._server_url = with_database(server_url, str(make_url(node.database_url).database))

    async def connect(self) -> asyncpg.Connection:
        """Connect as a superuser."""
        return await asyncpg.connect(self._server_url)

    async def as_superuser(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        connection = await self.connect()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def disconnect(self) -> None:
        """End the connections of the node: those that follow have the role's present settings."""
        await self.as_superuser(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'")

    async def ready(self) -> httpx2.Response:
        """Ask for readiness."""
        async with self.node.http() as client:
            return await client.get("/readyz")

    async def is_ready(self) -> bool:
        """Say whether the node is ready."""
        return (await self.ready()).status_code == 200

    async def is_unready(self, reasons: set[str]) -> bool:
        """Say whether the node is not ready, for one of these reasons."""
        answer = await self.ready()
        return answer.status_code == 503 and answer.json()["reason"] in reasons

    async def stored(self) -> int:
        """Count the alerts."""
        return int((await self.node.sql("SELECT count(*) FROM alerts"))[0][0])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    name = f"failing_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(server_url)
    await admin.execute(f"CREATE ROLE {name} LOGIN")
    await admin.execute(f"CREATE DATABASE {name} OWNER {name}")
    url = make_url(with_database(server_url, name)).set(username=name).render_as_string(hide_password=False)
    await asyncio.to_thread(migrate, parse_url(url))
    variables = {**UNLIMITED, "TOCSIN_COMMIT_RECOVERY_TIMEOUT_SECONDS": "1"}
    node = await asyncio.to_thread(lambda: start_process(url, tmp_path_factory.mktemp("node"), 0, **variables))
    yield Service(server_url, node, name)
    node.end()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.execute(f"DROP OWNED BY {name}")
    await admin.execute(f"DROP ROLE {name}")
    await admin.close()


# The faults: each begins for real, and is over at the end of its block.


@asynccontextmanager
async def with_setting(service: Service, setting: str, value: str) -> AsyncIterator[None]:
    await service.as_superuser(f"ALTER ROLE {service.role} SET {setting} = '{value}'")
    await service.disconnect()
    try:
        yield
    finally:
        await service.as_superuser(f"ALTER ROLE {service.role} RESET {setting}")
        await service.disconnect()


@asynccontextmanager
async def held(service: Service, statement: str) -> AsyncIterator[None]:
    """Hold a lock."""
    connection = await service.connect()
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def tables_locked(service: Service) -> AsyncIterator[None]:
    lock = f"LOCK TABLE {TABLES} IN ACCESS EXCLUSIVE MODE"
    async with with_setting(service, "lock_timeout", "100ms"), held(service, lock):
        yield


@asynccontextmanager
async def no_connection_left(service: Service) -> AsyncIterator[None]:
    await service.as_superuser(f"ALTER ROLE {service.role} CONNECTION LIMIT 0")
    await service.disconnect()
    try:
        yield
    finally:
        await service.as_superuser(f"ALTER ROLE {service.role} CONNECTION LIMIT -1")


@asynccontextmanager
async def restored(service: Service) -> AsyncIterator[None]:
    """Take the tables away, as a restore does that replaces them."""
    await service.as_superuser(f"ALTER SCHEMA public RENAME TO away_{service.role}")
    try:
        yield
    finally:
        await service.as_superuser(f"ALTER SCHEMA away_{service.role} RENAME TO public")


@asynccontextmanager
async def no_login(service: Service) -> AsyncIterator[None]:
    await service.as_superuser(f"ALTER ROLE {service.role} NOLOGIN")
    await service.disconnect()
    try:
        yield
    finally:
        await service.as_superuser(f"ALTER ROLE {service.role} LOGIN")


FAULTS: dict[str, tuple[Callable[[Service], Any], set[str]]] = {
    "lock_timeout": (tables_locked, {"lock_timeout"}),
    "read_only": (partial(with_setting, setting="default_transaction_read_only", value="on"), {"read_only"}),
    "restore": (restored, {"schema_missing"}),
    "too_many_connections": (no_connection_left, {"too_many_connections"}),
    "no_login": (no_login, {"connection_refused"}),
}
fault = pytest.mark.parametrize(("fault", "reasons"), FAULTS.values(), ids=FAULTS)


def assert_unavailable(answer: httpx2.Response, reasons: set[str]) -> None:
    """Check a 503 that says what is wrong, and nothing of the server's own words."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    document = answer.json()
    assert document["code"] == "database_unavailable", document
    assert document["reason"] in reasons, document
    for internal in ("alerts", "lock_timeout'", "role", "failing_", "canceling", "asyncpg"):
        assert internal not in document["detail"]


def firing(fingerprint: str, status: str = "firing") -> dict[str, Any]:
    return {"status": status, "fingerprint": fingerprint, "labels": {"alertname": "DiskFull"}}


def event(number: int) -> dict[str, Any]:
    return {"specversion": "1.0", "id": str(number), "source": "/eu", "type": "payments.failed"}


def requests(opened: str, fingerprint: str) -> dict[str, Callable[[httpx2.AsyncClient], Awaitable[httpx2.Response]]]:
    """Return what a source and an admin ask for, none of which can be done now."""
    return {
        "POST": lambda client: client.post("/v1/alerts", json={"title": "t"}),
        "POST with a key": lambda client: client.post(
            "/v1/alerts", json={"title": "t"}, headers={"Idempotency-Key": fingerprint}
        ),
        "POST that may repeat": lambda client: client.post("/v1/alerts", json={"title": "t", "dedup_key": fingerprint}),
        "batch": lambda client: client.post(
            "/v1/alerts/batch", json=[{"title": "a"}, {"title": "b", "dedup_key": "b"}]
        ),
        "acknowledge": lambda client: client.post(f"/v1/alerts/{opened}/acknowledge"),
        "Alertmanager": lambda client: client.post(ALERTMANAGER, json={"alerts": [firing(fingerprint), firing("x")]}),
        "Alertmanager, resolved": lambda client: client.post(ALERTMANAGER, json={"alerts": [firing("x", "resolved")]}),
        "CloudEvents": lambda client: client.post(
            CLOUDEVENTS, json=event(1), headers={"Content-Type": BATCHED["Content-Type"].replace("-batch", "")}
        ),
        "CloudEvents, batch": lambda client: client.post(
            CLOUDEVENTS, content=json.dumps([event(1), event(2)]), headers=BATCHED
        ),
        "Apprise": lambda client: client.post("/v1/integrations/apprise", json={"title": "t", "message": "m"}),
        "revocation": lambda client: client.post("/v1/revocations", json={"jti": fingerprint}),
        "stream": lambda client: client.get("/v1/events"),
    }


@fault
async def test_nothing_is_answered_as_stored_and_everything_works_again(
    service: Service, fault: Callable[[Service], Any], reasons: set[str]
) -> None:
    node, fingerprint = service.node, uuid.uuid4().hex
    await eventually(service.is_ready)
    opened = (await node.post())["id"]
    stored = await service.stored()
    everything = f"{READ} {WRITE} alerts:manage admin"
    async with fault(service), node.http(fingerprint, everything) as client:
        await eventually(partial(service.is_unready, reasons))
        asked = requests(opened, fingerprint)
        answers = dict(zip(asked, await asyncio.gather(*(ask(client) for ask in asked.values())), strict=True))
        for name, answer in answers.items():
            assert answer.status_code == 503, (name, answer.text)
            assert_unavailable(answer, reasons)
        async with await node.stream(fingerprint) as stream:
            assert await stream.closed() == (1013, "overloaded")
        assert await service.is_unready(reasons)
        assert (await client.get("/healthz")).status_code == 200
    await eventually(service.is_ready)
    assert await service.stored() == stored
    async with node.http(fingerprint, everything) as client:
        for name, ask in requests(opened, fingerprint).items():
            if name != "stream":
                answer = await ask(client)
                assert answer.is_success, (name, answer.text)
    async with await node.live(fingerprint, after="latest") as stream:
        await node.post("after all")
        while (frame := await stream.next_of("event"))["alert"]["title"] != "after all":
            pass  # what was posted before the node held its lease again
        await stream.ack(frame["seq"])
        await node.flushed(frame["seq"])
    assert node.process.poll() is None
    assert "stopping" not in node.log.read_text()
    await assert_untampered(node)


async def test_a_lock_of_the_log_is_waited_for_and_said(service: Service) -> None:
    await eventually(service.is_ready)
    async with with_setting(service, "lock_timeout", "100ms"), held(service, TableLock.LOG.lock):
        await eventually(partial(service.is_unready, {"lock_timeout"}))
        async with service.node.http() as client:
            assert_unavailable(await client.post("/v1/alerts", json={"title": "t"}), {"lock_timeout"})
    await eventually(service.is_ready)


async def test_what_a_deadlock_rolled_back_is_stored_by_the_next_try(service: Service) -> None:
    node = service.node
    await eventually(service.is_ready)
    async with with_setting(service, "deadlock_timeout", "1s"):  # looked for once, that long after a wait began
        await eventually(service.is_ready)
        stored = await service.stored()
        connection = await service.connect()
        await connection.execute("SET deadlock_timeout = '60s'")  # the node is the one that notices
        async with node.http() as client:
            for fields in ({}, {"dedup_key": uuid.uuid4().hex}):
                deadlocks = await _deadlocks(connection)
                async with connection.transaction():
                    await connection.execute("LOCK TABLE alerts IN ACCESS EXCLUSIVE MODE")
                    posting = asyncio.create_task(client.post("/v1/alerts", json={"title": "t", **fields}))
                    await eventually(partial(_waits, service))
                    await connection.execute(TableLock.LOG.lock)
                assert (await posting).status_code == 201
                await eventually(partial(_more_deadlocks, connection, deadlocks))
        await connection.close()
        assert await service.stored() == stored + 2


async def _waits(service: Service) -> bool:
    """Say whether an append holds the lock of the log, and waits for the alerts."""
    return bool(
        await service.node.sql(
            "SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE l.relation = 'alerts'::regclass AND NOT l.granted AND a.usename = $1"
            " AND EXISTS (SELECT FROM pg_locks g"
            "             WHERE g.pid = l.pid AND g.granted AND g.relation = 'locks.log'::regclass)",
            service.role,
        )
    )


async def _deadlocks(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))


async def _more_deadlocks(connection: asyncpg.Connection, before: int) -> bool:
    return await _deadlocks(connection) > before


@asynccontextmanager
async def failing_inserts(service: Service, sqlstate: str, times: int) -> AsyncIterator[None]:
    """Let the next ``times`` inserts into ``alerts`` fail with ``sqlstate``."""
    await service.as_superuser(
        "CREATE SEQUENCE tries",
        f"GRANT ALL ON SEQUENCE tries TO {service.role}",
        f"""CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'hunter2' USING ERRCODE = '{sqlstate}'; END IF;
            RETURN NULL;
        END $$""",
        "CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON alerts FOR EACH STATEMENT EXECUTE FUNCTION fail()",
    )
    try:
        yield
    finally:
        await service.as_superuser("DROP TRIGGER fail ON alerts", "DROP FUNCTION fail", "DROP SEQUENCE tries")


@pytest.mark.parametrize("fields", [{}, {"dedup_key": "s"}], ids=["alert", "command"])
async def test_a_serialization_failure_is_tried_again_and_then_said(service: Service, fields: dict[str, Any]) -> None:
    await eventually(service.is_ready)
    stored = await service.stored()
    async with service.node.http(uuid.uuid4().hex) as client:
        async with failing_inserts(service, "40001", 2):
            assert (await client.post("/v1/alerts", json={"title": "t", **fields})).status_code == 201
        async with failing_inserts(service, "40001", 100):
            assert_unavailable(await client.post("/v1/alerts", json={"title": "t", **fields}), {"conflict"})
    assert await service.stored() == stored + 1
    await eventually(service.is_ready)


@pytest.mark.parametrize(
    ("sqlstate", "reason"),
    [("53100", "disk_full"), ("53200", "out_of_resources"), ("58030", "io_error"), ("57014", "timeout")],
)
async def test_what_passes_is_no_defect_of_an_alert(service: Service, sqlstate: str, reason: str) -> None:
    await eventually(service.is_ready)
    async with service.node.http(uuid.uuid4().hex) as client, failing_inserts(service, sqlstate, 1000):
        for path, body in (
            ("/v1/alerts", {"title": "t"}),
            ("/v1/alerts/batch", [{"title": "t"}, {"title": "t", "dedup_key": "k"}]),
            (ALERTMANAGER, {"alerts": [firing("a"), firing("b")]}),
        ):
            assert_unavailable(await client.post(path, json=body), {reason})
        assert_unavailable(await service.ready(), {reason})
    await eventually(service.is_ready)


async def test_an_alert_that_cannot_be_stored_at_all_is_never_answered_2xx(service: Service) -> None:
    await eventually(service.is_ready)
    fingerprint = uuid.uuid4().hex
    async with service.node.http(uuid.uuid4().hex) as client, failing_inserts(service, "22003", 2):
        # The first insert is that of both, the second that of the first alone.
        answer = await client.post(ALERTMANAGER, json={"alerts": [firing(fingerprint), firing("other")]})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "hunter2" not in answer.text
        answer = await client.post(ALERTMANAGER, json={"alerts": [firing(fingerprint), firing("other")]})
        assert answer.json() == {"stored": 1, "repeated": 1, "resolved": 0, "refused": 0}
    assert await service.is_ready()


async def test_the_half_of_a_batch_that_was_stored_is_found_again(service: Service) -> None:
    """Alerts without and with a dedup key are two transactions: the second fails."""
    await eventually(service.is_ready)
    events = [event(number) for number in range(1, 6)]
    events[3]["dedupkey"] = "k"
    async with service.node.http(uuid.uuid4().hex) as client:
        stored = await service.stored()
        async with failing_second_insert(service):
            answer = await client.post(CLOUDEVENTS, content=json.dumps(events), headers=BATCHED)
            assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown"), answer.text
            assert int(answer.headers["retry-after"]) >= 1
        assert await service.stored() == stored + 4
        answer = await client.post(CLOUDEVENTS, content=json.dumps(events), headers=BATCHED)
        assert [result["status"] for result in answer.json()["results"]] == [201] * 5
        assert [result.get("replayed", False) for result in answer.json()["results"]] == [True, True, True, False, True]
        assert await service.stored() == stored + 5


@asynccontextmanager
async def failing_second_insert(service: Service) -> AsyncIterator[None]:
    async with failing_inserts(service, "53100", 0):
        await service.as_superuser(
            """CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('tries') > 1 THEN RAISE EXCEPTION 'hunter2' USING ERRCODE = '53100'; END IF;
                RETURN NULL;
            END $$"""
        )
        yield


async def test_a_node_whose_connections_are_ended_again_and_again_goes_on(service: Service) -> None:
    await eventually(service.is_ready)
    stored, statuses = await service.stored(), []
    ending = asyncio.create_task(_end_connections(service, 30))
    async with service.node.http() as client:
        while not ending.done():
            answer = await client.post("/v1/alerts", json={"title": "t"})
            statuses.append((answer.status_code, answer.json().get("code")))
            await client.get("/v1/alerts")
            await client.get("/readyz")
    await ending
    await eventually(service.is_ready)
    assert {status for status, _ in statuses} <= {201, 503}
    certain = sum(status == 201 for status, _ in statuses)
    unknown = sum(code == "outcome_unknown" for _, code in statuses)
    assert stored + certain <= await service.stored() <= stored + certain + unknown
    assert service.node.process.poll() is None


async def _end_connections(service: Service, times: int) -> None:
    for _ in range(times):
        await service.disconnect()
        await asyncio.sleep(0.03)


# A disk that is full.


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder of PostgreSQL's that holds 32 MB."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-disk-", dir="/tmp"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=0755", "tmpfs", folder], check=False)
    try:
        if mounted.returncode:
            pytest.skip("no file system can be mounted here")
        folder.chmod(0o755)
        tablespace = folder / "tablespace"
        tablespace.mkdir()
        if os.geteuid() == 0:
            shutil.chown(tablespace, "pgserver")
        yield folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", folder], check=True)
        folder.rmdir()


async def test_a_full_disk_is_said_and_is_over_once_there_is_room(
    server_url: str, template: str, small_disk: Path, tmp_path: Path
) -> None:
    name = f"disk_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(server_url)
    await admin.execute(f"CREATE TABLESPACE {name} LOCATION '{small_disk / 'tablespace'}'")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} TABLESPACE {name} STRATEGY file_copy")
    url = with_database(server_url, name)
    node = await asyncio.to_thread(lambda: start_process(url, tmp_path, 0, **UNLIMITED))
    try:
        await _fill_and_free(node, small_disk)
        assert node.process.poll() is None
    finally:
        node.end()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP TABLESPACE {name}")
        await admin.close()


async def _fill_and_free(node: Node, disk: Path) -> None:
    filler = disk / "filler"
    with filler.open("wb") as file:
        free = shutil.disk_usage(disk).free - 256 * 1024
        file.write(b"\0" * free)
    body = os.urandom(4000).hex()  # does not compress to nothing
    async with httpx2.AsyncClient(
        base_url=node.base, headers={"Authorization": f"Bearer {token('billing', WRITE)}"}, **PLAIN
    ) as client:

        async def is_full() -> httpx2.Response | None:
            answer = await client.post("/v1/alerts", json={"title": "t", "body": body})
            assert answer.status_code in {201, 503}, answer.text
            return answer if answer.status_code == 503 else None

        assert_unavailable(await eventually(is_full), {"disk_full"})
        answer = await client.post(ALERTMANAGER, json={"alerts": [firing(str(number)) for number in range(300)]})
        assert answer.status_code == 503, answer.text
        await asyncio.sleep(1.5)  # what the commit met is not fresh any more: trials say so
        assert_unavailable(await client.get("/readyz"), {"disk_full"})
        filler.unlink()

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(is_ready)
        assert (await client.post("/v1/alerts", json={"title": "t", "body": body})).status_code == 201
