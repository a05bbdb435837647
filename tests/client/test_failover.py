"""The Python client over a real failover: PostgreSQL goes on without the last commits, and the node with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.client import AsyncClient, Disconnected, Reset
from tests.harness import eventually, serving, token
from tests.stream.test_history_of_nodes import post

if TYPE_CHECKING:
    from tests.fixtures.failover import FailoverDatabase


async def test_a_stream_is_reset_after_a_failover_and_goes_on_with_what_the_log_has(failover: FailoverDatabase) -> None:
    notices: list[Any] = []
    with serving(failover.url) as node:
        await post(node, "1", "2")
        async with (
            AsyncClient(node.base, token("alice"), trust_env=False) as tocsin,
            tocsin.stream(after=0, on_notice=notices.append) as events,
        ):
            before = [await anext(events) for _ in range(2)]
            await failover.replicate()
            await post(node, "void 3", "void 4")
            before += [await anext(events) for _ in range(2)]
            await failover.fail_over()
            await post(node, "3", "4", "5")
            after = [await anext(events) for _ in range(3)]
            cursor = events.cursor
        await eventually(lambda: node.sql("SELECT FROM audit.deliveries WHERE seq = 5 AND received_at IS NOT NULL"))
        async with (
            AsyncClient(node.base, token("alice"), trust_env=False) as tocsin,
            tocsin.stream(after=before[3].cursor, on_notice=notices.append) as events,
        ):
            again = await anext(events)
    assert [event.alert.title for event in before + after] == ["1", "2", "void 3", "void 4", "3", "4", "5"]
    assert [event.seq for event in after] == [3, 4, 5]
    assert "history_changed" in [notice.reason for notice in notices if isinstance(notice, Disconnected)]
    reset = Reset(2, before[1].cursor)
    assert [notice for notice in notices if isinstance(notice, Reset)] == [reset, reset]
    assert (again.id, cursor) == (after[0].id, after[2].cursor)
