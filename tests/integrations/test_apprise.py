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

# Apprise imports all its plugins when the first address is added, and one of them a module that
# Python has deprecated.
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


async def test_a_notification_is_an_alert(lenient: Node) -> None:
    for kind, severity in (("success", "info"), ("failure", "error")):
        assert await notify(lenient, title="Backup failed", body="Disk full.\nTwice.", notify_type=kind)
        alert = await stored(lenient)
        assert (alert["title"], alert["body"], alert["severity"]) == ("Backup failed", "Disk full.\nTwice.", severity)
        assert (alert["source"], alert["topic"], alert["attributes"]) == ("apprise", "default", {})


async def test_without_a_title_the_first_line_of_the_message_is_it(lenient: Node) -> None:
    assert await notify(lenient, body="Disk full.\nTwice.")
    assert (await stored(lenient))["title"] == "Disk full."


async def test_the_url_may_say_topic_severity_and_key_and_more_is_kept(lenient: Node) -> None:
    extra = "&:topic=backup.eu&:severity=critical&:dedup_key=nightly&:host=db1"
    assert await notify(lenient, extra, title="Backup failed", body="x")
    alert = await stored(lenient)
    assert (alert["topic"], alert["severity"], alert["dedup_key"]) == ("backup.eu", "critical", "nightly")
    assert alert["attributes"] == {"host": "db1"}


async def test_of_an_attachment_its_name_type_and_size_are_kept(lenient: Node, tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    path.write_bytes(b"x" * 100_000)
    assert await notify(lenient, title="Backup failed", body="x", attach=str(path))
    [file] = (await stored(lenient))["attributes"]["attachments"]
    assert (file["filename"], file["bytes"]) == ("backup.log", 100_000)


async def test_what_is_no_notification_is_refused(lenient: Node) -> None:
    async with lenient.http() as client:
        for body, status in ((b"{", 400), (b"{}", 422)):
            answer = await client.post(PATH, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == status
