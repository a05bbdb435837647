from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.faults.load import UNLIMITED, Admin, assert_untampered, post_all, received_all
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process


@pytest.mark.parametrize(
    ("nodes", "alerts"),
    [(2, 1_500), *(pytest.param(nodes, 10_000, marks=pytest.mark.long) for nodes in (1, 2))],
)
async def test_concurrent_alerts_are_one_gapless_log_and_reach_each_admin_in_order(
    start: Callable[..., Process], nodes: int, alerts: int
) -> None:
    serving = [start(**UNLIMITED) for _ in range(nodes)]
    first, last = serving[0], serving[-1]
    admins = [
        Admin(first, "alice"),
        Admin(last, "bob"),
        Admin(first, "carol", topics=("payments.*",)),
        Admin(last, "carol", topics=("search", "default"), min_severity="error"),
    ]
    async with AsyncExitStack() as stack:
        for admin in admins:
            await stack.enter_async_context(admin)
        await eventually(lambda: all(admin.sessions for admin in admins))
        stored = await post_all(serving, alerts, workers=32)
        await eventually(await received_all(admins))
        for admin in admins:
            assert len(admin.sessions) == 1
            assert admin.seqs == await admin.expected()
    await assert_untampered(first)
    everything = list(range(1, alerts + 1))
    assert [row[0] for row in await first.sql("SELECT seq FROM events ORDER BY seq")] == everything
    assert sorted(alert["seq"] for alert in stored) == everything
    in_table = await first.sql(
        "SELECT seq, alert_id::text FROM events JOIN alerts USING (seq) WHERE alerts.id = alert_id"
    )
    assert dict(in_table) == {alert["seq"]: alert["id"] for alert in stored}
