from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from service.events.log import Event
from service.events.position import Position
from service.stream import frames

pytestmark = pytest.mark.unit

AT = datetime(2026, 11, 21, 9, 41, 7, 5, tzinfo=UTC)

SEVENTH = Position(7, -2)
ONE_OF_EACH: dict[str, tuple[frames.Frame, dict[str, Any]]] = {
    "welcome": (
        frames.welcome(
            connection="c",
            recipient="alice",
            head=2,
            after=Position(1, 0x1122334400000000),
            heartbeat_seconds=15,
            token_expires_at=AT,
            event_bytes=2,
            limits={"message_bytes": 1},
        ),
        {
            "connection": "c",
            "recipient": "alice",
            "head": 2,
            "after": 1,
            "cursor": "1-11223344",
            "heartbeat_seconds": 15,
            "token_expires_at": "2026-11-21T09:41:07.000005Z",
            "event_bytes": 2,
            "limits": {"message_bytes": 1},
        },
    ),
    "event": (
        frames.prepare(
            Event(
                *SEVENTH, uuid.uuid4(), "alert.created", "default", "info", None, 'the "actor"', AT, b'{"title": "a"}'
            )
        ),
        {
            "seq": 7,
            "cursor": "7-ffffffff",
            "id": "fffffffffffffffe",
            "kind": "alert.created",
            "at": "2026-11-21T09:41:07.000005Z",
            "actor": 'the "actor"',
            "alert": {"title": "a"},
        },
    ),
    "caught_up": (frames.caught_up(SEVENTH), {"seq": 7, "cursor": "7-ffffffff"}),
    "heartbeat": (
        frames.heartbeat(SEVENTH, AT),
        {"seq": 7, "cursor": "7-ffffffff", "at": "2026-11-21T09:41:07.000005Z"},
    ),
    "gap": (frames.gap(1, 9), {"from": 1, "to": 9, "reason": "purged"}),
    "reset": (frames.reset(SEVENTH, is_common=True), {"after": 7, "cursor": "7-ffffffff"}),
    "presence": (
        frames.presence([{"recipient": "bob"}], ["carol"], changed=[{"recipient": "dave"}], present=3, truncated=False),
        {
            "joined": [{"recipient": "bob"}],
            "left": ["carol"],
            "changed": [{"recipient": "dave"}],
            "present": 3,
            "truncated": False,
        },
    ),
    "authenticated": (frames.authenticated(AT), {"token_expires_at": "2026-11-21T09:41:07.000005Z"}),
    "pong": (frames.pong([1, None]), {"data": [1, None]}),
    "error": (frames.error("ack_ahead", "no", 1), {"code": "ack_ahead", "detail": "no", "retry_after": 1}),
}


def parse(data: bytes) -> list[Frame]:
    client = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN, max_size=None)
    client.receive_data(data)
    assert client.parser_exc is None
    return [event for event in client.events_received() if isinstance(event, Frame)]


def batch(*payloads: bytes) -> frames.FrameBatch:
    return frames.FrameBatch(*(frames.Frame("event", None, payload) for payload in payloads))


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 255, 256, 65_534, 65_535, 65_536, 65_537, 1 << 20])
def test_a_client_library_reads_a_text_message_of_every_length(size: int) -> None:
    payload = b"x" * size
    message = batch(payload).text_messages
    assert parse(message) == [Frame(Opcode.TEXT, payload)]
    assert message == Frame(Opcode.TEXT, payload).serialize(mask=False)


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_messages_that_leave_in_one_write_are_read_one_by_one(payloads: list[bytes]) -> None:
    assert [frame.data for frame in parse(batch(*payloads).text_messages)] == payloads


def test_every_type_of_frame_is_here() -> None:
    assert tuple(ONE_OF_EACH) == frames.SERVER_FRAMES


def test_a_reset_of_everything_names_no_seq() -> None:
    frame = frames.reset(SEVENTH, is_common=False)
    assert (json.loads(frame.payload)["after"], frame.position) == (None, SEVENTH)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_a_frame_is_one_json_object_with_its_type_first(kind: str) -> None:
    frame, fields = ONE_OF_EACH[kind]
    assert frame.type == kind
    assert list(json.loads(frame.payload).items()) == [("type", kind), *fields.items()]


@given(actor=st.text(min_size=1), body=st.dictionaries(st.text(), st.text()), indent=st.none() | st.integers(0, 3))
@settings(deadline=None)
def test_an_event_carries_the_text_of_its_body_as_the_log_holds_it(
    actor: str, body: dict[str, str], indent: int | None
) -> None:
    text = json.dumps(body, indent=indent, ensure_ascii=False).encode()
    event = Event(1, 5, uuid.uuid4(), "alert.created", "default", "info", None, actor, AT, text)
    [frame] = parse(frames.FrameBatch(frames.prepare(event)).text_messages)
    assert bytes(frame.data).endswith(b'"alert":' + text + b"}")
    assert json.loads(bytes(frame.data))["actor"] == actor
