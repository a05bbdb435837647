"""Both clients over a change of history: a server on real sockets says what a failover would have it say.

It is a fake because it plays the same failover, to the frame, for both clients; that the service says
the same is tested in ``tests/stream``.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from service.client import AsyncClient, Client, Notice, Reset, stream_state
from service.stream.frames import SUBPROTOCOL
from tests.harness import BODY, PATIENCE, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

OLD, NEW = "aaaaaaaa", "bbbbbbbb"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back without long pauses."""
    monkeypatch.setattr(stream_state, "_BACKOFF", {"retry": (0.01, 0.2)})


class Failover:
    """Sends events 1 to 5, and to the next connection what the promoted standby has after event 3: 4 to 6."""

    def __init__(self, reset_after: int | None) -> None:
        self.reset_after = reset_after
        self.asked: list[str] = []
        self.acks: list[list[int]] = []
        self._first_was_acknowledged = asyncio.Event()

    async def serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.asked.append(parse_qs(urlsplit(connection.request.path).query)["after"][0])
        self.acks.append([])
        listening = asyncio.create_task(self._listen(connection, self.acks[-1]))
        if len(self.asked) == 1:
            await self._welcome(connection, "0")
            await self._events(connection, range(1, 6), OLD)
            await self._first_was_acknowledged.wait()
            await connection.close(1012, "history_changed")
        else:
            await self._welcome(connection, f"3-{OLD}")
            await self._send(connection, "reset", after=self.reset_after, cursor=f"3-{OLD}")
            await self._events(connection, range(4, 7), NEW)
        await listening

    async def _welcome(self, connection: ServerConnection, cursor: str) -> None:
        after = stream_state.seq_of(cursor)
        await self._send(connection, "welcome", head=5, after=after, cursor=cursor, heartbeat_seconds=15)

    async def _events(self, connection: ServerConnection, seqs: range, mark: str) -> None:
        for seq in seqs:
            position = {"seq": seq, "cursor": f"{seq}-{mark}", "id": mark + "00000000"}
            at, actor = BODY["created_at"], "billing"
            await self._send(connection, "event", **position, kind="alert.created", at=at, actor=actor, alert=BODY)
        await self._send(connection, "caught_up", seq=seqs[-1], cursor=f"{seqs[-1]}-{mark}")

    async def _send(self, connection: ServerConnection, kind: str, /, **members: Any) -> None:
        await connection.send(json.dumps({"type": kind, **members}))

    async def _listen(self, connection: ServerConnection, acks: list[int]) -> None:
        try:
            async for message in connection:
                acks.append(json.loads(message)["seq"])
                if acks[-1] == 5:
                    self._first_was_acknowledged.set()
        except ConnectionClosed:
            return

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async with serve(self.serve, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as server:
            [socket] = server.sockets
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"


async def follow(base: str, on_notice: Callable[[Notice], None]) -> list[str]:
    async with (
        AsyncClient(base, token("alice"), trust_env=False) as tocsin,
        tocsin.stream(after=0, on_notice=on_notice) as events,
    ):
        return [(await anext(events)).cursor for _ in range(8)]


async def follow_in_a_thread(base: str, on_notice: Callable[[Notice], None]) -> list[str]:
    def run() -> list[str]:
        with (
            Client(base, token("alice"), trust_env=False) as tocsin,
            tocsin.stream(after=0, on_notice=on_notice) as events,
        ):
            return [next(events).cursor for _ in range(8)]

    return await asyncio.to_thread(run)


@pytest.mark.parametrize("reset_after", [3, None])
@pytest.mark.parametrize("client", [follow, follow_in_a_thread])
async def test_a_reset_names_what_the_log_lost_and_what_it_has_instead_comes(
    client: Callable[[str, Callable[[Notice], None]], Awaitable[list[str]]], reset_after: int | None
) -> None:
    failover = Failover(reset_after)
    notices: list[Notice] = []
    async with failover.running() as base, asyncio.timeout(PATIENCE):
        cursors = await client(base, notices.append)
    assert cursors == [*(f"{seq}-{OLD}" for seq in range(1, 6)), *(f"{seq}-{NEW}" for seq in range(4, 7))]
    assert [notice for notice in notices if isinstance(notice, Reset)] == [Reset(reset_after, f"3-{OLD}")]
    assert failover.asked == ["0", f"5-{OLD}"]
    assert failover.acks[1][-1] == 6
    assert failover.acks[1][0] < 5, "the ack of a void event is the receipt of another"
