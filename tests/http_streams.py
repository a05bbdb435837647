"""Clients of the stream that is no WebSocket: server-sent events, and long polls."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

from tests.harness import PATIENCE, READ

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from tests.harness import Node

PATH = "/v1/events"


class EventSource:
    """A client of server-sent events (HTML standard, section 9.2): what it reads, and the last id."""

    path = PATH

    def __init__(self, node: Node, subject: str = "alice", scope: str = READ, **claims: Any) -> None:
        self.http = node.http(subject, scope, **claims)
        self.texts: list[bytes] = []
        self.frames: list[dict[str, Any]] = []
        self.last_id = ""
        self._answer: httpx2.Response | None = None
        self._messages: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop()
        await self.http.aclose()

    async def open(self, *, last_id: str | None = None, **query: Any) -> Self:
        """Open the stream."""
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        request = self.http.build_request("GET", self.path, params=query, headers=headers)
        self._answer = await self.http.send(request, stream=True)
        assert self._answer.status_code == 200, await self._answer.aread()
        assert self._answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        self._messages = self._read(self._answer)
        return self

    async def live(self, **query: Any) -> Self:
        """Open the stream, and read until it has caught up."""
        await self.open(**query)
        await self.next_of("caught_up")
        return self

    async def _read(self, answer: httpx2.Response) -> AsyncIterator[bytes]:
        buffer = b""
        async for part in answer.aiter_bytes():
            *messages, buffer = (buffer + part).split(b"\n\n")
            for message in messages:
                fields = dict(line.split(b": ", 1) for line in message.split(b"\n"))
                assert fields.keys() <= {b"id", b"data"}
                if b"id" in fields:
                    self.last_id = fields[b"id"].decode()
                yield fields[b"data"]

    async def next(self, patience: float = PATIENCE) -> dict[str, Any]:
        """Return the next frame."""
        assert self._messages is not None
        async with asyncio.timeout(patience):
            text = await anext(self._messages)
        self.texts.append(text)
        self.frames.append(json.loads(text))
        return self.frames[-1]

    async def next_of(self, kind: str) -> dict[str, Any]:
        """Return the next frame of a type, passing over others."""
        while (frame := await self.next())["type"] != kind:
            pass
        return frame

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Return the next ``count`` events."""
        return [await self.next_of("event") for _ in range(count)]

    async def closed(self) -> tuple[int, str]:
        """Read to the end, and return the code and the reason that it named."""
        try:
            while True:
                await self.next()
        except StopAsyncIteration:
            last = self.frames[-1]
            assert last["type"] == "close"
            return last["code"], last["reason"]

    async def ack(self, seq: int) -> int:
        """Acknowledge, and return up to where it counts."""
        answer = await self.http.post(f"{PATH}/ack", json={"connection": self.connection, "seq": seq})
        assert answer.status_code == 200, answer.text
        counts: int = answer.json()["seq"]
        return counts

    @property
    def connection(self) -> str:
        """The id of the last connection."""
        return str(next(frame for frame in reversed(self.frames) if frame["type"] == "welcome")["connection"])

    async def drop(self) -> None:
        """Go without a word."""
        if self._answer is not None:
            await self._answer.aclose()
            self._answer = None


class Poller:
    """A client of long polls, which goes on from one answer to the next."""

    def __init__(self, node: Node, subject: str = "alice", scope: str = READ, **claims: Any) -> None:
        self.http = node.http(subject, scope, **claims)
        self.after: str | None = None
        self.connection: str | None = None
        self.texts: list[bytes] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def poll(self, wait: float = 0, **query: Any) -> dict[str, Any]:
        """Ask once."""
        if self.after is not None:
            query = {"after": self.after, **query}
        if self.connection is not None:
            query = {"connection": self.connection, **query}
        response = await self.http.get(PATH, params={"wait": wait, **query})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        self.connection, self.after = answer["connection"], answer["next"]
        self.texts += texts_of(response.content)
        return answer


def texts_of(answer: bytes) -> list[bytes]:
    """Return the bytes of each event of an answer to a poll."""
    start, end = answer.index(b'"events":[') + len(b'"events":['), answer.rindex(b'],"next":')
    inner = answer[start:end]
    return [b'{"type":"event",' + part.rstrip(b",") for part in inner.split(b'{"type":"event",')[1:]]
