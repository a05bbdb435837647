from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from service.database import notifications
from service.database.notifications import FLOOD_PER_SECOND
from service.settings import Settings, StreamSettings
from tests.fixtures.notifications import kill_listeners
from tests.harness import BODY, PATIENCE, Node, eventually, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.notifications import WithoutNotifications

NEVER = PATIENCE * 4
FLOOD = f"SELECT count(pg_notify('tocsin_events', 'x' || n)) FROM generate_series(1, {FLOOD_PER_SECOND * 2}) AS n"
"""Twice as many as the limit of a second: another second may begin meanwhile."""


@pytest.fixture
def by_bus(database_url: str) -> Iterator[Node]:
    """A node that only a notification wakes."""
    with serving(database_url, Settings(stream=StreamSettings(log_poll_interval_seconds=NEVER))) as running:
        yield running


async def both_listen(node: Node, but_not: frozenset[int] = frozenset()) -> frozenset[int] | None:
    """Return the backends of the two buses once both listen to all that they listen to."""
    rows = await node.sql(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN \"tocsin_presence\"'"
    )
    pids = frozenset(row[0] for row in rows) - but_not
    return pids if len(pids) == 2 else None


async def insert_silently(node: Node, count: int) -> list[int]:
    """Append events without a notification, as if it had been lost."""
    rows = await node.sql(
        """
        INSERT INTO events (seq, id, alert_id, kind, topic, severity, actor, occurred_at, body)
        SELECT (SELECT coalesce(max(seq), 0) FROM events) + n, n, gen_random_uuid(), 'alert.created', 'default', 'info',
               'nobody', clock_timestamp(), $2::json
        FROM generate_series(1, $1::int) AS n RETURNING seq
        """,
        count,
        json.dumps(BODY),
    )
    seqs = sorted(row[0] for row in rows)
    await node.sql("INSERT INTO log_chain SELECT seq, $1, id, now(), '' FROM events WHERE seq = $2", seqs[0], seqs[-1])
    return seqs


async def test_a_commit_on_one_node_wakes_the_other(node: Node, by_bus: Node) -> None:
    await eventually(partial(both_listen, node))
    async with await by_bus.live() as stream:
        alert = await node.post()
        assert (await stream.next_of("event"))["seq"] == alert["seq"]


async def test_a_lost_notification_costs_no_more_than_the_poll(node: Node) -> None:
    async with await node.live() as stream:
        seqs = await insert_silently(node, 3)
        assert [event["seq"] for event in await stream.events(3)] == seqs
        alert = await node.post()
        assert (await stream.next_of("event"))["seq"] == alert["seq"] == seqs[-1] + 1


async def test_notifications_may_be_repeated_late_or_wrong(node: Node, by_bus: Node) -> None:
    await eventually(partial(both_listen, node))
    async with await by_bus.live() as stream:
        for payload in (1, 10**6, 0, 10**6, 1):
            await node.sql(f"NOTIFY tocsin_events, '{payload}'")
        seqs = [(await node.post())["seq"] for _ in range(5)]
        for payload in (1, 5, 3, 5):
            await node.sql(f"NOTIFY tocsin_events, '{payload}'")
        last = (await node.post())["seq"]
        assert [event["seq"] for event in await stream.events(6)] == [*seqs, last]


async def test_a_node_without_its_bus_polls(
    node: Node, no_notifications: WithoutNotifications, database_url: str
) -> None:
    with serving(database_url) as other:
        async with await other.live() as stream, no_notifications(node):
            seqs = [(await node.post())["seq"] for _ in range(5)]
            assert [event["seq"] for event in await stream.events(5)] == seqs


async def test_a_bus_that_was_cut_comes_back(node: Node, by_bus: Node) -> None:
    async with await by_bus.live() as stream:
        before = await eventually(partial(both_listen, node))
        assert await kill_listeners(node) == 2
        await eventually(partial(both_listen, node, but_not=before))
        alert = await node.post()
        assert (await stream.next_of("event"))["seq"] == alert["seq"]


async def test_a_node_that_is_flooded_polls_for_a_while_and_listens_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notifications, "FLOOD_REST_SECONDS", 3)
    async with await node.live() as stream:
        before = await eventually(partial(listener, node))
        await node.sql(FLOOD)
        await eventually(partial(nobody_listens, node))
        alert = await node.post()
        assert (await stream.next_of("event"))["seq"] == alert["seq"]
        async with node.http("root", "admin") as client:
            revoked = await client.post("/v1/revocations", json={"jti": "while nobody listens"})
        assert "unconfirmed" not in revoked.json()
        assert await nobody_listens(node)
        assert await eventually(partial(listener, node)) != before
    assert capfd.readouterr().out.count("too many notifications") == 1


async def test_what_nodes_send_is_no_flood(node: Node) -> None:
    before = await eventually(partial(listener, node))
    await node.sql(
        f"SELECT count(pg_notify('tocsin_events', n::text)) FROM generate_series(11, {FLOOD_PER_SECOND}) AS n"
    )
    async with await node.live() as stream:
        alert = await node.post()
        assert (await stream.next_of("event"))["seq"] == alert["seq"]
    assert await listener(node) == before


async def listener(node: Node) -> int | None:
    """Return the backend of the bus of the only node, once it listens to all that it listens to."""
    rows = await node.sql(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN \"tocsin_presence\"'"
    )
    return rows[0][0] if rows else None


async def nobody_listens(node: Node) -> bool:
    return await listener(node) is None
