"""The faults: each is a coroutine that does something to the world, and puts right what an operator would."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg

from tests.faults.trials.nodes import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.faults.trials.world import World

BEYOND_STATEMENT_TIMEOUT_SECONDS = 4
BEYOND_LEASE_SECONDS = LEASE_SECONDS + 1
CANCEL_PROBABILITY = 0.5
HOUR = 3600
PASSING_TRANSACTIONS = 40
CLIENT_BACKENDS = "backend_type = 'client backend' AND pid <> pg_backend_pid()"

# Nodes.


async def kill_node(world: World) -> None:
    """Kill a node, start another on its port, and wait until the lease of the one that was killed has ended."""
    node = world.choose_node(world.random)
    pid = node.pid
    node.kill()
    await node.start()
    await _lease_ended(world, pid)


async def freeze_node(world: World) -> None:
    """Stop a node until its lease has ended, and let it go on."""
    node = world.choose_node(world.random)
    node.freeze()
    try:
        await _lease_ended(world, node.pid)
    finally:
        node.thaw()


async def _lease_ended(world: World, pid: int) -> None:
    async def ended() -> bool:
        return bool(await world.sql("SELECT FROM nodes WHERE pid = $1 AND ended_at IS NOT NULL", pid))

    await world.eventually(ended, f"the lease of node {pid} has ended")


async def restart_nodes(world: World) -> None:
    """Restart all nodes, one after the other."""
    for node in world.nodes:
        await world.stop_node(node)
        await node.start()


async def step_clocks(world: World) -> None:
    """Set clocks back and forth by an hour: a node's, and the primary's. Leases and sessions go on."""
    if world.clock is None:
        return
    world.clocks_are_true = False
    node = world.choose_node(world.random)
    assert node.clock is not None
    ended = "SELECT pid FROM nodes WHERE ended_at IS NOT NULL"
    before = await world.sql(ended)
    for clock, seconds in ((node.clock, -HOUR), (node.clock, 0), (world.clock, HOUR), (world.clock, 0)):
        clock.shift(seconds)
        await asyncio.sleep(BEYOND_LEASE_SECONDS)
    if len(await world.sql(ended)) > len(before):
        world.complaints.append("a lease ended when clocks were set")


# PostgreSQL stops.


async def crash_database(world: World) -> None:
    """Kill PostgreSQL three times while it commits."""
    for _ in range(3):
        await world.go_on(15)
        await asyncio.to_thread(world.primary.crash)
        await asyncio.to_thread(world.primary.start)


async def crash_before_commit(world: World) -> None:
    """Kill PostgreSQL when it is about to get a COMMIT, and let other transactions take the ids that it forgot."""
    held = asyncio.Event()

    async def hold_commits(data: bytes) -> None:
        if b"COMMIT" in data:
            held.set()
            await asyncio.Event().wait()

    world.proxy.before = hold_commits
    await held.wait()
    await asyncio.sleep(0.3)  # for the COMMIT of an alert, should this be one of the ledger
    await asyncio.to_thread(world.primary.crash)
    world.proxy.point_at(None)
    world.proxy.before = None
    await asyncio.to_thread(world.primary.start)
    for _ in range(PASSING_TRANSACTIONS):
        await world.sql("SELECT pg_current_xact_id()")
    world.proxy.point_at(world.primary.port)


async def fill_disk(world: World) -> None:
    """Fill the disk of PostgreSQL, and make room again."""
    assert world.disk is not None
    filler = world.disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    await _expect_not_ready(world, "the disk is full")
    filler.unlink()
    await _start_if_ended(world)


async def _start_if_ended(world: World) -> None:
    """Start PostgreSQL if the fault has ended it."""
    process = world.primary.process
    await asyncio.sleep(1)
    if process is not None and process.poll() is not None:
        await asyncio.to_thread(world.primary.crash)
        await asyncio.to_thread(world.primary.start)


# PostgreSQL changes its place, or its past.


async def fail_over_with_loss(world: World) -> None:
    """Promote a replica that lacks the last events, while the nodes go on."""
    with _offline(world):
        world.link.point_at(None)
        await world.go_on(40)
        await world.fail_over()


async def fail_over_without_loss(world: World) -> None:
    """Promote a replica that has everything; no client may be reset."""
    world.proxy.point_at(None)
    await _without_sessions(world)
    await world.eventually(world.is_replicated, "the replica has everything")
    with _offline(world):
        await world.fail_over()
    if world.lost_lines[-1].log != (await _log(world))[: len(world.lost_lines[-1].log)]:
        world.complaints.append("a replica that has everything lacks something")


async def lose_synchronous_standby(world: World) -> None:
    """Cut off the synchronous standby for so long that nodes give up waiting for it, then promote it.

    Meanwhile an administrator cancels what waits, which PostgreSQL then reports as committed, with a warning.
    """
    world.link.point_at(None)
    for _ in range(2 * BEYOND_STATEMENT_TIMEOUT_SECONDS):
        await asyncio.sleep(1)
        if world.random.random() < CANCEL_PROBABILITY:
            await world.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    with _offline(world):
        await world.fail_over()


async def interrupt_replication(world: World) -> None:
    """Cut off the standby for so long that nodes give up waiting for it, and let it return."""
    world.link.point_at(None)
    await asyncio.sleep(BEYOND_STATEMENT_TIMEOUT_SECONDS)
    world.link.point_at(world.primary.port)


async def restore_snapshot(world: World) -> None:
    """Go back to a snapshot of the data, under nodes that go on."""
    snapshot = world.folder / f"snapshot-{len(world.lost_lines)}"
    await asyncio.to_thread(world.primary.snapshot, snapshot)
    await world.go_on(40)
    with _offline(world):
        await world.restore(snapshot)


# PostgreSQL refuses.


async def lock_out(world: World) -> None:
    """Hold the tables of the alerts for longer than the server lets a session wait for a lock."""
    with _configured(world, lock_timeout="200ms"):
        async with _session(world) as session, session.transaction():
            await session.execute("SET LOCAL lock_timeout = 0; LOCK TABLE alerts, events IN EXCLUSIVE MODE")
            await asyncio.sleep(1.5)


async def deadlock(world: World) -> None:
    """Take what a node waits for, and then what it has, until PostgreSQL ends its transaction."""
    waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'idempotency_keys'::regclass"
    with _configured(world, deadlock_timeout="300ms"):
        await asyncio.sleep(0.2)
        for _ in range(3):
            async with _session(world) as session, session.transaction():
                await session.execute(
                    "SET LOCAL deadlock_timeout = '1h'; LOCK TABLE idempotency_keys IN EXCLUSIVE MODE"
                )

                async def waiting() -> bool:
                    return bool(await world.sql(waits))

                await world.eventually(waiting, "a node waits for the keys")
                await session.execute("LOCK TABLE alerts, events IN EXCLUSIVE MODE")


async def forbid_writing(world: World) -> None:
    """Make PostgreSQL read-only for a while."""
    with _configured(world, default_transaction_read_only="on"):
        await _expect_not_ready(world, "PostgreSQL is read-only")


async def use_up_connections(world: World) -> None:
    """Cut the connections of the nodes, and take all that PostgreSQL has."""
    async with AsyncExitStack() as stack:
        world.proxy.cut()
        try:
            while True:
                await stack.enter_async_context(_session(world))
        except asyncpg.PostgresError:
            pass
        await asyncio.sleep(2)


async def end_sessions(world: World) -> None:
    """End all sessions, as an administrator may."""
    await world.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {CLIENT_BACKENDS}")


async def end_listening(world: World) -> None:
    """End the sessions that listen for notifications, again and again."""
    for _ in range(3):
        await world.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {CLIENT_BACKENDS} AND query ILIKE 'LISTEN%'"
        )
        await world.go_on(10)


async def lose_packets(world: World) -> None:
    """Let nothing through between the nodes and PostgreSQL, for longer than a statement may take."""
    world.proxy.hold()
    await asyncio.sleep(BEYOND_STATEMENT_TIMEOUT_SECONDS)
    world.proxy.release()


# What they share.


@contextmanager
def _offline(world: World) -> Iterator[None]:
    """Keep two of the recipients offline meanwhile."""
    chosen = world.random.sample(world.recipients, 2)
    for recipient in chosen:
        recipient.is_away = True
    try:
        yield
    finally:
        for recipient in chosen:
            recipient.is_away = False


@contextmanager
def _configured(world: World, **settings: str) -> Iterator[None]:
    """Change settings of PostgreSQL meanwhile."""
    defaults = {"lock_timeout": "0", "deadlock_timeout": "1s", "default_transaction_read_only": "off"}
    world.primary.configure(settings)
    try:
        yield
    finally:
        world.primary.configure({name: defaults[name] for name in settings})


@asynccontextmanager
async def _session(world: World) -> AsyncIterator[asyncpg.Connection]:
    session = await asyncpg.connect(world.primary.url)
    try:
        yield session
    finally:
        await session.close()


async def _without_sessions(world: World) -> None:
    """Wait until the sessions of the nodes have ended, and so have written what they were about to write."""

    async def none() -> bool:
        return not await world.sql(f"SELECT FROM pg_stat_activity WHERE {CLIENT_BACKENDS}")

    await world.eventually(none, "the sessions of the nodes have ended")


async def _log(world: World) -> list[object]:
    return list(await type(world.lost_lines[-1].log)().read(world.primary.url))


async def _expect_not_ready(world: World, reason: str) -> None:
    """Wait until no node says that it can store."""

    async def none_is_ready() -> bool:
        return all([await node.readiness() == 503 for node in world.nodes])

    await world.eventually(none_is_ready, f"/readyz of all nodes answers 503 while {reason}", 10)
