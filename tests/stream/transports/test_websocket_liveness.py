"""Whether a WebSocket client is alive that has not answered a ping: on a fake socket, whose clock the tests move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from uvicorn.server import ServerState
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode
from websockets.protocol import State

from service.errors import CloseReason
from service.http.server_config import ServerConfig
from service.http.tcp_progress import TcpProgress
from service.stream.frames import Frame, FrameBatch
from service.stream.transports import websocket
from service.stream.transports.websocket import SLOWEST_READER, WebSocketTransport

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

pytestmark = pytest.mark.unit

INTERVAL, TIMEOUT = 20, 20


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at, self.callback = at, callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """A clock, and what is to be called at which time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> Timer:
        self.timers.append(Timer(self.now + seconds, lambda: callback(*arguments)))
        return self.timers[-1]

    def call_soon(self, callback: Callable[[], None]) -> Timer:
        return self.call_later(0, callback)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((timer for timer in self.timers if timer.at <= end), key=lambda timer: timer.at):
            self.timers.remove(due[0])
            if not due[0].is_cancelled:
                self.now = max(self.now, due[0].at)
                due[0].callback()
        self.now = end


class Socket:
    """The socket of the node, and what its kernel knows of the client."""

    def __init__(self) -> None:
        self.data = b""
        self.taken = self.not_taken = 0
        self.in_flight = self.is_closed = False

    def progress(self) -> TcpProgress:
        return TcpProgress(self.taken, self.taken + self.not_taken, waits=self.not_taken > 0, in_flight=self.in_flight)

    def write(self, data: bytes) -> None:
        self.data += data

    def get_extra_info(self, _name: str) -> None:
        """Know nothing."""

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def resume_reading(self) -> None:
        """Do nothing: what a test hands over is read."""

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Listener:
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.may_send = True

    @property
    def drains(self) -> int:
        return self.calls.count("drained")

    def receive(self, text: str | None) -> None:
        self.calls.append(text)

    def count_frame(self) -> None:
        """Do nothing."""

    def drained(self) -> None:
        self.calls.append("drained")

    def part_sent(self, seq: int) -> None:
        self.calls.append(seq)

    def disconnected(self, code: int, reason: str) -> None:
        self.calls.append((code, reason))


