"""Notifications as Apprise itself sends them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import apprise
import pytest

from tests.harness import WRITE, Node, token

if TYPE_CHECKING:
    from pathlib import Path

# Apprise imports all its plugins when the first address is added, and one of them a module that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

PATH = "/v1/integrations/apprise"


async def notify(node: Node, extra: str = "", **notification: Any) -> bool:
    bearer = quote(f"Bearer {token('apprise', WRITE)}")
    service = apprise.Apprise()
    assert service.add(f"json://{urlsplit(node.base).netloc}{PATH}?+Authorization={bearer}{extra}")
    return bool(await asyncio.to_thread(service.notify, **notification))


async def stored(node: Node) -> Any:
    rows = await node.sql("SELECT body FROM events ORDER BY seq DESC LIMIT 1")
    return json.loads(rows[0][0])


@pytest.mark.parametrize(
    ("kind", "severity"), [("info", "info"), ("success", "info"), ("warning", "warning"), ("failure", "error")]
)
async def test_a_notification_is_an_alert(node: Node, kind: str, severity: str) -> None:
    assert await notify(node, title="Backup failed", body="Disk full.\nTwice.", notify_type=kind)
    alert = await stored(node)
    assert (alert["title"], alert["body"], alert["severity"]) == ("Backup failed", "Disk full.\nTwice.", severity)
    assert (alert["source"], alert["topic"], alert["attributes"]) == ("apprise", "default", {})


async def test_without_a_title_the_first_line_of_the_message_is_it(node: Node) -> None:
    assert await notify(node, body="Disk full.\nTwice.")
    assert (await stored(node))["title"] == "Disk full."


async def test_the_url_may_say_topic_severity_and_key_and_more_is_kept(node: Node) -> None:
    extra = "&:topic=backup.eu&:severity=critical&:dedup_key=nightly&:host=db1"
    assert await notify(node, extra, title="Backup failed", body="x")
    alert = await stored(node)
    assert (alert["topic"], alert["severity"], alert["dedup_key"]) == ("backup.eu", "critical", "nightly")
    assert alert["attributes"] == {"host": "db1"}


async def test_of_an_attachment_its_name_type_and_size_are_kept(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    path.write_bytes(b"x" * 100_000)
    assert await notify(node, title="Backup failed", body="x", attach=str(path))
    [file] = (await stored(node))["attributes"]["attachments"]
    assert (file["filename"], file["bytes"]) == ("backup.log", 100_000)


async def test_a_message_that_is_too_long_is_cut(node: Node) -> None:
    async with node.http() as client:
        response = await client.post(PATH, json={"title": "t" * 500, "message": "é\0" * 20_000, "type": "info"})
    alert = response.json()
    assert len(alert["title"]) == 200
    assert 16_000 < len(alert["body"].encode()) <= 16 * 1024
    assert alert["body"].endswith("…")


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 422), (b"{}", 422), (b'{"title": "", "message": " "}', 422)]
)
async def test_what_is_no_notification_is_refused(lenient: Node, body: bytes, status: int) -> None:
    async with lenient.http() as client:
        response = await client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
