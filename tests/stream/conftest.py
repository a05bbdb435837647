from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING

import pytest

from service.settings import LedgerSettings, LimitSettings, Settings, StreamSettings
from tests.contract import checked_frame
from tests.harness import PATIENCE, Node, Stream, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared(shared_url: str) -> Iterator[Node]:
    """A node for such cases, with default settings but for a ledger that is soon written."""
    with serving(shared_url, Settings(ledger=LedgerSettings(ledger_flush_seconds=0.05))) as running:
        yield running


FEW = 3
READS = 10
REJECTIONS = 40


@pytest.fixture(scope="module")
def narrow(shared_url: str) -> Iterator[Node]:
    """A node that lets one send ``FEW`` messages, open as many streams, and query ``READS`` times."""
    settings = Settings(
        limits=LimitSettings(
            read_limit=f"{READS}/hour", connect_limit=f"{FEW}/hour", auth_failure_limit=f"{REJECTIONS}/day"
        ),
        stream=StreamSettings(message_limit=f"{FEW}/hour", message_violation_limit="1/hour"),
        ledger=LedgerSettings(ledger_flush_seconds=0.05),
    )
    with serving(shared_url, settings) as running:
        yield running


@pytest.fixture
def subject() -> str:
    """Return an admin of the test's own."""
    return uuid.uuid4().hex


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a client does, a node in this process logs no error."""
    yield
    output = capfd.readouterr().out
    assert "Traceback" not in output, output
    assert not [record for record in caplog.get_records("call") if record.exc_info or record.levelname == "ERROR"]


async def post_and_fan_out(node: Node) -> int:
    """Post an alert, wait until the node has fanned it out, and return its seq."""
    seq: int = (await node.post())["seq"]
    await node.fanned_out(seq)
    return seq


async def raw_events(stream: Stream, count: int) -> list[bytes]:
    """Return the next ``count`` event frames as they came."""
    events: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        while len(events) < count:
            message = await stream.connection.recv(decode=False)
            if message.startswith(b'{"type":"event",'):
                checked_frame(json.loads(message))
                events.append(message)
    return events
