"""An evening on call, as the pictures of the README show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.harness import Node

ACTIONS = {"acknowledged": "acknowledge", "resolved": "resolve"}


@dataclass
class Post:
    """An alert of the evening."""

    minutes_ago: float
    severity: str
    source: str
    topic: str
    title: str
    status: str = "open"
    by: str = ""
    times: int = 1
    fields: dict[str, Any] = field(default_factory=dict)


BODY = """\
Acquirer X **times out** since 21:08 UTC; every fifth card payment in the EU fails.
See `acquirer.timeout_ms`, and [the runbook](https://runbooks.example/acquirer).

1. Look at https://status.example/acquirer-x
2. Move the traffic to *acquirer Y* with `payctl route --to Y`
"""
DETAILS = {
    "body": BODY,
    "attributes": {"acquirer": "X", "acceptance": 0.78, "countries": ["DE", "FR", "NL"]},
    "links": [{"title": "Runbook", "url": "https://runbooks.example/acquirer"}],
    "escalate_after": 1800,
}
EVENING = (
    Post(171, "info", "deploy", "platform.deploy", "Release 2026.47.3 is on all nodes", "resolved", "erin"),
    Post(164, "warning", "search", "search.index", "The index is 12 minutes behind", "resolved", "search"),
    Post(152, "error", "mailer", "mail.outbound", "1,204 messages were refused by the relay", "resolved", "bob"),
    Post(139, "info", "backup", "database.backup", "The nightly backup took 41 minutes", "resolved", "backup"),
    Post(121, "warning", "nodes", "platform.disk", "Disk of db-2 is 85 % full", "acknowledged", "erin", 14),
    Post(103, "info", "certs", "platform.certificates", "The certificate of api.example was renewed"),
    Post(96, "error", "ledger", "payments.settlement", "Acquirer Z has sent no settlement file", "acknowledged", "bob"),
    Post(88, "warning", "search", "search.latency", "Searches take 900 ms at the 99th percentile", "open", "", 6),
    Post(74, "info", "deploy", "platform.deploy", "Release 2026.47.4 is on half of the nodes"),
    Post(61, "error", "shop", "shop.checkout", "Checkout fails once in a thousand times", "resolved", "carol"),
    Post(47, "warning", "queue", "platform.queue", "The queue of invoices holds 52,000 entries", "open", "", 3),
    Post(33, "info", "fraud", "payments.fraud", "The model of today is in use"),
    Post(24, "warning", "edge", "platform.edge", "Frankfurt answers from the second path"),
    Post(16, "error", "mailer", "mail.outbound", "Bounces are at 4 %, three times the usual", "acknowledged", "carol"),
    Post(9, "critical", "billing", "payments.eu", "Card acceptance in the EU is below 80 %", "open", "", 37, DETAILS),
    Post(6, "error", "billing", "payments.eu", "Acquirer X does not answer its health check", "open", "", 9),
    Post(4, "warning", "shop", "shop.checkout", "Fewer carts are paid than an hour ago"),
    Post(2, "info", "support", "support.calls", "Eight customers called about card payments"),
    Post(0.7, "warning", "fraud", "payments.fraud", "Retries of declined cards have tripled"),
)
COMMENTS = (
    ("bob", "Looking. **Only acquirer X** is affected."),
    ("carol", "Their status page says `degraded` since 21:05. Who calls them?"),
)
_BACKDATED = (
    # The events of an alert are spread over the time that it has been there.
    """
    UPDATE events SET occurred_at = now() - $2 * interval '1 minute' * (1 - rank / count::float8)
    FROM (
        SELECT seq, count(*) OVER () AS count, row_number() OVER (ORDER BY seq) - 1 AS rank
        FROM events WHERE alert_id = $1
    ) AS ranked
    WHERE events.seq = ranked.seq
    """,
    """
    UPDATE alerts SET
        created_at = created_at - $2 * interval '1 minute',
        status_at = status_at - $2 * interval '1 minute' / 2,
        escalate_at = escalate_at - $2 * interval '1 minute'
    WHERE id = $1
    """,
)


async def tell(node: Node) -> str:
    """Post the evening, let the admins deal with it, and make it as old as it says; return the one commented on."""
    about = ""
    for post in EVENING:
        alert = {"topic": post.topic, "severity": post.severity, "title": post.title, **post.fields}
        if post.times > 1:
            alert["dedup_key"] = post.title
        async with node.http(post.source) as client:
            for _ in range(post.times):
                answer = (await client.post("/v1/alerts", json=alert)).raise_for_status().json()
        if post.by:
            async with node.http(post.by, "alerts:manage") as client:
                (await client.post(f"/v1/alerts/{answer['id']}/{ACTIONS[post.status]}")).raise_for_status()
        if post.severity == "critical":
            about = answer["id"]
            for name, text in COMMENTS:
                async with node.http(name, "alerts:manage") as client:
                    response = await client.post(f"/v1/alerts/{about}/comments", json={"text": text})
                    response.raise_for_status()
        for statement in _BACKDATED:
            await node.sql(statement, answer["id"], post.minutes_ago)
    return about
