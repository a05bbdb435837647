"""Fixtures: each test of retention has a log in small partitions, filled up to the head that ``log_head`` names."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from service.retention import row_purge
from tests.harness import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fixtures.small_log import LogTemplates


@pytest.fixture
def head() -> int:
    return 0


@pytest.fixture
async def database_url(server_url: str, log_templates: LogTemplates, head: int) -> AsyncIterator[str]:
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", await log_templates.name(head)) as url:
        yield url


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let purges in this process take no pauses between their batches."""
    monkeypatch.setattr(row_purge, "PAUSE_RATIO", 0)
