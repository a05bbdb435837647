"""The bytes that the clients send, prepared once: requests, handshakes, acks; and how an event frame is recognised."""

from __future__ import annotations

import json

ALERT_BYTES = 250
EVENT = b'{"type":"event","seq":'
"""How every event frame begins, whoever sends it; alerts of the benchmark do not hold it."""


HEADER_BYTES = 4
"""What stands before the text of a frame of 126 to 65,535 bytes (RFC 6455, section 5.2)."""


def alert_json() -> bytes:
    """Return the alert that is posted: 250 bytes, of which the body is what it takes to reach them."""
    alert = {
        "title": "Card acceptance below 80 %",
        "topic": "payments.eu",
        "severity": "error",
        "body": "",
        "attributes": {"acquirer": "X", "rate": 0.78},
    }
    alert["body"] = "x" * (ALERT_BYTES - len(_json(alert)))
    return _json(alert)


def batch_json(alerts: int) -> bytes:
    """Return a batch of such alerts."""
    return b"[%b]" % b",".join([alert_json()] * alerts)


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def post(path: str, body: bytes, bearer: str | None = None) -> bytes:
    """Return a keep-alive POST (RFC 9112)."""
    authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def handshake(path: str, bearer: str | None = None) -> bytes:
    """Return the request that opens a WebSocket (RFC 6455, section 4.1)."""
    authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{authorization}\r\n"
    ).encode()


def ack(seq: int) -> bytes:
    """Return an acknowledgement as a masked text message; a mask of zeros leaves the payload as it is."""
    payload = b'{"type":"ack","seq":%d}' % seq
    return bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload


def pong(payload: bytes) -> bytes:
    """Return the answer to a ping."""
    return bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload


def text_message(payload: bytes) -> bytes:
    """Return ``payload``, 126 to 65,535 bytes, as a server sends it: one frame, not masked."""
    return bytes((0x81, 126)) + len(payload).to_bytes(2, "big") + payload


def payloads(data: bytes) -> tuple[list[bytes], bool]:
    """Return the text messages of a recorded stream, and whether it ends with a whole frame.

    The stream begins with the answer to the handshake. A frame that has not come entirely is left out.
    """
    at = data.index(b"\r\n\r\n") + 4
    found = []
    while at + 1 < len(data):
        opcode, size = data[at], data[at + 1]
        begin = at + 2
        if size >= 126:
            begin += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : begin], "big")
        if begin + size > len(data):
            break
        if opcode == 0x81:
            found.append(data[begin : begin + size])
        at = begin + size
    return found, at == len(data)
