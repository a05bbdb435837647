"""Notifications as Apprise itself sends them."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import apprise
import pytest

from service.errors import InvalidRequest
from service.integrations.apprise import read
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


# What Apprise does not send, and others do.

TEXTS = {"title": "Backup failed", "message": "x"}


@pytest.mark.parametrize(
    ("sent", "becomes"),
    [
        ({"severity": "CRITICAL", "type": "warning"}, {"severity": "critical", "attributes": {}}),
        ({"type": "Failure"}, {"severity": "error", "attributes": {}}),
        ({"severity": "urgent", "type": "warning"}, {"severity": "warning", "attributes": {"severity": "urgent"}}),
        ({"severity": 5}, {"severity": "info", "attributes": {"severity": 5}}),
        ({"type": "fatal"}, {"severity": "info", "attributes": {"type": "fatal"}}),
        ({"type": ["info"]}, {"severity": "info", "attributes": {"type": ["info"]}}),
        ({"dedup_key": 5}, {"dedup_key": None, "attributes": {"dedup_key": 5}}),
        ({"dedup_key": False}, {"dedup_key": None, "attributes": {"dedup_key": False}}),
        ({"message": {"a": 1}}, {"body": None, "attributes": {"message": {"a": 1}}}),
        ({"title": 7}, {"title": "x", "attributes": {"title": 7}}),
        ({"version": "2.0"}, {"attributes": {"version": "2.0"}}),
        ({"attachments": ["a.log"]}, {"attributes": {"attachments": ["a.log"]}}),
        ({"attachments": "a.log"}, {"attributes": {"attachments": "a.log"}}),
        ({"attachments": {"url": "a.log"}}, {"attributes": {"attachments": {"url": "a.log"}}}),
        (
            {"attachments": {"filename": "a.log", "base64": "eHh4", "sha": "x"}},
            {"attributes": {"attachments": {"filename": "a.log", "bytes": 3, "sha": "x"}}},
        ),
        ({"attachments": [7, {"base64": 7}]}, {"attributes": {"attachments": [7, {"base64": 7}]}}),
        (
            {"version": "1.0", "attachments": [], "dedup_key": " ", "severity": None, "type": ""},
            {"severity": "info", "dedup_key": None, "attributes": {}},
        ),
        ({"a b": 1, "a  b": 2, "a\u0001b": 3}, {"attributes": {"a b": 1, "a b (2)": 2, "a b (3)": 3}}),
    ],
)
def test_what_a_member_says_is_read_or_kept(sent: dict[str, Any], becomes: dict[str, Any]) -> None:
    alert = read({**TEXTS, **sent}).model_dump()
    assert {name: alert[name] for name in becomes} == becomes


def test_a_title_or_a_message_must_be_text() -> None:
    for payload in ({"title": 7}, {"message": {"a": 1}}, {"title": " ", "message": "\u0001"}):
        with pytest.raises(InvalidRequest, match="neither a title nor a message"):
            read(payload)


async def test_a_notification_with_an_idempotency_key_is_stored_once(lenient: Node) -> None:
    key = uuid.uuid4().hex
    headers = {"Idempotency-Key": key}
    async with lenient.http("apprise") as client:
        first = await client.post(PATH, json={"title": "Backup failed"}, headers=headers)
        again = await client.post(PATH, json={"title": "Backup failed"}, headers=headers)
        other = await client.post(PATH, json={"title": "Restore failed"}, headers=headers)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
