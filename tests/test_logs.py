from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import CapturingLogger

from service.logs import REFUSED_LINES, REFUSED_LINES_PER_CLIENT, RefusedRequests, redact
from tests.harness import Process, token

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = token("alice")
SECRET_PARTS = TOKEN.split(".")[1:]

# Log each text of a list in every way that a record can carry it.
SPEAKER = """
import json, logging, sys
from service import logs
logs.configure("info", sys.argv[1])
ours, theirs = logs.get_logger("ours"), logging.getLogger("uvicorn.error")
for text in json.load(sys.stdin):
    ours.info(text, detail=text)
    theirs.info("%s", text)
    theirs.info(text)
    try:
        raise ValueError(text)
    except ValueError:
        ours.exception("it failed")
        theirs.exception("it failed")
"""


def spoken(texts: list[str], log_format: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", SPEAKER, log_format], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert run.stdout == ""
    return run.stderr


pieces = st.sampled_from([*"abe.J _-=&?/\"'%3D,:;\n\t", "Bearer ", "bearer.", "token=", "eyJ", "eyJhbGciOiJI", "é"])
words = st.lists(pieces, max_size=12).map("".join)


@pytest.mark.unit
@given(words, words)
def test_a_token_is_taken_out_wherever_it_stands(before: str, after: str) -> None:
    cleaned = redact(before + TOKEN + after)
    assert not [part for part in SECRET_PARTS if part in cleaned]
    assert "[redacted]" in cleaned


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("GET /v1/ws?token=abc&after=5 101", "GET /v1/ws?token=[redacted]&after=5 101"),
        ("GET /v1/ws?after=5&access_token=abc", "GET /v1/ws?after=5&access_token=[redacted]"),
        ("GET /v1/ws?%74%6F%6b%65%6e=abc", "GET /v1/ws?%74%6F%6b%65%6e=[redacted]"),
        ("GET /?code=abc&state=def 200", "GET /?code=[redacted]&state=def 200"),
        ("GET /?state=def&code=abc 200", "GET /?state=def&code=[redacted] 200"),
        ("GET /v1/names?subject=alice%40a.example&subject=bob", "GET /v1/names?subject=[redacted]&subject=[redacted]"),
        ("closed with code=1008, by a subject=alice", None),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("Sec-WebSocket-Protocol: tocsin.v1, bearer.abc, x", "Sec-WebSocket-Protocol: tocsin.v1, bearer.[redacted], x"),
        (f"at {TOKEN}.", "at [redacted]"),
        ("token%3D" + TOKEN, "token%3D[redacted]"),
        ("tokens: 5, the bearers of bad news, eyJ, keyboards.example", None),
    ],
)
def test_what_is_around_a_token_stays(text: str, cleaned: str | None) -> None:
    assert redact(text) == (cleaned or text)


HOSTILE = [
    f"GET /v1/ws?token={TOKEN}",
    f"Bearer {TOKEN}",
    TOKEN,
    'one\n{"event": "forged", "level": "info"}',
    "one\r\n2026-11-21 [info     ] forged",
    "\x1b[2J\x1b[1;31mforged\x07\x08\x00\x7f\x9b31m",
    "right \u202eto left \u2066 and \u2028 lines \u2029 \x85 apart",
    "\ud800",
    "{} %s %d {0} \\n",
]


def test_a_json_log_is_one_object_a_line() -> None:
    lines = [json.loads(line) for line in spoken(HOSTILE, "json").splitlines()]
    assert len(lines) == 5 * len(HOSTILE)
    assert {line["level"] for line in lines} == {"info", "error"}
    assert "forged" not in {line["event"] for line in lines}
    assert all({"timestamp", "logger", "event"} <= {*line} for line in lines)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_token_and_no_control_character_reaches_a_log(log_format: str) -> None:
    output = spoken(HOSTILE, log_format)
    assert not [part for part in SECRET_PARTS if part in output]
    unstyled = re.sub(r"\x1b\[[0-9;]*m", "", output) if log_format == "text" else output
    assert not [character for character in unstyled if not character.isprintable() and character != "\n"]
    assert "\u202e" not in output


