"""Clients that send WebSocket frames as fast as they can: how much the node parses, counts and reads."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg
import pytest
from websockets.frames import Close, Frame, Opcode

from service.settings import Settings, StreamSettings
from service.stream.transports import websocket
from service.stream.transports.websocket import CLOSING_WORK, EARLY_BYTES, SLICE_BYTES, TURN_WORK, WebSocketTransport
from tests.harness import PATIENCE, Node, serving, token
from tests.stream.transports.test_websocket import UPGRADE, RawClient, closed_row, masked, parse, raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

TEXT, CONT, CLOSE, PING, PONG = Opcode.TEXT, Opcode.CONT, Opcode.CLOSE, Opcode.PING, Opcode.PONG
SMALLEST_FRAME = 6
IN_ONE_SLICE = SLICE_BYTES // SMALLEST_FRAME + 1
LOOP_READ = 256 * 1024
"""The most bytes that the event loop reads from a socket at a time."""
MESSAGES, VIOLATIONS = 50, 5

FRAGMENTED = masked(TEXT, b'{"type"', fin=False) + masked(CONT, b"", fin=False) * 8 + masked(CONT, b':"ping"}')
FLOODS = {
    "pings": masked(PING, b""),
    "pings with a payload": masked(PING, b"p" * 125),
    "pongs": masked(PONG, b""),
    "pongs with a payload": masked(PONG, b"p" * 125),
    "messages": masked(TEXT, b'{"type":"ping"}'),
    "messages in empty fragments": FRAGMENTED,
    "all of them": masked(PING, b"") + masked(PONG, b"") + FRAGMENTED,
}


class Parsed:
    """What the core parses: the frames of each turn of the event loop, and all that was read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns = [0]
        self.bytes = 0
        receive_frame, data_received = websocket._Core.recv_frame, WebSocketTransport.data_received

        def count_frame(core: websocket._Core, frame: Frame) -> None:
            if not self.turns[-1]:
                asyncio.get_running_loop().call_soon(self.turns.append, 0)
            self.turns[-1] += 1
            receive_frame(core, frame)

        def count_bytes(transport: WebSocketTransport, data: bytes) -> None:
            self.bytes += len(data)
            data_received(transport, data)

        monkeypatch.setattr(websocket._Core, "recv_frame", count_frame)
        monkeypatch.setattr(WebSocketTransport, "data_received", count_bytes)

    @property
    def frames(self) -> int:
        """All frames that were parsed."""
        return sum(self.turns)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Parsed:
    return Parsed(monkeypatch)


@pytest.fixture(scope="module")
def strict(shared_url: str) -> Iterator[Node]:
    """A node that allows a known number of frames within the time of a test."""
    stream = StreamSettings(
        message_limit=f"{MESSAGES}/hour",
        message_violation_limit=f"{VIOLATIONS}/hour",
        ping_interval_seconds=0.02,
        ping_timeout_seconds=PATIENCE,
    )
    with serving(shared_url, Settings(stream=stream)) as running:
        yield running


