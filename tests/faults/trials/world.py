"""The world of a trial: its nodes, the servers that they store in, and what stands between.

::

    clients ──► nodes ──► (PgBouncer) ──► proxy ──► primary ──► link, a proxy ──► replica

The nodes know one address only. A failover promotes the replica, points the proxy there, and keeps the log of the old
primary, as it was in the end, for the judge.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import asyncpg

from scripts.system_packages import libfaketime
from tests.faults.trials.nodes import Node
from tests.faults.trials.recipients import (
    ForgetfulRecipient,
    LongPollRecipient,
    Recipient,
    SseRecipient,
    WebSocketRecipient,
)
from tests.faults.trials.records import Change, Log, LostLine, Subscription, now
from tests.faults.trials.sources import Source
from tests.fixtures.fake_clock import FakeClock
from tests.fixtures.pgbouncer import PgBouncer
from tests.fixtures.postgres_cluster import DATABASE, HOST, ROLE, Server, free_port
from tests.fixtures.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PATIENCE = 40.0
NODES, SOURCES = 2, 3
POOLER = {
    "default_pool_size": "40",
    "query_wait_timeout": "3",
    "server_connect_timeout": "2",
    "ignore_startup_parameters": "synchronous_commit,default_transaction_isolation,idle_in_transaction_session_timeout",
}
"""By default it refuses a session that starts with parameters; this one drops them."""
ACTIVITY = """
SELECT pid, state, wait_event, clock_timestamp() - xact_start AS since, left(query, 80) AS query,
       pg_blocking_pids(pid) AS blocked_by
FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()
"""
SUBSCRIPTIONS: tuple[tuple[type[Recipient], Subscription], ...] = (
    (WebSocketRecipient, Subscription("alice")),
    (WebSocketRecipient, Subscription("bob", ("payments.*",))),
    (SseRecipient, Subscription("carol")),
    (LongPollRecipient, Subscription("dave", ("*",), "warning")),
    (ForgetfulRecipient, Subscription("erin")),
    (WebSocketRecipient, Subscription("frank", ("payments.eu", "search"), "error")),
)


@dataclass(frozen=True)
class Setup:
    """What a trial runs on."""

    replica: str | None = None
    """``asynchronous`` or ``synchronous``."""
    pooler: str | None = None
    """The mode of PgBouncer."""
    server: dict[str, str] = field(default_factory=dict)
    """Settings of PostgreSQL."""
    own_clocks: bool = False
    """Whether the nodes and the primary have clocks that a fault may set."""
    disk_bytes: int | None = None
    """The size of the primary's disk, which is then one of its own."""

    def __str__(self) -> str:
        parts = [self.replica and f"{self.replica} replica", self.pooler and f"{self.pooler} pooling"]
        parts += [f"{name}={value}" for name, value in self.server.items()]
        parts += [f"a disk of {self.disk_bytes >> 20} MiB" if self.disk_bytes else None]
        return ", ".join(part for part in parts if part) or "one server"