def test_a_text_log_has_one_line_an_event() -> None:
    texts = [text for text in HOSTILE if "\n" in text]
    lines = spoken(texts, "text").splitlines()
    stamped = [line for line in lines if re.match(r"\S*\d{4}-\d\d-\d\d", line)]
    assert len(stamped) == 5 * len(texts)
    assert not [line for line in lines if line.startswith('{"event": "forged"')]


# Floods.


def access(client: str, status: int, target: str = "/nope") -> logging.LogRecord:
    """Return a record of uvicorn's access log."""
    arguments = (f"{client}:4711", "GET", target, "1.1", status)
    return logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', arguments, None)


@pytest.mark.unit
@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
def test_refused_requests_of_one_address_are_logged_up_to_a_bound(status: int) -> None:
    refused = RefusedRequests()
    logged = [refused.filter(access("192.0.2.1", status)) for _ in range(2 * REFUSED_LINES_PER_CLIENT)]
    assert logged == [True] * REFUSED_LINES_PER_CLIENT + [False] * REFUSED_LINES_PER_CLIENT
    assert refused.filter(access("192.0.2.2", status))
    assert refused.filter(access("192.0.2.1", 200))


@pytest.mark.unit
def test_refused_requests_of_many_addresses_are_logged_up_to_a_bound() -> None:
    refused = RefusedRequests()
    logged = [refused.filter(access(f"2001:db8::{number:x}", 401)) for number in range(2 * REFUSED_LINES)]
    assert sum(logged) == REFUSED_LINES


@pytest.mark.unit
def test_the_lines_of_a_new_minute_begin_with_how_many_were_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused, log, now = RefusedRequests(), CapturingLogger(), 1000.0
    monkeypatch.setattr("service.logs._log", log)
    monkeypatch.setattr("service.logs.time.monotonic", lambda: now)
    for _ in range(REFUSED_LINES_PER_CLIENT + 7):
        refused.filter(access("192.0.2.1", 404))
    now += 60
    assert refused.filter(access("192.0.2.1", 404))
    assert [call.kwargs for call in log.calls] == [{"client": "192.0.2.1"}, {"requests": 7}]


@pytest.mark.unit
def test_warnings_about_what_is_no_http_are_bounded_too() -> None:
    refused = RefusedRequests()
    record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Invalid HTTP request received.", None, None)
    assert sum(refused.filter(record) for _ in range(2 * REFUSED_LINES_PER_CLIENT)) == REFUSED_LINES_PER_CLIENT


async def test_a_flood_of_refusals_writes_little_to_the_log(start: Callable[..., Process]) -> None:
    process = start(TOCSIN_AUTH_FAILURE_LIMIT="5/hour", TOCSIN_ANONYMOUS_LIMIT="5/hour")
    with process.rest() as client:
        for _ in range(REFUSED_LINES_PER_CLIENT + 20):
            client.get(f"/{'x' * 4000}")
    for headers in ("Host: x\r\n", "Host: x\r\nOrigin: http://x:8000\r\n"):  # of the second, the log says what to set
        for _ in range(20):
            await rejected(process, headers)
    await asyncio.to_thread(process.stop)
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    refused = [line for line in lines if re.search(r" (404|429)$", line["event"])]
    assert len(refused) == REFUSED_LINES_PER_CLIENT
    handshakes = [line["event"] for line in lines if re.search("handshake|WebSocket|origin", line["event"])]
    assert handshakes == ["handshake rejected"] * 5


async def rejected(process: Process, headers: str) -> None:
    """Open a stream that is rejected, and read its close frame."""
    address = urlsplit(process.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        f"GET /v1/ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n".encode()
    )
    await reader.readuntil(b"\x88")
    writer.transport.abort()
