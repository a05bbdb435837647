"""Clients that want something stored: they post alerts and comment on them, and write down each answer.

Some insist, with the same ``Idempotency-Key`` or dedup key, until it is stored; others give up after the first answer,
so that an answer which says that nothing was stored can be held to it.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import httpx2

from tests.faults.trials.records import SEVERITIES, STORED, Answer, Change, token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.trials.world import World

TOPICS = ("payments.eu", "payments.us", "search", "default")
PATIENCE_SECONDS = 8
PAUSE_SECONDS = 0.05
ASKS = 100
"""How often one that insists asks at most."""


class Source:
    """One client. It begins no change when the world is over, and ends the one that it is about."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"source-{number}"
        self.random = Random(f"{world.seed}/{self.name}")
        self._names = 0
        headers = {"Authorization": f"Bearer {token(self.name, 'alerts:read alerts:write alerts:manage')}"}
        self._http = httpx2.AsyncClient(headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)

    async def run(self) -> None:
        """Change something again and again."""
        ways = (self._post, self._post, self._post_by_key, self._post_batch, self._notify, self._comment)
        async with self._http:
            while not self.world.is_over:
                await self.random.choice(ways)()
                await asyncio.sleep(self.random.expovariate(1 / PAUSE_SECONDS))

    def _alert(self) -> dict[str, Any]:
        random, names = self.random, [client.subscription.recipient for client in self.world.recipients]
        self._names += 1
        return {
            "title": f"{self.name} {self._names}",
            "topic": random.choice(TOPICS),
            "severity": random.choice(SEVERITIES),
            "body": "x" * random.choice((1, 1, 300, 3000)),
            "attributes": {"number": self._names},
            "recipients": random.sample(names, random.randint(1, len(names))) if random.random() < 0.2 else None,
        }

    async def _post(self) -> None:
        """Post an alert with an idempotency key."""
        alert = self._alert()
        change = Change(alert["title"], "alert.created", alert)
        await self._insist([change], "/v1/alerts", alert, {"Idempotency-Key": alert["title"]})

    async def _post_by_key(self) -> None:
        """Post an alert with a dedup key that others of this source have too."""
        key = f"key {self.random.randrange(6)}"
        alert = {**self._alert(), "dedup_key": key, "topic": "default", "recipients": None}
        change = Change(alert["title"], "alert.created", alert, repeats=key)
        await self._insist([change], "/v1/alerts", alert, {})

    async def _post_batch(self) -> None:
        """Post a batch, of which each alert is answered by itself."""
        alerts = [self._alert() for _ in range(self.random.choice((2, 5, 12)))]
        changes = [Change(alert["title"], "alert.created", alert) for alert in alerts]
        items = [{**alert, "idempotency_key": alert["title"]} for alert in alerts]
        await self._insist(changes, "/v1/alerts/batch", items, {})

    async def _notify(self) -> None:
        """Send what Alertmanager does. It sends again after 5xx, and never after another answer."""
        alert = self._alert()
        firing = {
            "status": "firing",
            "fingerprint": alert["title"],
            "labels": {"alertname": "Trial", "topic": alert["topic"], "severity": alert["severity"]},
            "annotations": {"summary": alert["title"], "description": alert["body"]},
            "startsAt": "2026-11-30T07:00:00Z",
        }
        expected = {name: alert[name] for name in ("title", "topic", "severity", "body")}
        change = Change(alert["title"], "alert.created", expected, repeats=alert["title"])
        document = {"version": "4", "status": "firing", "receiver": "tocsin", "alerts": [firing]}
        await self._insist([change], "/v1/integrations/alertmanager", document, {})

    async def _comment(self) -> None:
        """Comment on an alert once."""
        if not (alerts := self.world.alerts[-50:]):
            return
        self._names += 1
        change = Change(f"{self.name} says {self._names}", "alert.commented", {})
        path = f"/v1/alerts/{self.random.choice(alerts)}/comments"
        await self._ask([change], path, {"text": change.name}, {})
        if all(answer.status != 404 for answer in change.answers):  # an alert that a failover lost
            self.world.changes.append(change)

    async def _insist(self, changes: list[Change], path: str, document: Any, headers: dict[str, str]) -> None:
        """Ask until all is stored, or give up after the first answer."""
        self.world.changes += changes
        asks = ASKS if self.random.random() < 0.7 else 1
        for _ in range(asks):
            if await self._ask(changes, path, document, headers):
                return
            await asyncio.sleep(self.random.uniform(PAUSE_SECONDS, 10 * PAUSE_SECONDS))

    async def _ask(self, changes: Sequence[Change], path: str, document: Any, headers: dict[str, str]) -> bool:
        """Ask a node, write down its answer to each change, and say whether all are stored."""
        node = self.world.choose_node(self.random)
        try:
            got = await self._http.post(f"{node.base}{path}", json=document, headers=headers)
            answer = Answer(got.status_code, got.json(), got.text)
        except httpx2.ConnectError:
            await asyncio.sleep(PAUSE_SECONDS)  # nothing was sent
            return False
        except (httpx2.HTTPError, OSError, ValueError):
            answer = Answer(None, {})
        results = answer.document.get("results") if answer.status == 200 and len(changes) > 1 else None
        answers = [answer] * len(changes)
        if results is not None:
            answers = [
                Answer(result["status"], {**result, **result.get("problem", {})}, str(result)) for result in results
            ]
        for change, one in zip(changes, answers, strict=True):
            change.answers.append(one)
            if one.status in STORED and change.kind == "alert.created" and "id" in one.document:
                self.world.alerts.append(one.document["id"])
                self.world.stored += 1
        return all(change.answers[-1].status in STORED for change in changes)