class Case:
    """An open stream, whose first ping was sent a moment ago."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, socket: Socket | None = None) -> None:
        self.loop, self.socket, self.listener = Loop(), socket or Socket(), Listener()
        monkeypatch.setattr(websocket, "TcpProgress", Kernel(self.socket))
        config = ServerConfig(
            cast("Any", None), interface="asgi3", log_config=None, ws_ping_interval=INTERVAL, ws_ping_timeout=TIMEOUT
        )
        config.load()
        self.transport = WebSocketTransport(config, ServerState(), {}, cast("asyncio.AbstractEventLoop", self.loop))
        self.transport.connection_made(cast("Any", self.socket))
        core = self.transport.conn
        core.state = State.OPEN
        core.parser = core.parse()  # of frames, no longer of a handshake
        next(core.parser)
        self.transport.handshake_initiated = self.transport.handshake_complete = True
        self.transport.listener = self.listener
        self.transport.queue = cast("Any", websocket._Handover(self.listener))
        self.socket.taken = 500

    def ping(self) -> None:
        self.transport.start_keepalive()
        self.loop.pass_time(INTERVAL)
        assert self.transport.pending_ping_payload is not None

    def write(self, size: int) -> None:
        """Write to the client, whatever it has read."""
        self.transport._window.unbound()
        assert self.transport.write_frames(FrameBatch(Frame("event", None, b"x" * size)))

    def send(self, opcode: Opcode, data: bytes) -> None:
        self.transport.data_received(WebSocketFrame(opcode, data).serialize(mask=True))

    @property
    def is_open(self) -> bool:
        reasons = [call for call in self.listener.calls if isinstance(call, tuple)]
        assert reasons in ([], [(1011, CloseReason.HEARTBEAT_TIMEOUT.reason)])
        return not reasons


class Kernel(TcpProgress):
    """What ``TcpProgress.of`` says of the fake socket."""

    def __new__(cls, fake: Socket) -> Any:
        class Fake(TcpProgress):
            @classmethod
            def of(cls, _transport: Any) -> TcpProgress:
                return fake.progress()

        return Fake


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(monkeypatch)


def test_a_client_that_does_nothing_is_closed_once_the_time_is_over(case: Case) -> None:
    case.ping()
    case.loop.pass_time(TIMEOUT - 1)
    assert case.is_open
    case.loop.pass_time(1)
    assert not case.is_open
    assert case.socket.is_closed


def test_a_client_that_answers_stays(case: Case) -> None:
    case.transport.start_keepalive()
    for _ in range(10):
        case.loop.pass_time(INTERVAL)
        assert case.transport.pending_ping_payload is not None
        case.send(Opcode.PONG, case.transport.pending_ping_payload)
    assert case.is_open


def test_a_client_that_sends_anything_stays_as_long_as_it_does(case: Case) -> None:
    case.ping()
    for _ in range(10):
        case.loop.pass_time(TIMEOUT - 1)
        case.send(Opcode.TEXT, b'{"type":"ack","seq":1}')
    assert case.is_open
    case.loop.pass_time(2 * TIMEOUT)
    assert not case.is_open


def test_a_client_whose_side_takes_what_waits_stays_as_long_as_it_does(case: Case) -> None:
    case.socket.not_taken = 100_000
    case.write(100_000)
    case.ping()
    for _ in range(10):
        case.loop.pass_time(TIMEOUT)
        case.socket.taken += 100
        case.socket.not_taken -= 100
    assert case.is_open


def test_what_a_frozen_client_s_kernel_takes_at_once_is_no_sign_of_life(case: Case) -> None:
    case.ping()
    case.socket.taken += 100  # a heartbeat
    case.loop.pass_time(TIMEOUT)
    assert not case.is_open


def test_a_client_has_time_to_read_what_reached_it_before_the_ping(case: Case) -> None:
    case.write(200 * SLOWEST_READER)
    case.ping()
    case.loop.pass_time(199)
    assert case.is_open
    case.loop.pass_time(TIMEOUT + 1)
    assert not case.is_open


def test_what_was_before_an_answered_ping_has_been_read(case: Case) -> None:
    case.write(200 * SLOWEST_READER)
    case.ping()
    case.send(Opcode.PONG, case.transport.pending_ping_payload or b"")
    case.loop.pass_time(INTERVAL + TIMEOUT)
    assert not case.is_open


def test_a_client_whose_network_is_gone_is_closed_though_it_has_much_to_read(case: Case) -> None:
    case.socket.taken, case.socket.not_taken = 200 * SLOWEST_READER, 1000
    case.socket.in_flight = True
    case.ping()
    case.loop.pass_time(TIMEOUT)
    assert not case.is_open


def test_a_full_socket_is_left_to_the_judgement_of_the_stream(case: Case) -> None:
    case.transport.pause_writing()
    case.ping()
    case.loop.pass_time(10 * TIMEOUT)
    assert case.is_open
    case.transport.resume_writing()
    case.loop.pass_time(2 * TIMEOUT)
    assert not case.is_open


def test_the_last_ping_to_a_full_socket_is_answered_once_it_drains_and_before_anything_else(case: Case) -> None:
    case.transport.pause_writing()
    for data in (b"1", b"2", b"3"):
        case.send(Opcode.PING, data)
    assert case.socket.data == b""
    case.transport.resume_writing()
    assert case.socket.data == WebSocketFrame(Opcode.PONG, b"3").serialize(mask=False)
    assert case.listener.calls == ["drained"]
    case.transport.pause_writing()
    case.transport.resume_writing()
    assert case.socket.data == WebSocketFrame(Opcode.PONG, b"3").serialize(mask=False)
