"""Alertmanager: Debian's own, sending to a node; and notifications as it should not send them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import yaml

from scripts.system_packages import alertmanager
from service.alerts import statements
from service.alerts.batch_request import ITEMS_MAX
from service.alerts.statements import KEYS_MAX
from service.settings import LimitSettings, Settings, StorageSettings
from tests.client.flaky_proxy import FlakyProxy, answer
from tests.harness import PLAIN, WRITE, Node, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATH = "/v1/integrations/alertmanager"
NEVER = "0001-01-01T00:00:00Z"
needs_alertmanager = pytest.mark.skipif(alertmanager() is None, reason="there is no Prometheus Alertmanager")


class Manager:
    """A real Alertmanager."""

    def __init__(self, api: str) -> None:
        self.api = api

    async def post(self, *alerts: dict[str, Any]) -> None:
        """Tell it what Prometheus would."""
        async with httpx2.AsyncClient(**PLAIN) as client:
            (await client.post(f"{self.api}/api/v2/alerts", json=list(alerts))).raise_for_status()

    async def metric(self, name: str) -> float:
        """Return the sum of one of its metrics for webhooks."""
        async with httpx2.AsyncClient(**PLAIN) as client:
            lines = (await client.get(f"{self.api}/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and '"webhook"' in line)


def eager(base: str) -> str:
    """Return the configuration of one that notifies ``base`` every second."""
    authorization = {"type": "Bearer", "credentials": token("alertmanager", WRITE)}
    webhook = {"url": base + PATH, "http_config": {"authorization": authorization}}
    config = {
        "route": {"receiver": "tocsin", "group_wait": "100ms", "group_interval": "1s", "repeat_interval": "1s"},
        "receivers": [{"name": "tocsin", "webhook_configs": [webhook]}],
    }
    return yaml.safe_dump(config)


@asynccontextmanager
async def manager(config: str, folder: Path) -> AsyncIterator[Manager]:
    """Run an Alertmanager."""
    (folder / "alertmanager.yml").write_text(config)
    log = folder / "alertmanager.log"
    process = await asyncio.to_thread(_start, folder, log)
    try:
        address = await eventually(lambda: _address(process, log))
        yield Manager(f"http://{address}")
    finally:
        process.terminate()
        process.wait()


def _start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    options = {
        "config.file": folder / "alertmanager.yml",
        "storage.path": folder / "data",
        "web.listen-address": "127.0.0.1:0",
        "cluster.listen-address": "",
    }
    command = [str(alertmanager()), *(f"--{name}={value}" for name, value in options.items())]
    with log.open("w") as errors:
        return subprocess.Popen(command, stdout=errors, stderr=errors)


def _address(process: subprocess.Popen[bytes], log: Path) -> str | None:
    text = log.read_text()
    assert process.poll() is None, text
    return next((part.split()[0] for part in text.split("address=")[1:] if not part.startswith("127.0.0.1:0")), None)


def prometheus_alert(name: str, *, resolved: bool = False, **labels: str) -> dict[str, Any]:
    """Return an alert as Prometheus tells it to Alertmanager."""
    now = datetime.now(UTC)
    return {
        "labels": {"alertname": name, "severity": "page", "topic": "Payments EU", "instance": "db1:9100", **labels},
        "annotations": {
            "summary": f"{name} on db1",
            "description": "Details.",
            "runbook_url": "https://runbooks.example/x",
        },
        "startsAt": (now - timedelta(minutes=1)).isoformat(),
        **({"endsAt": (now - timedelta(seconds=1)).isoformat()} if resolved else {}),
        "generatorURL": "http://prometheus.example/graph?g0.expr=up",
    }


async def alerts(node: Node) -> list[dict[str, Any]]:
    return [dict(row) for row in await node.sql("SELECT * FROM alerts ORDER BY seq")]


async def count(node: Node) -> int:
    return len(await alerts(node))


@needs_alertmanager
async def test_a_firing_alert_of_a_real_alertmanager_is_stored_with_all_that_it_says(
    node: Node, tmp_path: Path
) -> None:
    async with manager(eager(node.base), tmp_path) as prometheus:
        await prometheus.post(prometheus_alert("DiskFull"))
        await eventually(lambda: count(node))
        assert await prometheus.metric("alertmanager_notifications_failed_total") == 0
    alert = (await alerts(node))[0]
    assert (alert["topic"], alert["severity"], alert["source"]) == ("payments-eu", "critical", "alertmanager")
    assert (alert["title"], alert["body"]) == ("DiskFull on db1", "Details.")
    assert len(alert["dedup_key"]) == 16
    assert json.loads(alert["links"]) == [
        {"title": "Source", "url": "http://prometheus.example/graph?g0.expr=up"},
        {"title": "Runbook", "url": "https://runbooks.example/x"},
    ]
    kept = json.loads(alert["attributes"])
    assert kept["labels"]["instance"] == "db1:9100"
    assert kept["receiver"] == "tocsin"


@needs_alertmanager
async def test_a_real_alertmanager_fires_repeats_and_resolves_one_alert(node: Node, tmp_path: Path) -> None:
    async with manager(eager(node.base), tmp_path) as prometheus:
        await prometheus.post(prometheus_alert("DiskFull"), prometheus_alert("Slow", severity="warning"))
        await eventually(lambda: count(node))

        async def was_repeated() -> bool:
            return await prometheus.metric("alertmanager_notifications_total") >= 3

        await eventually(was_repeated)
        await prometheus.post(prometheus_alert("DiskFull", resolved=True), prometheus_alert("Slow", severity="warning"))

        async def is_resolved() -> bool:
            return any(alert["status"] == "resolved" for alert in await alerts(node))

        await eventually(is_resolved, 5)
    found = {alert["title"]: alert for alert in await alerts(node)}
    assert len(await alerts(node)) == 2
    assert found["DiskFull on db1"]["status"] == "resolved"
    assert found["Slow on db1"]["status"] == "open"
    assert found["Slow on db1"]["occurrences"] > 1


@needs_alertmanager
async def test_a_real_alertmanager_tries_again_after_a_503_until_it_is_stored(node: Node, tmp_path: Path) -> None:
    with FlakyProxy(node.base).running() as line:
        line.faults = [answer("503 Service Unavailable", "Retry-After: 1")] * 3
        async with manager(eager(line.base), tmp_path) as prometheus:
            await prometheus.post(prometheus_alert("DiskFull"))
            await eventually(lambda: count(node))
        assert line.connections >= 4


def notification(*some: dict[str, Any]) -> dict[str, Any]:
    return {"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "receiver": "tocsin", "alerts": list(some)}


def firing(fingerprint: str, **fields: Any) -> dict[str, Any]:
    alert = prometheus_alert("DiskFull")
    return {"status": "firing", "endsAt": NEVER, "fingerprint": fingerprint, **alert, **fields}


async def post(node: Node, *some: Any, **claims: Any) -> httpx2.Response:
    async with node.http(**claims) as client:
        return await client.post(PATH, json=notification(*some))


async def test_a_bad_alert_does_not_hold_up_the_others(node: Node) -> None:
    odd = firing("odd", labels={"alertname": "x\0" * 500, "severity": 7, "l" * 5000: "v" * 50_000, "nested": {"a": []}})
    response = await post(node, "no alert", odd, {}, firing("good"))
    assert response.status_code == 200, response.text
    assert response.json() == {"stored": 3, "repeated": 0, "resolved": 0, "refused": 0}
    found = await alerts(node)
    assert json.loads(found[0]["attributes"])["truncated"] is True
    assert (found[1]["title"], len(found[1]["dedup_key"])) == ("Untitled", 64)
    assert found[2]["dedup_key"] == "good"


async def test_what_is_sent_again_repeats_the_open_alert_and_what_is_resolved_is_resolved_once(node: Node) -> None:
    await post(node, firing("a"), firing("b"))
    again = await post(node, firing("a"), firing("b", status="resolved"), firing("c", status="resolved"))
    assert again.json() == {"stored": 0, "repeated": 1, "resolved": 1, "refused": 0}
    again = await post(node, firing("b", status="resolved"))
    assert again.json() == {"stored": 0, "repeated": 0, "resolved": 0, "refused": 0}
    statuses = {alert["dedup_key"]: alert["status"] for alert in await alerts(node)}
    assert statuses == {"a": "open", "b": "resolved"}
    assert (await post(node, firing("b"))).json()["stored"] == 1


async def test_a_source_resolves_all_that_it_posted_with_a_key_and_nothing_of_others(node: Node) -> None:
    posted: list[tuple[str, dict[str, Any]]] = [
        ("billing", {"topic": "pay"}),
        ("billing", {"topic": "pay", "recipients": ["ann"]}),
        ("shipping", {"topic": "pay"}),
        ("billing", {"topic": "other"}),
    ]
    for subject, fields in posted:
        async with node.http(subject) as client:
            answer = await client.post("/v1/alerts", json={"title": "t", "dedup_key": "k", **fields})
            assert answer.status_code == 201
    over = {"status": "resolved", "fingerprint": "k", "labels": {"topic": "pay"}}
    for claims, resolved in (({"subject": "eve"}, 0), ({}, 2), ({}, 0)):
        answer = await post(node, over, **claims)
        assert answer.json() == {"stored": 0, "repeated": 0, "resolved": resolved, "refused": 0}
    assert (await post(node, over, topics=["other"])).json()["code"] == "topic_forbidden"
    assert [alert["status"] for alert in await alerts(node)] == ["resolved", "resolved", "open", "open"]


async def test_more_alerts_with_one_key_than_a_transaction_resolves_are_resolved(node: Node) -> None:
    many = [{"title": "t", "dedup_key": "k", "recipients": [f"{number}"]} for number in range(KEYS_MAX + 1)]
    async with node.http() as client:
        await client.post("/v1/alerts/batch", json=many)
    answer = await post(node, {"status": "resolved", "fingerprint": "k"})
    assert answer.json()["resolved"] == len(many)
    assert {alert["status"] for alert in await alerts(node)} == {"resolved"}


async def test_more_alerts_than_a_transaction_reads_are_resolved_whatever_their_keys(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "KEYS_MAX", 3)
    keys, recipients = [f"{number}" for number in range(6)], [f"{number}" for number in range(5)]
    many = [{"title": "t", "dedup_key": key, "recipients": [one]} for key in keys for one in recipients]
    async with node.http() as client:
        await client.post("/v1/alerts/batch", json=many)
    newer = [firing(key, labels={}, startsAt="2026-11-21T09:41:07Z") for key in keys]
    assert (await post(node, *newer)).json()["stored"] == len(newer)
    over = {"status": "resolved", "startsAt": "2026-11-21T07:41:07Z", "endsAt": "2026-11-21T08:41:07Z"}
    answer = await post(node, *({**over, "fingerprint": key} for key in keys))
    assert answer.json()["resolved"] == len(many)
    assert Counter(alert["status"] for alert in await alerts(node)) == {"resolved": len(many), "open": len(newer)}


async def test_what_finds_no_room_is_to_be_sent_again_whole(database_url: str) -> None:
    with serving(database_url, Settings(storage=StorageSettings(commit_queue_size=1))) as node:
        refused = await post(node, firing("a"), firing("b"))
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert await count(node) == 0


@pytest.mark.long
async def test_over_the_write_limit_it_is_asked_to_come_again_and_then_let_in(database_url: str) -> None:
    settings = Settings(limits=LimitSettings(write_limit="5/2 second"))
    with serving(database_url, settings) as node:
        # A request larger than the limit can still succeed once per window.
        assert (await post(node, *(firing(str(number)) for number in range(20)))).status_code == 200
        refused = await post(node, firing("x"))
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1

        async def is_let_in() -> bool:
            return (await post(node, firing("x"))).status_code == 200

        await eventually(is_let_in)


async def test_a_notification_of_too_many_alerts_is_refused_whole(node: Node) -> None:
    many = [firing(str(number)) for number in range(ITEMS_MAX + 1)]
    refused = await post(node, *many)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    tiny = [{"labels": {"a": str(number)}} for number in range(98_000)]
    refused = await post(node, *tiny)
    assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")
    assert await alerts(node) == []


async def test_a_notification_of_as_many_alerts_as_a_batch_is_stored(lenient: Node) -> None:
    stored = (await post(lenient, *(firing(f"many {number}") for number in range(ITEMS_MAX)))).json()
    assert stored == {"stored": ITEMS_MAX, "repeated": 0, "resolved": 0, "refused": 0}


async def test_each_alert_of_a_notification_counts_against_the_write_limit(database_url: str) -> None:
    with serving(database_url, Settings(limits=LimitSettings(write_limit="50/hour"))) as node:
        assert (await post(node, *(firing(str(number)) for number in range(30)))).status_code == 200
        refused = await post(node, *(firing(f"more {number}") for number in range(30)))
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        async with node.http() as client:  # twenty are left: what was refused costs nothing
            statuses = [(await client.post("/v1/alerts", json={"title": "t"})).status_code for _ in range(21)]
        assert statuses == [201] * 20 + [429]
        assert len(await alerts(node)) == 50


async def test_a_topic_that_the_token_does_not_cover_is_said_and_the_others_are_stored(node: Node) -> None:
    other = firing("b", labels={"topic": "secret"})
    response = await post(node, firing("a"), other, topics=["payments-eu"])
    assert (response.status_code, response.json()["code"]) == (403, "topic_forbidden")
    assert "secret" in response.json()["detail"]
    assert [alert["dedup_key"] for alert in await alerts(node)] == ["a"]


async def test_what_is_no_notification_is_refused(lenient: Node) -> None:
    async with lenient.http() as client:
        for body, status in ((b"{", 400), (b"{}", 422)):
            answer = await client.post(PATH, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == status
