from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.harness import HOUR, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process

ALERTS = 40


async def kinds(node: Process) -> Counter[str]:
    """Count the events of the log by kind."""
    return Counter({row[0]: row[1] for row in await node.sql("SELECT kind, count(*) FROM events GROUP BY kind")})


async def test_what_falls_due_while_no_node_runs_is_sent_once_by_those_that_come(start: Callable[..., Process]) -> None:
    node = start()
    at = (datetime.now(UTC) + timedelta(seconds=HOUR)).isoformat()
    await node.post_all([{"title": f"{n}", "escalate_after": HOUR} for n in range(ALERTS)])
    await node.post_all([{"title": f"{n}", "expires_at": at} for n in range(ALERTS)])
    await node.post_all([{"title": f"{n % ALERTS}", "dedup_key": f"{n % ALERTS}"} for n in range(3 * ALERTS)])
    node.kill()
    before = await kinds(node)
    assert (before["alert.escalated"], before["alert.expired"]) == (0, 0)
    await node.an_hour_passes()
    start(), start(), start()
    await eventually(lambda: _is_empty(node, "SELECT FROM alerts WHERE due_at IS NOT NULL AND status = 'open'"))
    after = await kinds(node)
    assert (after["alert.escalated"], after["alert.expired"]) == (ALERTS, ALERTS)
    once = "SELECT FROM events WHERE kind <> 'alert.repeated' GROUP BY alert_id, kind HAVING count(*) > 1"
    assert await _is_empty(node, once)
    counted = await node.sql(
        "SELECT sum((e.body->>'occurrences')::int) FROM alerts a JOIN LATERAL"
        " (SELECT body FROM events WHERE alert_id = a.id ORDER BY seq DESC LIMIT 1) e ON dedup_key IS NOT NULL"
    )
    assert counted[0][0] == 3 * ALERTS


async def _is_empty(node: Process, query: str) -> bool:
    return not await node.sql(query)
