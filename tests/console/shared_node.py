"""A node that the tests of a module share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.harness import Node, Stream


@dataclass
class SharedNode(Node):
    """A node that knows which streams a test opened, so that the next test is not in their company."""

    streams: list[Stream] = field(default_factory=list)

    async def stream(self, *arguments: Any, **options: Any) -> Stream:
        """Open a stream that ends with the test."""
        self.streams.append(await super().stream(*arguments, **options))
        return self.streams[-1]

    async def close_streams(self) -> None:
        """End what the test has left open: one that does not read would wait for the server's close frame."""
        while self.streams:
            self.streams.pop().connection.transport.abort()
