"""What is written to a client, by how it reads and answers pings: on a fake socket, whose clock the tests move."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from service.errors import CloseReason
from service.stream import frames
from service.stream.frames import FrameBatch
from service.stream.transports.read_window import SMALLEST_BYTES, START_BYTES
from service.stream.transports.windowed_websocket import FIRST_ANSWER_SECONDS, RETRY_SECONDS
from tests.stream.fakes import prepared
from tests.stream.transports.test_websocket import parse
from tests.stream.transports.test_websocket_liveness import Case, Socket

pytestmark = pytest.mark.unit

EVENT_BYTES = 1_000


class SmallSocket(Socket):
    """A socket whose kernel takes ``room`` more bytes; the event loop keeps what it does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 1 << 30
        self.buffer = b""
        self.case: WindowCase | None = None

    def write(self, data: bytes) -> None:
        was_full = bool(self.buffer)
        self.buffer += data
        self._move()
        if self.buffer and not was_full and self.case is not None:
            self.case.transport.pause_writing()

    def _move(self) -> None:
        moved, self.buffer = self.buffer[: self.room], self.buffer[self.room :]
        self.room -= len(moved)
        self.data += moved

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def make_room(self, size: int) -> None:
        """Take more, and say so once everything has gone."""
        self.room += size
        was_full = bool(self.buffer)
        self._move()
        if was_full and not self.buffer and self.case is not None:
            self.case.transport.resume_writing()


