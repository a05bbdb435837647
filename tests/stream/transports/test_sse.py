"""Server-sent events on a fake socket: the encoding, the transport, the response."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from service.errors import CloseReason, Overloaded
from service.http.server_protocol import EXTENSION
from service.http.tcp_progress import TcpProgress
from service.settings import StreamSettings
from service.stream import frames
from service.stream.frames import Frame, FrameBatch
from service.stream.transports.sse import SseResponse, SseTransport, read_event_id
from tests.stream.fakes import at, connect, fake_hub, prepared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.http.server_protocol import HttpServerProtocol

pytestmark = pytest.mark.unit

CONNECTION = uuid.UUID("01a1fd87-65c3-71a6-ba06-3929d3197295")


class FakeHttp:
    """The server's protocol of one connection; ``is_full`` says that the kernel did not take everything."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.is_full = False
        self.listener: Any = None
        self.streams = False
        self.abort_seconds: float | None = None
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.cancelled = self.aborted = False
        self.transport = self.loop = self

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return True  # the kernel is not asked

    def call_later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> Self:
        self.timers.append((seconds, lambda: callback(*arguments)))
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def abort(self) -> None:
        self.aborted = True

    def attach(self, listener: Any, *, streams: bool) -> None:
        self.listener, self.streams = listener, streams

    def write_chunk(self, data: bytes) -> bool:
        self.chunks.append(data)
        return not self.is_full

    def abort_after(self, seconds: float) -> None:
        self.abort_seconds = seconds

    @property
    def protocol(self) -> HttpServerProtocol:
        return cast("HttpServerProtocol", self)