async def pour(client: RawClient, data: bytes) -> None:
    """Send until the node reads no more."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await client.send(data)


async def pour_and_read(client: RawClient, data: bytes) -> bytes:
    """Send until the node hangs up, and return what it sent. It resets, having not read everything."""
    received = b""
    pouring = asyncio.create_task(pour(client, data))
    with suppress(ConnectionResetError):
        async with asyncio.timeout(PATIENCE):
            while more := await client.reader.read(65536):
                received += more
    await pouring
    return received


@pytest.mark.parametrize("kind", FLOODS)
async def test_every_frame_counts_and_few_are_parsed_in_a_turn_of_the_loop(
    strict: Node, subject: str, parsed: Parsed, kind: str
) -> None:
    async with raw(strict) as client:
        await client.upgrade(subject)
        data = await pour_and_read(client, FLOODS[kind] * (2_000_000 // len(FLOODS[kind])))
    assert Close.parse(parse(data)[-1].data) == Close(1008, "rate_limited")
    assert await closed_row(strict, subject) == (1008, "rate_limited")
    assert max(parsed.turns) <= TURN_WORK + IN_ONE_SLICE
    assert parsed.frames <= MESSAGES + VIOLATIONS + CLOSING_WORK + 2 * IN_ONE_SLICE


@pytest.mark.parametrize("kind", ["pings", "pongs"])
async def test_control_frames_within_the_limit_pass(strict: Node, subject: str, kind: str) -> None:
    allowed = MESSAGES + VIOLATIONS
    async with raw(strict) as client:
        await client.upgrade(subject)
        await client.send(FLOODS[kind] * allowed)
        if kind == "pings":
            await client.reader.readuntil(Frame(PONG, b"").serialize(mask=False) * allowed)
        await client.send(masked(CLOSE, b"\x03\xe8"))
        assert (await client.close_frame()).code == 1000


async def test_answers_to_our_pings_do_not_count(strict: Node, subject: str) -> None:
    answered, data = 0, b""
    async with raw(strict) as client:
        await client.upgrade(subject)
        while answered < 2 * (MESSAGES + VIOLATIONS):
            async with asyncio.timeout(PATIENCE):
                data += await client.reader.read(65536)
            pings = [frame for frame in parse(data) if frame.opcode is PING]
            for ping in pings[answered:]:
                await client.send(masked(PONG, bytes(ping.data)))
            answered = len(pings)
        await client.send(masked(TEXT, b'{"type":"ping","data":"still here"}'))
        await client.reader.readuntil(b'{"type":"pong","data":"still here"}')


# After our close.


@pytest.mark.parametrize("kind", FLOODS)
async def test_little_is_parsed_after_a_rejection(shared: Node, parsed: Parsed, kind: str) -> None:
    async with raw(shared) as client:
        await client.send(UPGRADE.format(path="/v1/ws?token=x", more="").encode())
        await client.reader.readuntil(b"\r\n\r\n")
        data = await pour_and_read(client, FLOODS[kind] * (8_000_000 // len(FLOODS[kind])))
    assert data == b"\x88\x0f\x03\xf0token_invalid"
    assert parsed.frames <= CLOSING_WORK + IN_ONE_SLICE
    assert parsed.bytes <= 3 * LOOP_READ


async def test_a_client_that_was_in_the_middle_of_something_can_answer_the_close(shared: Node, parsed: Parsed) -> None:
    async with raw(shared) as client:
        await client.send(UPGRADE.format(path="/v1/ws?token=x", more="").encode())
        await client.reader.readuntil(b"\r\n\r\n")
        sent = masked(TEXT, b"x" * 16 * 1024) + masked(TEXT, b'{"type":"ack","seq":1}') * 50 + masked(PING, b"")
        await client.send(sent + masked(CLOSE, b"\x03\xf0"))
        assert await client.rest() == b"\x88\x0f\x03\xf0token_invalid"
    assert parsed.frames == 1 + 50 + 1 + 1


# Before the outcome of the handshake.


@asynccontextmanager
async def undecided(node: Node, subject: str) -> AsyncIterator[tuple[RawClient, Callable[[], Awaitable[None]]]]:
    """Open a stream, whose handshake waits until the second part is called."""
    holder = await asyncpg.connect(node.database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("LOCK TABLE recipients IN EXCLUSIVE MODE")  # where it asks for the cursor
    async with raw(node) as client:
        header = f"Authorization: Bearer {token(subject)}\r\n"
        await client.send(UPGRADE.format(path="/v1/ws", more=header).encode())
        await client.reader.readuntil(b"\r\n\r\n")
        yield client, transaction.rollback
    await holder.close()


async def test_what_comes_early_waits_unparsed_and_most_of_it_unread(node: Node, subject: str, parsed: Parsed) -> None:
    async with undecided(node, subject) as (client, decide):
        await pour(client, FLOODS["pongs"] * 4_000_000)
        assert EARLY_BYTES < parsed.bytes <= EARLY_BYTES + 2 * LOOP_READ
        assert parsed.frames == 0
        await decide()
        assert await client.close_frame() == Close(1008, "rate_limited")
    assert await closed_row(node, subject) == (1008, "rate_limited")
    assert max(parsed.turns) <= TURN_WORK + IN_ONE_SLICE


async def test_an_early_ping_and_an_early_message_are_answered_when_the_stream_is_open(
    node: Node, subject: str
) -> None:
    async with undecided(node, subject) as (client, decide):
        await client.send(masked(PING, b"early") + masked(TEXT, b'{"type":"ping","data":"early"}'))
        await decide()
        data = await client.reader.readuntil(b'{"type":"pong","data":"early"}')
    assert Frame(PONG, b"early") in parse(data)


async def test_messages_that_take_many_turns_of_the_loop_are_all_answered(shared: Node, subject: str) -> None:
    message = masked(TEXT, b'{"type":"ping","data":"%b"}' % (b"x" * 8_000))
    async with raw(shared) as client:
        await client.upgrade(subject)
        await client.send(message * 60 + masked(TEXT, b'{"type":"ping","data":"last"}'))
        data = b""
        async with asyncio.timeout(PATIENCE):
            while b'{"type":"pong","data":"last"}' not in data:  # a heartbeat may follow it
                data += await client.reader.read(65536)
    assert data.count(b'{"type":"pong"') == 61
