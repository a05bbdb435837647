from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.client.flaky_proxy import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Node


@pytest.fixture
def line(node: Node) -> Iterator[Line]:
    """The line to a node of the test's own."""
    with Line(node.base).running() as running:
        yield running
