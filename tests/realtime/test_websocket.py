from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.harness import Node


async def test_an_alert_reaches_an_admin_who_is_connected(node: Node) -> None:
    stream = await node.live()
    alert = await node.post("Card acceptance below 80 %", topic="payments.eu", severity="critical")
    event = await stream.next_of("event")
    assert (event["seq"], event["kind"], event["actor"]) == (alert.pop("seq"), "alert.created", "billing")
    assert event["alert"] == alert
    await stream.close()
