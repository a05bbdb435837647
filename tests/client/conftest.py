from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.client.flaky_proxy import FlakyProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Node


@pytest.fixture
def proxy(lenient: Node) -> Iterator[FlakyProxy]:
    """A proxy before the node that the tests of a module share."""
    with FlakyProxy(lenient.base).running() as running:
        yield running


@pytest.fixture
async def head(lenient: Node) -> int:
    """Where the log of the shared node stands when the test begins."""
    rows = await lenient.sql("SELECT coalesce(max(seq), 0) FROM events")
    return int(rows[0][0])