class World:
    """One trial's world. ``template`` is a migrated server that does not run, to copy."""

    def __init__(self, template: Server, folder: Path, seed: int, setup: Setup) -> None:
        self.template = template
        self.folder = folder
        self.seed = seed
        self.random = Random(f"{seed}/world")
        self.setup = setup
        self.primary: Server
        self.standby: Server | None = None
        self.disk: Path | None = None
        self.clock: FakeClock | None = None
        """The clock of the primary."""
        self.pooler: PgBouncer | None = None
        self.proxy = TcpProxy()
        self.link = TcpProxy()
        self.nodes: list[Node] = []
        self.recipients: list[Recipient] = []
        self.changes: list[Change] = []
        self.alerts: list[str] = []
        """Ids of alerts that were answered as stored."""
        self.stored = 0
        self.lost_lines: list[LostLine] = []
        self.complaints: list[str] = []
        self.clocks_are_true = True
        self.is_over = False
        self.is_stopping = False
        self.head: int | None = None
        """The seq of the last event, once there are no more changes."""
        self._stack = AsyncExitStack()
        self._servers: list[Server] = []

    # Building and ending.

    async def build(self) -> None:
        """Start the servers, what stands before them, and the nodes."""
        await self._stack.enter_async_context(self.proxy)
        await self._stack.enter_async_context(self.link)
        self.primary = await asyncio.to_thread(self.template.copy, self._make_disk() / "primary")
        self._servers.append(self.primary)
        self.primary.configure(self.setup.server)
        if clock := self._make_clock("primary"):
            self.clock, self.primary.environment = clock, clock.environment
        await asyncio.to_thread(self.primary.start)
        await self.add_standby()
        self.proxy.target = self.primary.port
        if self.setup.pooler:
            server = f"host={HOST} port={self.proxy.port}"
            self.pooler = PgBouncer(self.folder / "pgbouncer", server, self.setup.pooler, POOLER)
            await asyncio.to_thread(self.pooler.start)
        self.nodes = [self._make_node(free_port()) for _ in range(NODES)]
        await asyncio.gather(*(node.start() for node in self.nodes))
        self.recipients = [kind(self, subscription) for kind, subscription in SUBSCRIPTIONS]

    def _make_disk(self) -> Path:
        """Return the folder of the primary's folder: a disk of its own, if the set-up has one."""
        if self.setup.disk_bytes is None:
            return self.folder
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self.setup.disk_bytes},mode=755", "tmpfs", self.disk], check=True
        )
        self._stack.callback(lambda: subprocess.run(["umount", "-l", str(self.disk)], check=True))
        return self.disk

    async def close(self) -> None:
        """End everything at once."""
        for node in self.nodes:
            node.kill()
        if self.pooler is not None:
            self.pooler.stop()
        for server in self._servers:
            await asyncio.to_thread(server.crash)
        await self._stack.aclose()

    async def add_standby(self) -> None:
        """Make a replica, if the set-up has one. Commits wait for one that is synchronous from now on."""
        if self.setup.replica is None:
            return
        self.link.target = self.primary.port
        folder = self.folder / f"standby-{len(self._servers)}"
        self.standby = await asyncio.to_thread(self.primary.replica, folder, self.link.port)
        self._servers.append(self.standby)
        await asyncio.to_thread(self.standby.start)
        await self.eventually(self.is_replicated, "the replica streams")
        if self.setup.replica == "synchronous":
            self.primary.configure({"synchronous_standby_names": "*"})

    # Nodes.

    def choose_node(self, random: Random) -> Node:
        """Choose a node that serves, as a load balancer does."""
        return random.choice([node for node in self.nodes if node.is_serving] or self.nodes)

    def _make_node(self, port: int) -> Node:
        variables = {
            "TOCSIN_DATABASE_URL": _url(self.pooler.port if self.pooler else self.proxy.port),
            "TOCSIN_DATA_DIR": str(self.folder),
        }
        if self.pooler is not None:
            variables["TOCSIN_LISTEN_URL"] = _url(self.proxy.port)
        return Node(port, self.folder / f"node-{port}.log", variables, self._make_clock(str(port)))

    def _make_clock(self, name: str) -> FakeClock | None:
        return FakeClock(self.folder / f"clock-{name}") if self.setup.own_clocks and libfaketime() else None

    async def stop_node(self, node: Node) -> None:
        """Ask a node to stop, and complain if it does not, or already has."""
        if complaint := await node.stop():
            self.complaints.append(complaint)

    async def _supervise(self) -> None:
        """Start again what ended by itself, and complain if it was a node.

        PgBouncer 1.18 ends with "bad client state" where many requests to cancel a statement are on their way.
        """
        while True:
            if self.pooler is not None and self.pooler.has_ended():
                await asyncio.to_thread(self.pooler.start)
            for node in self.nodes:
                if complaint := node.ended_by_itself():
                    self.complaints.append(complaint)
                    await node.start()
            await asyncio.sleep(0.2)

    # The database.

    async def sql(self, query: str, *arguments: Any, server: Server | None = None) -> list[Any]:
        """Ask a server, by default the primary, past the proxy."""
        connection = await asyncpg.connect((server or self.primary).url)
        try:
            rows: list[Any] = await connection.fetch(query, *arguments)
        finally:
            await connection.close()
        return rows

    async def is_replicated(self) -> bool:
        """Say whether the replica has everything that the primary wrote."""
        assert self.standby is not None
        [primary] = await self.sql("SELECT pg_current_wal_lsn() AS at")
        [standby] = await self.sql("SELECT pg_last_wal_replay_lsn() AS at", server=self.standby)
        rows = await self.sql("SELECT $1::pg_lsn <= $2::pg_lsn AS is_there", primary["at"], standby["at"])
        return bool(rows[0]["is_there"])

    async def fail_over(self) -> None:
        """Kill the primary, promote the replica, and lead the nodes there."""
        assert self.standby is not None
        old, self.primary, self.standby = self.primary, self.standby, None
        self.proxy.point_at(None)
        self.link.point_at(None)
        await asyncio.to_thread(old.crash)
        self.primary.configure({"synchronous_standby_names": ""})
        await asyncio.to_thread(self.primary.promote)
        ended = now()
        # Where nobody else reaches it, the old primary says what it had: its committed events.
        old.configure({"synchronous_standby_names": ""})
        await asyncio.to_thread(old.start)
        log = await Log().read(old.url)
        await asyncio.to_thread(old.crash)
        self.lost_lines.append(LostLine(log, ended, self.setup.replica == "asynchronous"))
        self.proxy.point_at(self.primary.port)
        await self.add_standby()

    async def restore(self, snapshot: Path) -> None:
        """Kill the primary, and start it with the data of a snapshot."""
        self.proxy.point_at(None)
        log = await Log().read(self.primary.url)
        await asyncio.to_thread(self.primary.crash)
        self.lost_lines.append(LostLine(log, now(), may_lose_answered=True))
        await asyncio.to_thread(self.primary.restore, snapshot)
        await asyncio.to_thread(self.primary.start)
        self.proxy.point_at(self.primary.port)

    # Waiting.

    async def eventually(self, condition: Callable[[], Awaitable[Any]], what: str, patience: float = PATIENCE) -> bool:
        """Wait until a condition is true; complain if it does not become so."""
        deadline = time.monotonic() + patience
        while True:
            try:
                if await condition():
                    return True
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass
            if time.monotonic() > deadline:
                self.complaints.append(f"it did not become true that {what}; sessions: {await self._activity()}")
                return False
            await asyncio.sleep(0.05)

    async def _activity(self) -> list[dict[str, Any]]:
        """Return what the sessions of the primary are doing, if it answers."""
        try:
            return [dict(row) for row in await self.sql(ACTIVITY)]
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return []

    async def go_on(self, changes: int = 30) -> None:
        """Wait until so many more alerts are stored."""
        goal = self.stored + changes

        async def reached() -> bool:
            return self.stored >= goal

        await self.eventually(reached, f"{changes} more alerts are stored")

    # The course of a trial.

    async def live(self, inject: Callable[[], Awaitable[None]]) -> None:
        """Let clients come and change things while ``inject`` lets faults happen, and see all of them to a good end."""
        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(recipient.run()) for recipient in self.recipients]
            care = tasks.create_task(self._supervise())
            sources = [tasks.create_task(Source(self, number).run()) for number in range(SOURCES)]
            await self.go_on()
            await inject()
            await self.go_on()
            self.is_over = True
            await asyncio.wait(sources)
            await self._come_to_rest()
            care.cancel()
            self.is_stopping = True
            await asyncio.gather(*(self.stop_node(node) for node in self.nodes))
            _, late = await asyncio.wait(readers, timeout=PATIENCE)
            for task in late:
                task.cancel()

    async def _come_to_rest(self) -> None:
        for recipient in self.recipients:
            recipient.is_away = False
        self.head = (await self.sql("SELECT coalesce(max(seq), 0) AS head FROM events"))[0]["head"]

        async def settled() -> bool:
            return all(recipient.record.is_settled for recipient in self.recipients)

        if not await self.eventually(settled, "each client has everything"):
            late = [one.record for one in self.recipients if not one.record.is_settled]
            self.complaints += [f"{record} is at {record.cursor} of {self.head}" for record in late]

        async def no_node_is_lost() -> bool:
            rows = await self.sql("SELECT count(*) AS nodes FROM nodes WHERE ended_at IS NULL")
            return bool(rows[0]["nodes"] <= len(self.nodes))

        await self.eventually(no_node_is_lost, "the lease of each node that was killed has ended")


def _url(port: int) -> str:
    return f"postgresql://{ROLE}@{HOST}:{port}/{DATABASE}"