class WindowCase(Case):
    """An open stream, and the frames that have arrived at its client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch, socket := SmallSocket())
        self.small, socket.case = socket, self
        self._client = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN, max_size=None)
        self._parsed = 0
        self._pings: list[bytes] = []
        self._seqs: list[int] = []

    def _parse(self) -> None:
        data, self._parsed = self.socket.data[self._parsed :], len(self.socket.data)
        self._client.receive_data(data)
        for event in self._client.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.PING:
                self._pings.append(bytes(event.data))
            elif event.opcode is Opcode.TEXT and (text := orjson.loads(bytes(event.data)))["type"] == "event":
                self._seqs.append(text["seq"])

    def answer(self) -> bool:
        """Answer the ping that has arrived and was not answered, if there is one."""
        self._parse()
        pings, self._pings = self._pings, []
        for ping in pings:
            self.send(Opcode.PONG, ping)
        return bool(pings)

    def offer(self, first: int, count: int) -> bool:
        """Write events, as the stream does, and let the loop turn."""
        events = [prepared(seq, size=EVENT_BYTES) for seq in range(first, first + count)]
        taken = self.transport.write_frames(FrameBatch(*events))
        self.loop.pass_time(0)
        return taken

    @property
    def seqs(self) -> list[int]:
        """The events that have gone to the socket."""
        self._parse()
        return list(self._seqs)


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> WindowCase:
    """A client that has answered its first ping."""
    case = WindowCase(monkeypatch)
    assert case.offer(1, 2)
    assert case.answer()
    return case


def test_a_connection_has_no_more_attributes_beside_its_slots_than_share_their_names(case: WindowCase) -> None:
    assert len(vars(case.transport)) <= 30


def test_what_exceeds_the_window_is_held_and_follows_in_whole_frames_as_the_client_answers(case: WindowCase) -> None:
    assert not case.offer(3, 500)
    assert START_BYTES <= len(case.socket.data) < START_BYTES + 4 * EVENT_BYTES
    assert case.listener.calls[-1] == case.seqs[-1] < 502
    while case.answer():
        assert case.listener.calls[-1] in (case.seqs[-1], "drained")
    assert case.seqs == list(range(1, 503))
    assert case.listener.calls[-1] == "drained"
    assert case.listener.drains == 1


def test_a_batch_that_fits_leaves_in_one_write(case: WindowCase) -> None:
    for first in range(3, 1_000, 10):
        assert case.offer(first, 10)
        case.answer()
    assert case.seqs == list(range(1, 1_003))
    assert case.listener.calls == []


def test_a_client_that_has_never_answered_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case = WindowCase(monkeypatch)
    assert not case.offer(1, 500)
    case.loop.pass_time(FIRST_ANSWER_SECONDS - 0.1)
    assert len(case.seqs) < 100
    case.loop.pass_time(0.1)
    assert case.seqs == list(range(1, 501))
    assert case.listener.calls[-1] == "drained"
    assert case.offer(501, 5_000)


def test_a_client_that_answers_late_is_sent_little_at_a_time(case: WindowCase) -> None:
    assert not case.offer(3, 500)
    while len(case.seqs) < 400:
        before = len(case.socket.data)
        case.loop.pass_time(10)
        assert case.answer()
    assert len(case.socket.data) - before <= SMALLEST_BYTES + 2 * EVENT_BYTES


def test_nothing_that_is_held_is_sent_while_the_node_may_not_send(case: WindowCase) -> None:
    assert not case.offer(3, 500)
    before = case.seqs
    case.listener.may_send = False
    case.answer()
    case.loop.pass_time(10 * RETRY_SECONDS)
    assert case.seqs == before
    case.listener.may_send = True
    case.loop.pass_time(RETRY_SECONDS)
    assert len(case.seqs) > len(before)


def test_answers_go_ahead_of_what_is_held(case: WindowCase) -> None:
    assert not case.offer(3, 500)
    before = len(case.socket.data)
    case.send(Opcode.PING, b"mine")
    assert case.transport.write_frames(FrameBatch(frames.pong("mine")))
    [protocol_pong, pong] = parse(case.socket.data[before:])
    assert (protocol_pong.opcode, bytes(protocol_pong.data)) == (Opcode.PONG, b"mine")
    assert b'"mine"' in bytes(pong.data)


def test_answers_to_messages_are_never_held(case: WindowCase) -> None:
    for number in range(200):
        assert case.transport.write_frames(FrameBatch(frames.pong(f"{number:1000}")))
    assert len(case.socket.data) > 2 * START_BYTES
    assert case.listener.calls == []


def test_nothing_that_is_held_follows_a_close(case: WindowCase) -> None:
    assert not case.offer(3, 500)
    before = case.seqs
    case.transport.close_stream(CloseReason.SLOW_CONSUMER)
    case.answer()
    case.loop.pass_time(100)
    assert case.seqs == before
    case.transport.connection_lost(None)
    assert not case.transport._held


def test_a_client_for_which_events_are_held_is_left_to_the_judgement_of_the_stream(case: WindowCase) -> None:
    assert not case.offer(3, 500)
    case.transport.start_keepalive()
    before = case.transport.taken_bytes()
    case.loop.pass_time(1_000)
    assert case.is_open
    assert case.transport.taken_bytes() == before
    case.send(Opcode.TEXT, b'{"type":"ack","seq":1}')
    assert case.transport.taken_bytes() > before
    before = case.transport.taken_bytes()
    case.answer()
    assert case.transport.taken_bytes() > before + START_BYTES // 3


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_however_a_client_reads_every_event_goes_once_in_order_and_none_counts_as_sent_before(seed: int) -> None:
    """The client stops, goes on, answers late or never; its socket fills and drains; the node may not send."""
    choose = random.Random(seed)
    answers = choose.random() < 0.8
    with pytest.MonkeyPatch.context() as monkeypatch:
        case = WindowCase(monkeypatch)
        case.small.room = choose.choice([0, 2_000, 1 << 30])
        written = 0
        is_waiting, drains = False, 0
        for _ in range(80):
            if not is_waiting:
                drains = case.listener.drains
                count = choose.choice([1, 5, 40])
                is_waiting = not case.offer(written + 1, count)
                written += count
            if answers and choose.random() < 0.4:
                case.answer()
            if choose.random() < 0.5:
                case.small.make_room(choose.choice([100, 3_000, 30_000]))
            case.listener.may_send = choose.random() < 0.8
            case.loop.pass_time(choose.choice([0, 0, 0.01, 0.3, 1.5]))
            is_waiting = is_waiting and case.listener.drains == drains
            assert_true_to_the_socket(case, written, is_waiting=is_waiting)
        case.listener.may_send = True
        case.small.make_room(1 << 30)
        case.loop.pass_time(FIRST_ANSWER_SECONDS + RETRY_SECONDS)
        while answers and case.answer():
            case.loop.pass_time(0.01)
        assert case.seqs == list(range(1, written + 1))


def assert_true_to_the_socket(case: WindowCase, written: int, *, is_waiting: bool) -> None:
    gone = case.seqs
    assert gone == list(range(1, len(gone) + 1))
    parts = [call for call in case.listener.calls if isinstance(call, int)]
    assert parts == sorted(set(parts))
    assert not parts or parts[-1] <= len(gone)
    if not is_waiting:
        assert len(gone) == written