class Listener:
    """Records what a transport reports."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def receive(self, text: str | None) -> None:
        raise AssertionError(text)

    def count_frame(self) -> None:
        raise AssertionError

    def drained(self) -> None:
        self.calls.append("drained")

    def disconnected(self, code: int, reason: str) -> None:
        self.calls.append((code, reason))


@pytest.fixture
def http() -> FakeHttp:
    return FakeHttp()


@pytest.fixture
def transport(http: FakeHttp) -> SseTransport:
    begun = SseTransport(http.protocol)
    begun.begin(CONNECTION, silence_seconds=50)
    return begun


def messages(data: bytes) -> list[dict[str, str]]:
    """Parse an event stream (HTML standard, section 9.2.6), of fields in a fixed form."""
    assert data.endswith(b"\n\n")
    blocks = data.decode().split("\n\n")[:-1]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


# The encoding.


def test_a_frame_that_moves_the_cursor_has_an_id_and_others_have_none(http: FakeHttp, transport: SseTransport) -> None:
    batch = FrameBatch(
        frames.pong(1),
        prepared(7),
        frames.presence([], [], present=0, truncated=False),
        frames.caught_up(at(0)),
        frames.caught_up(at(8)),
        frames.reset(at(9), is_common=True),
        frames.gap(9, 10),
        frames.gap(9, 11, up_to=at(11)),
        frames.error("ack_ahead", "no"),
    )
    assert transport.write_frames(batch)
    [data] = http.chunks
    assert messages(data) == [
        {"data": frame.payload.decode(), **({"id": f"{frame.position.cursor}.{CONNECTION}"} if frame.position else {})}
        for frame in batch.frames
    ]
    cursors = [at(seq).cursor for seq in (7, 0, 8, 9, 11)]
    assert [message["id"].split(".")[0] for message in messages(data) if "id" in message] == cursors


def test_a_batch_is_encoded_once_for_all_connections() -> None:
    batch = FrameBatch(prepared(1), prepared(2))
    written = []
    for connection in (CONNECTION, uuid.UUID(int=1)):
        http = FakeHttp()
        one = SseTransport(http.protocol)
        one.begin(connection, silence_seconds=1)
        pieces = batch.event_stream
        one.write_frames(batch)
        assert batch.event_stream is pieces
        written.append(http.chunks[0])
    assert written[0].replace(str(CONNECTION).encode(), str(uuid.UUID(int=1)).encode()) == written[1]
    assert written[0] != written[1]


def test_an_empty_batch_is_nothing() -> None:
    assert FrameBatch().event_stream == [b""]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("0", ("0", None)),
        ("4711", ("4711", None)),
        (f"4711.{CONNECTION}", ("4711", CONNECTION)),
        ("4711-9f3a2c1d", ("4711-9f3a2c1d", None)),
        (f"4711-9f3a2c1d.{CONNECTION}", ("4711-9f3a2c1d", CONNECTION)),
        *(
            (text, None)
            for text in (
                "",
                "x",
                "-1",
                "1.",
                "1.x",
                f"1.{'-' * 36}",
                "9" * 20,
                "\uff11",
                "1,2",
                " 1",
                "1-",
                "1-9F3A2C1D",
                "1-9f3a2c1d0",
                "1\n",
            )
        ),
        (f"1.{CONNECTION}.", None),
    ],
)
def test_an_id_is_a_seq_and_a_connection(text: str, read: Any) -> None:
    assert read_event_id(text) == read


# The transport.


def test_the_socket_is_taken_over(http: FakeHttp, transport: SseTransport) -> None:
    assert (http.listener, http.streams) == (transport, True)


@pytest.mark.parametrize(
    ("taken", "in_flight", "is_gone"),
    [((0, 100, 100), True, True), ((0, 100, 200), True, False), ((0, 100, 100), False, False), ((0, 0), True, True)],
)
def test_a_peer_is_gone_that_confirms_nothing_of_what_is_in_flight(
    monkeypatch: pytest.MonkeyPatch, *, taken: tuple[int, ...], in_flight: bool, is_gone: bool
) -> None:
    """One that has no room is alive, and nothing is in flight to it: it is a slow consumer by another rule."""
    known = iter(TcpProgress(bytes_taken, 1000, waits=True, in_flight=in_flight) for bytes_taken in taken)
    monkeypatch.setattr(TcpProgress, "of", lambda _transport: next(known))
    http, listener = FakeHttp(), Listener()
    transport = SseTransport(http.protocol)
    transport.begin(CONNECTION, silence_seconds=50)
    transport.attach(listener)
    for number in range(len(taken) - 1):
        seconds, check = http.timers[number]
        assert (seconds, http.aborted) == (50, False)
        check()
    assert http.aborted == is_gone
    assert listener.calls == ([(1011, "heartbeat_timeout")] if is_gone else [])


def test_the_silence_of_a_stream_that_is_over_is_not_checked(http: FakeHttp, transport: SseTransport) -> None:
    transport.disconnected()
    assert http.cancelled


def test_a_socket_that_is_full_says_so_and_reports_when_it_has_drained(http: FakeHttp, transport: SseTransport) -> None:
    listener = Listener()
    transport.attach(listener)
    http.is_full = True
    assert not transport.write_frames(FrameBatch(prepared(1)))
    transport.drained()
    assert listener.calls == ["drained"]


def test_a_close_is_the_last_message_and_the_client_has_a_while_to_read_it(
    http: FakeHttp, transport: SseTransport
) -> None:
    assert transport.close_stream(CloseReason.TOKEN_EXPIRED)
    assert messages(http.chunks[-1]) == [{"data": '{"type":"close","code":1008,"reason":"token_expired"}'}]
    assert http.abort_seconds == 10
    assert transport.over.is_set()
    assert not transport.close_stream(CloseReason.KICKED)
    assert not transport.write_frames(FrameBatch(prepared(1)))
    assert len(http.chunks) == 1


def test_a_node_that_stops_closes_the_stream_and_its_connection_learns_it(transport: SseTransport) -> None:
    listener = Listener()
    transport.attach(listener)
    transport.shut_down()
    transport.end(CloseReason.KICKED)
    assert listener.calls == [(1012, "shutting_down")]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_client_that_is_gone_is_reported_also_where_the_stream_had_not_begun(
    transport: SseTransport, when: str
) -> None:
    listener = Listener()
    if when == "after":
        transport.attach(listener)
    transport.disconnected()
    if when == "before":
        transport.attach(listener)
    assert listener.calls == [(1006, "")]
    assert transport.over.is_set()
    assert not transport.write_frames(FrameBatch(prepared(1)))


def test_a_connection_on_it_is_sent_the_events_of_its_group(http: FakeHttp, transport: SseTransport) -> None:
    hub = fake_hub(StreamSettings(), position=4)
    connection, _ = connect(hub, transport=transport)
    connection.open(FrameBatch(Frame("welcome", None, b'{"type":"welcome"}')))
    hub.broadcast([prepared(5)])
    http.is_full = True
    hub.broadcast([prepared(6)])
    assert hub.lagging == 1
    connection.close(CloseReason.SLOW_CONSUMER)
    sent = [message["data"].split(",")[0] for message in messages(b"".join(http.chunks))]
    assert sent == [
        '{"type":"welcome"}',
        '{"type":"caught_up"',
        '{"type":"event"',
        '{"type":"event"',
        '{"type":"close"',
    ]


# The response.


async def test_a_response_lasts_until_its_stream_is_over(http: FakeHttp) -> None:
    sent: list[dict[str, Any]] = []
    opened: asyncio.Queue[SseTransport] = asyncio.Queue()

    @asynccontextmanager
    async def reserved() -> AsyncIterator[Callable[[SseTransport], None]]:
        sent.append({"type": "reserved"})
        yield opened.put_nowait
        sent.append({"type": "room is free"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "extensions": {EXTENSION: {"transport": lambda: http}}}
    answering = asyncio.create_task(SseResponse(reserved())(scope, cast("Any", None), send))
    transport = await opened.get()
    assert [message["type"] for message in sent] == ["reserved", "http.response.start", "room is free"]
    assert not answering.done()
    transport.end(CloseReason.KICKED)
    await answering
    assert sent[-1] == {"type": "http.response.body", "body": b""}


async def test_a_refusal_comes_before_anything_is_sent(http: FakeHttp) -> None:
    @asynccontextmanager
    async def reserved() -> AsyncIterator[Callable[[SseTransport], None]]:
        raise Overloaded("full")
        yield

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope: Any = {"type": "http", "extensions": {EXTENSION: {"transport": lambda: http}}}
    with pytest.raises(Overloaded):
        await SseResponse(reserved())(scope, cast("Any", None), send)
